"""What lies beside shards: layer.json, and SHARD.stats.json, which tells of a tar's bytes and its origin.

Both may come from somewhere else, so what they hold is checked before anything is taken from it.
"""

import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt

from vila2cli.errors import DataError
from vila2cli.files import check_shape, parse_json, read_json, to_json_bytes, write_atomically
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.places import PACKED, PLAIN, folder, is_pipe, is_remote, join, local_path, tar_stem
from vila2cli.shards.streams import read_small

LAYER_FILE = "layer.json"


class _Place(BaseModel):
    name: str
    url: str
    relative: str = ""
    path: str = ""


class _Base(_Place):
    layers: list[_Place] = []


class _Layer(BaseModel):
    layer: str
    base: list[_Base]
    layers: list[_Place] = []
    digest: str = ""
    engine: str = ""
    packed: bool = False


class _Part(BaseModel):
    num_bytes: NonNegativeInt | None = None
    tag: str = ""
    sha256: str = ""


class _Unpacked(BaseModel):
    bytes: NonNegativeInt
    sha256: str


Counters = dict[str, NonNegativeInt]


class _Stats(BaseModel):
    layer: str = ""
    num_in: NonNegativeInt = Field(0, alias="in")
    out: NonNegativeInt = 0
    dropped: Counters = {}
    rejected: NonNegativeInt = 0
    reject_lines: NonNegativeInt = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    tokens: NonNegativeInt = 0
    bytes: NonNegativeInt = 0
    sha256: str = ""
    unpacked: _Unpacked | None = None
    made_from: dict[str, _Part] = {}
    finish_reasons: Counters = {}
    prompts: Counters = {}
    kept: Counters = {}
    chosen_by: Counters = {}
    defects: Counters = {}
    fallbacks: Counters = {}
    errors: Counters = {}


_PREFIXES = {
    "finish_": "finish_reasons",
    "prompt_": "prompts",
    "kept_": "kept",
    "by_": "chosen_by",
    "defect_": "defects",
    "fallback_": "fallbacks",
    "error_": "errors",
}
GROUPS = ("dropped", *_PREFIXES.values())
"""What stats files count by name."""


def check_layer_json(value: dict[str, Any], name: str) -> dict[str, Any]:
    """The content of a layer.json as it is; raises DataError where that is not what a layer.json holds."""
    check_shape(_Layer, value, name)
    return value


def read_layer_json(path: Path) -> dict[str, Any]:
    """What a layer.json holds; raises DataError as `check_layer_json` does."""
    return check_layer_json(read_json(path), str(path))


def read_stats(path: Path) -> dict[str, Any]:
    """What a stats file holds; raises DataError where that cannot be counts of a shard."""
    return _checked(read_json(path), str(path))


