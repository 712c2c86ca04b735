"""SHARD.stats.json beside SHARD.tar: what it says of the tar's bytes, and of the files it was made from."""

import contextlib
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import parse_json, read_json, to_json_bytes, write_atomically
from vila2cli.fingerprints import Fingerprint
from vila2cli.places import folder, is_pipe, is_remote, join, local_path, tar_stem
from vila2cli.streams import read_small


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read once per process as long as size and time of change stay."""
    status = path.stat()
    return _file_sha256(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.cache
def _file_sha256(path: Path, num_bytes: int, mtime_ns: int, inode: int) -> str:
    stats = stats_path(path)
    known = read_json(stats) if stats.is_file() else {}
    if (known.get("bytes"), known.get("mtime_ns")) == (num_bytes, mtime_ns) and known.get("sha256"):
        return str(known["sha256"])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stats_path(tar: Path) -> Path:
    """Where the counts of a shard lie: SHARD.stats.json beside SHARD.tar."""
    return tar.with_name(f"{tar_stem(tar)}.stats.json")


def recorded(place: str | Path) -> dict[str, Any]:
    """What the stats file beside a tar says of it, {} where there is none; of a remote one, for what it is."""
    text = str(place)
    if not is_remote(text):
        stats = stats_path(local_path(text))
        return read_json(stats) if stats.is_file() else {}
    name = "" if is_pipe(text) else join(folder(text), f"{tar_stem(text)}.stats.json")
    data = read_small(name) if name else None
    try:
        return {} if data is None else parse_json(data, name)
    except DataError:  # what a web server says instead of "there is no such file"
        return {}


def check_whole(tar: Path) -> None:
    """Raise DataError for a local tar that is not as long as its stats file says."""
    check_length(tar, tar.stat().st_size, recorded(tar))


def check_length(
    place: str | Path, num_bytes: int | None, record: Mapping[str, Any], *, may_grow: bool = False
) -> None:
    """Raise DataError for an archive that is shorter than its stats file says; longer only if it `may_grow`."""
    then = record.get("bytes")
    if num_bytes is None or not isinstance(then, int):
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
    return parts_of(record, tar) if record.get("bytes") == tar.stat().st_size else {}


def parts_of(record: Mapping[str, Any], place: str | Path) -> dict[str, Fingerprint]:
    """The parts that the stats file of a tar names, by their names; raises DataError where they are none."""
    found = record.get("made_from", {})
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise DataError(
            f"{tar_stem(place)}.stats.json beside {place} says of what it was made from {str(found)[:80]!r}; "
            "was it edited?"
        )
    return {name: Fingerprint.from_json(value) for name, value in found.items()}


def note_time(tar: Path) -> None:
    """Note when a tar was last changed, now that its digest was found to be the one its stats file has."""
    note(tar, mtime_ns=tar.stat().st_mtime_ns)


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
