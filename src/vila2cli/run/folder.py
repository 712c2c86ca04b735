"""What keeps a run honest: where its files are, what decides them, and who writes them.

Existence means complete: `complete_folder` and `write_json` write aside, fsync and rename. A
folder says in manifest.json what it was made from; `claim` refuses to go on with anything else.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel

from vila2cli import __version__
from vila2cli.errors import DataError, RecipeError
from vila2cli.files import MARK, PARTIAL, naming, one_at_a_time, open_locked, sync_folder, write_atomically
from vila2cli.ranks import launched_worker, number
from vila2cli.run.changes import difference, model_of
from vila2cli.run.recipe_file import RECIPE_FILE, store_recipe
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.places import tar_stem

SCHEMA = 1
"""Raised when a change of code changes what the same inputs give; part of every digest."""

OURS = f"{MARK}folder"
"""The file in a partial folder that says it is ours, to go on from or to remove."""
RESULTS = (RECIPE_FILE, "summary.json", "metrics.json", "rejects.jsonl", "layer.json")
RESULTS_OF_SHARDS = (".rejects.jsonl", ".stats.json")
"""Files of a folder that a stage writes; where they are and no manifest.json, they are another's."""

T = TypeVar("T")

_LOCK_TRIES, _LOCK_WAIT_S = 25, 0.02


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run: `roundN/STAGE`, `specialists/NAME/...`, `final/STAGE` and `final-CONTROL/STAGE`."""

    root: Path

    def stage(self, name: str, round: int | str | None) -> Path:
        """The output of a stage in a round; None is the final training, a name a control of it."""
        return self.root / (f"round{round}" if isinstance(round, int) else round or "final") / name

    def captions(self, layer: str, round: int | str | None) -> Path:
        """The folder of a caption layer in a round."""
        return self.stage("recaption" if layer == "recaption" else f"recaption-{layer}", round)

    def specialist(self, name: str) -> Path:
        return self.root / "specialists" / name / "checkpoint"

    def relabel(self, name: str) -> Path:
        return self.root / "specialists" / name / "relabel"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def aligned(self) -> Path:
        """Where rounds share the projector that they align alike."""
        return self.root / "aligned"


def digest(value: Any) -> str:
    """SHA-256 of a value as canonical JSON; takes settings, dataclasses, paths, mappings and sequences."""
    text = json.dumps(value, default=_plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot digest a {type(value).__name__}")


# Work is split by shard.


@dataclass(frozen=True, slots=True)
class Worker:
    """Worker `index` of `count`."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_worker(text: str | None = None, environ: Mapping[str, str] | None = None) -> Worker:
    """Read `i/n`; without it take the Slurm array task and what `launched_worker` says, else 0/1.

    `auto/n` is this, too, and says how many there are. Raises RecipeError when the text is not `i/n` with
    0 <= i < n, when another number is counted, when the array has gaps, and as `launched_worker` does.
    """
    wanted = text.removeprefix("auto/") if text is not None and text.startswith("auto/") else ""
    if text is not None and not (wanted.isdecimal() and int(wanted)):
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise RecipeError(f"--worker {text}: write it as i/n with i from 0 to n-1, for example 0/4")
        return Worker(int(index), int(count))
    environ = os.environ if environ is None else environ
    array = _array_task(environ) if "SLURM_ARRAY_TASK_ID" in environ else Worker()
    task = launched_worker(environ, count=int(wanted) // array.count if wanted else None)
    worker = Worker(array.index * task.count + task.index, array.count * task.count)
    if wanted and worker.count != int(wanted):
        counted = f"there are {worker.count}" if worker.count > 1 else "nothing says which of them this is"
        raise RecipeError(f"--worker {text}: {counted}; write it as i/n")
    return worker


def who_counts(worker: Worker, environ: Mapping[str, str] | None = None) -> str:
    """Where the numbers of a worker come from, "" where it is the only one and nothing says otherwise."""
    environ = os.environ if environ is None else environ
    try:
        by_itself = parse_worker(f"auto/{worker.count}" if worker.count > 1 else None, environ)
    except RecipeError:  # of which --worker is the way out
        return "--worker"
    if worker != by_itself:
        return "--worker"
    array = _array_task(environ) if "SLURM_ARRAY_TASK_ID" in environ else Worker()
    in_array = f"task {array} of a Slurm array" if array.count > 1 else ""
    task = launched_worker(environ, count=worker.count // array.count)
    return ", ".join(filter(None, (in_array, task.how)))


def _array_task(environ: Mapping[str, str]) -> Worker:
    task = number(environ, "SLURM_ARRAY_TASK_ID")
    first = number(environ, "SLURM_ARRAY_TASK_MIN")
    step = max(1, number(environ, "SLURM_ARRAY_TASK_STEP", 1))
    count = number(environ, "SLURM_ARRAY_TASK_COUNT", 1)
    index = (task - first) // step
    if not 0 <= index < count:
        raise RecipeError(
            f"Slurm array task {task} is not one of {count} tasks counted from {first}: "
            "an array with gaps cannot be split evenly; give --worker i/n"
        )
    return Worker(index, count)


def select(shards: Sequence[T], worker: Worker) -> list[T]:
    """The worker's part: every n-th shard from its index on."""
    return list(shards[worker.index :: worker.count])


# What a folder was made from.


@dataclass(frozen=True, slots=True)
class Manifest:
    """What decides a folder's content, as stored in its manifest.json."""

    digest: str
    inputs: Mapping[str, Any]


def read_manifest(out_dir: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none; raises DataError when it cannot be read."""
    path = out_dir / "manifest.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(value["digest"], value["inputs"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); remove {out_dir} to start it over") from error


def claim(
    out_dir: Path, inputs: Mapping[str, Any], recipe: Recipe | None = None, *, model: str = ""
) -> Manifest:
    """Say what decides the content of a folder, or check that it is what was said the first time.

    `inputs` may nest and hold settings (`Settings.deciding()`), paths and digests. With a recipe
    the resolved settings are kept beside it as recipe.toml. Raises RecipeError naming all that
    differs (`model` by its path), and when the folder holds shards that no stage wrote there: an
    output has the names of its input, so writing into the input's folder would replace the pictures.
    """
    mine = to_manifest(inputs)
    out_dir.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(out_dir):  # workers start together
        stored = read_manifest(out_dir)
        if stored is None:
            _begin(out_dir, mine, recipe)
            return mine
    check_same(out_dir, stored.inputs, mine.inputs, model)
    return mine


def to_manifest(inputs: Mapping[str, Any]) -> Manifest:
    """The manifest that `claim` writes for these inputs."""
    plain = json.loads(json.dumps({**inputs, "schema": SCHEMA}, default=_plain))
    return Manifest(digest(plain), plain)


def check_same(out_dir: Path, stored: Mapping[str, Any], inputs: Mapping[str, Any], model: str = "") -> None:
    """Raise RecipeError naming all in which the inputs of a folder and those given now differ.

    `model` is the path of the one that would be asked now.
    """
    if changed := difference(stored, inputs, (model_of(out_dir), model)):
        raise RecipeError(
            f"{out_dir} was made with other settings: {changed}; "
            "set them back, give another --out (to `vila2 run` another name in the recipe), "
            "or remove the folder to start it over"
        )


def _begin(out_dir: Path, manifest: Manifest, recipe: Recipe | None) -> None:
    shard = next((path for path in out_dir.iterdir() if tar_stem(path)), None)
    if shard is not None:
        raise RecipeError(
            f"{out_dir} holds shards of something else ({shard.name}), which would be overwritten; "
            "give another --out"
        )
    names = sorted(path.name for path in out_dir.iterdir())
    if foreign := [name for name in names if name in RESULTS or name.endswith(RESULTS_OF_SHARDS)]:
        raise RecipeError(
            f"{out_dir} holds {foreign[0]} and no manifest.json of ours, and it would be overwritten; "
            "give another --out"
        )
    if recipe is not None:
        store_recipe(out_dir, recipe)
    value = {"digest": manifest.digest, "inputs": manifest.inputs, "vila2": __version__}
    write_text(out_dir / "manifest.json", json.dumps(value, indent=1, sort_keys=True) + "\n")


# Writing so that what is there is whole.


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, making its folder first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON whole or not at all; takes what `digest` takes."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=_plain) + "\n"
    # Half a character, as in a file's name that is not UTF-8, becomes the escape that JSON has for it.
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


@contextlib.contextmanager
def complete_folder(out_dir: Path, *, resume: bool = False) -> Iterator[Path]:
    """Yield `out_dir.partial` to write into; it becomes `out_dir` when the block ends well.

    What an interrupted run left there is removed first, unless `resume` says that the caller goes
    on from it. Raises DataError when `out_dir` is there already, or a partial one that is not ours.
    """
    if os.path.lexists(out_dir):
        raise DataError(f"{out_dir} is there already; give another --out or remove it")
    partial = out_dir.with_name(f"{out_dir.name}{PARTIAL}")
    _check_ours(partial)
    if partial.exists() and not resume:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / OURS).touch()
    yield partial
    for folder, _, names in os.walk(partial):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))
    partial.rename(out_dir)
    (out_dir / OURS).unlink(missing_ok=True)
    sync_folder(out_dir.parent)


def _check_ours(partial: Path) -> None:
    """Raise DataError for a partial folder that no run of ours has begun; an empty one is anybody's."""
    if not os.path.lexists(partial):
        return
    is_folder = partial.is_dir() and not partial.is_symlink()
    if not is_folder or (any(partial.iterdir()) and not (partial / OURS).is_file()):
        raise DataError(
            f"{partial} is there and was not made by vila2, which would write there; move it or give another "
            "--out"
        )


@contextlib.contextmanager
def lock(out_dir: Path, worker: Worker | None = None) -> Iterator[None]:
    """Keep other processes from writing the same output meanwhile: of workers the same part, and of
    those who split the work in another way, or not at all, any part.

    Raises DataError naming the process that holds it. The lock goes with the process, however it ends.
    """
    worker = worker or Worker()
    folder = out_dir.resolve()  # a link to it, or ".", is the same folder
    path = folder.with_name(f"{MARK}{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    with contextlib.ExitStack() as held:
        if worker.count == 1:
            held.enter_context(_held(path, out_dir, me))
        else:
            part = path.with_name(f"{MARK}{folder.name}.{worker.index}of{worker.count}.lock")
            held.enter_context(_held(part, out_dir, f"worker {worker}, {me}"))
            held.enter_context(_shared(path, out_dir, worker, me))
        yield


@contextlib.contextmanager
def _held(path: Path, out_dir: Path, me: str) -> Iterator[None]:
    """Hold a lock file alone."""
    stream = open_locked(path)
    if stream is None:
        raise DataError(f"{out_dir} is in use by {_holder(path)}; wait for it or stop it")
    with stream:
        _sign(stream, me)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _shared(path: Path, out_dir: Path, worker: Worker, me: str) -> Iterator[None]:
    """Hold a lock file together with the workers of the same split, which the first of them notes there."""
    split = f"{worker.count} workers"
    stream = None
    for _ in range(_LOCK_TRIES):  # others come and go
        first = open_locked(path)
        if first is not None:
            with first:
                _sign(first, f"{split}, the first of them {me}")
        stream = open_locked(path, shared=True, create=False)
        if stream is not None and _holder(path).startswith(f"{split},"):
            break
        if stream is not None:
            stream.close()
            stream = None
        time.sleep(_LOCK_WAIT_S)
    if stream is None:
        raise DataError(
            f"{out_dir} is in use by {_holder(path)}; worker {worker} has to wait for it, or stop it"
        )
    try:
        with stream:
            yield
    finally:
        last = open_locked(path, create=False)
        if last is not None:
            with last:
                path.unlink(missing_ok=True)


def _sign(stream: BinaryIO, who: str) -> None:
    with naming(Path(stream.name)):
        os.ftruncate(stream.fileno(), 0)
        os.write(stream.fileno(), who.encode())  # where a disk is full, closing would fail on what is unwritten


def _holder(path: Path) -> str:
    """Who a lock file says holds it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def append_log(path: Path, **figures: Any) -> None:
    """Add one line to a log.jsonl: the time in UTC and the figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **figures}, default=_plain)
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