def _checked(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Stats as they are written now; once the counters of a group stood at the top, as kept_model."""
    nested: dict[str, Any] = {}
    for key, figure in value.items():
        group = next((group for prefix, group in _PREFIXES.items() if key.startswith(prefix)), "")
        if group and isinstance(figure, int):
            add_figures(nested, {group: {key.partition("_")[2]: figure}})
        else:
            nested[key] = figure
    check_shape(_Stats, nested, name)
    return nested


def add_figures(total: dict[str, Any], figures: Mapping[str, Any]) -> None:
    """Add the numbers among figures to those of `total`, and those of groups to its groups."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            add_figures(total.setdefault(name, {}), value)
        elif isinstance(value, int | float):
            total[name] = total.get(name, 0) + value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read once per process as long as size and time of change stay."""
    status = path.stat()
    return _file_sha256(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.cache
def _file_sha256(path: Path, num_bytes: int, mtime_ns: int, inode: int) -> str:
    stats = stats_path(path)
    known = read_stats(stats) if stats.is_file() else {}
    if (known.get("bytes"), known.get("mtime_ns")) == (num_bytes, mtime_ns) and known.get("sha256"):
        return str(known["sha256"])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def layer_tar(folder: Path, name: str) -> Path:
    """The tar of a shard in a layer folder: NAME.tar.gz where that is, else NAME.tar."""
    packed = folder / f"{name}{PACKED}"
    return packed if packed.is_file() else folder / f"{name}{PLAIN}"


def layer_tars(folder: Path) -> list[Path]:
    """The tars that we wrote in a folder, sorted; packed ones only in a layer, of which none is there twice.

    Raises DataError for one that is.
    """
    plain = sorted(folder.glob(f"*{PLAIN}"))
    packed = sorted(folder.glob(f"*{PACKED}")) if (folder / LAYER_FILE).is_file() else []
    refuse_both(folder, [*plain, *packed])
    return sorted([*plain, *packed])


def refuse_both(folder: str | Path, tars: Iterable[str | Path]) -> None:
    """Raise DataError where two tars are of one shard, packed and not."""
    twice = [stem for stem, number in Counter(map(tar_stem, tars)).items() if number > 1]
    if twice:
        raise DataError(
            f"{folder} holds {twice[0]}{PLAIN} and {twice[0]}{PACKED}, which are one shard; remove the one "
            f"that {twice[0]}.stats.json is not of"
        )


def stats_path(tar: Path) -> Path:
    """Where the counts of a shard lie: SHARD.stats.json beside SHARD.tar."""
    return tar.with_name(f"{tar_stem(tar)}.stats.json")


def recorded(place: str | Path) -> dict[str, Any]:
    """What the stats file beside a tar says of it, {} where there is none; of a remote one, for what it is."""
    text = str(place)
    if not is_remote(text):
        stats = stats_path(local_path(text))
        return read_stats(stats) if stats.is_file() else {}
    name = "" if is_pipe(text) else join(folder(text), f"{tar_stem(text)}.stats.json")
    data = read_small(name) if name else None
    try:
        value = {} if data is None else parse_json(data, name)
    except DataError:  # what a web server says instead of "there is no such file"
        return {}
    return _checked(value, name)


def check_whole(tar: Path) -> None:
    """Raise DataError for a local tar that is not as long as its stats file says."""
    check_length(tar, tar.stat().st_size, recorded(tar).get("bytes"))


def unpacked_bytes(record: Mapping[str, Any]) -> int | None:
    """How long a tar is when it is not packed, as its stats file says."""
    then = (record.get("unpacked") or record).get("bytes")
    return then if isinstance(then, int) else None


def digests_of(record: Mapping[str, Any]) -> set[str]:
    """The SHA-256 of a tar as its stats file says: of the file, and of what is packed in it."""
    return {str(part["sha256"]) for part in (record, record.get("unpacked") or {}) if part.get("sha256")}


def check_length(place: str | Path, num_bytes: int | None, then: int | None, *, may_grow: bool = False) -> None:
    """Raise DataError for an archive that is shorter than it was then; longer only if it `may_grow`."""
    if num_bytes is None or then is None:
        return
    if num_bytes < then or (num_bytes > then and not may_grow):
        raise DataError(
            f"{place} is damaged or cut off: it is {num_bytes:,} bytes long, and {tar_stem(place)}.stats.json "
            f"beside it says {then:,}; copy it again, or remove that file if it was replaced on purpose"
        )


def made_from(tar: Path) -> dict[str, Fingerprint]:
    """The parts that a shard was written over, by name, as its stats file has them.

    Empty when there is none, or not of this tar.
    """
    record = recorded(tar)
    return parts_of(record) if record.get("bytes") == tar.stat().st_size else {}


def parts_of(record: Mapping[str, Any]) -> dict[str, Fingerprint]:
    """The parts that the stats file of a tar names, by their names."""
    return {name: Fingerprint.from_json(value) for name, value in record.get("made_from", {}).items()}


def note_origin(tar: Path, name: str, now: Fingerprint) -> None:
    """Note the size and time of a part, now that its digest was found to be the one in a tar's stats file."""
    parts = recorded(tar).get("made_from", {})
    if now.tag and parts.get(name, {}).get("sha256") == now.sha256:
        note(tar, made_from={**parts, name: now.to_json()})


def note(tar: Path, **values: Any) -> None:
    """Change a tar's stats file; one that cannot be written stays, and what it says is found out again."""
    record = recorded(tar)
    with contextlib.suppress(OSError):
        if record:
            write_atomically(stats_path(tar), to_json_bytes({**record, **values}))
