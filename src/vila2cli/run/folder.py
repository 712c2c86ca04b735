"""What keeps a run honest: where its files are, and what decides them.

Existence means complete: `complete_folder` and `write_json` write aside, fsync and rename. A
folder says in manifest.json what it was made from; `claim` refuses to go on with anything else.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vila2cli import __version__
from vila2cli.errors import DataError, RecipeError
from vila2cli.files import MARK, PARTIAL, naming, one_at_a_time, sync_folder, sync_whole, write_atomically
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
    except NotADirectoryError:
        raise DataError(f"{out_dir} is there and is no folder; move it, or give another --out") from None
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
        back = "" if "scorer_version" in changed else "set them back, "  # those are of the program itself
        raise RecipeError(
            f"{out_dir} was made with other settings: {changed}; "
            f"{back}give another --out (to `vila2 run` another name in the recipe), "
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
    sync_whole(partial)
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


def append_log(path: Path, **figures: Any) -> None:
    """Add one line to a log.jsonl: the time in UTC and the figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **figures}, default=_plain)
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
