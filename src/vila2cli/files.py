"""Local files that are there whole or not at all, and locks that go with the process that holds them."""

import fcntl
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel, ValidationError

from vila2cli.errors import DataError

if TYPE_CHECKING:
    import sqlite3

PARTIAL = ".partial"
"""What the name of a file or folder ends in while it is being written."""
MARK = ".vila2-"
"""What the names of files that come and go begin with; nothing else is ever removed as a leftover."""
DEFAULT_MAX_PIXELS = 16_000_000
"""Width times height above which an image is scaled down, where a recipe has no other `data.max_pixels`."""
DEFAULT_DRAFT = 2.0
"""Times what its image processor makes of a JPEG, below which it is not decoded at a half of its size or less,
where a recipe has no other `data.draft`."""

BOMB_PIXELS = 178_956_970
"""Width times height above which an image is refused before its pixels are decoded, as by Pillow itself."""

_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_DEPTH = 200
_TOO_DEEP = f"values are nested deeper than {MAX_DEPTH}"
_MAX_DIGITS = 300
_BUFFER_BYTES = 1 << 18
_WAIT_S = 0.02


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises DataError naming the file when it is not one."""
    try:
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from None


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object that a file of this name holds; raises DataError when it is not one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {name}: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{name} should hold a JSON object")
    return value


def check_shape(shape: type[BaseModel], value: Mapping[str, Any], name: str) -> None:
    """Raise DataError for JSON from a file of this name that is not made as we write it."""
    try:
        shape.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{name}: {where}: {first['msg']}; was it edited?") from None


def load_json(data: bytes) -> Any:
    """A JSON value that other code can rely on, from whoever wrote it; raises ValueError for any other.

    NaN and infinity, which pandas writes for missing numbers, are None, and so is 1e999. `check_value` lists
    what is refused.
    """
    value = load_unchecked(data)
    check_value(value)
    return value


def load_unchecked(data: bytes) -> Any:
    """A JSON value whose parts are still to be checked by `check_value`; raises ValueError."""
    try:
        text = data.decode(json.detect_encoding(data))
        return json.loads(text, parse_constant=lambda name: None, parse_float=_finite, parse_int=_holdable)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def check_value(value: Any) -> None:
    """Raise ValueError for values nested deeper than 200, and as UnicodeError for half a character."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        for part in level:
            if isinstance(part, str) and not part.isascii():
                part.encode("utf-8")
        containers = [part for part in level if isinstance(part, dict | list)]
        level = [inner for container in containers for inner in _inner(container)]
        depth += bool(containers)
    if depth > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)


def _inner(container: dict[str, Any] | list[Any]) -> Iterator[Any]:
    if isinstance(container, dict):
        yield from container
        yield from container.values()
    else:
        yield from container


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _holdable(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def parse_annotation_json(data: bytes) -> Any:
    """JSON with text that a model or a server wrote, in whole characters; raises ValueError."""
    value = json.loads(data.decode("utf-8"))
    if _SURROGATE.search(data):
        return json.loads(whole_characters(json.dumps(value, ensure_ascii=False)))
    return value


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a character, which neither a file nor a tokenizer takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def to_json_bytes(value: Any) -> bytes:
    """The one way JSON is written into shards: keys sorted, ASCII only, so equal values are equal bytes.

    Raises ValueError for NaN and infinity, which are no JSON.
    """
    return _ENCODER.encode(value).encode("ascii")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors of the system that name none: a write fails on a stream, not on a path."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write aside, fsync, rename: a reader sees the old file or the whole new one."""
    partial = path.with_name(f"{MARK}{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    with naming(path), _dropping_unwritten(open_waiting(partial)) as stream:
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def aside(path: Path) -> Path:
    """Where a file or folder is written before it has its own name."""
    return path.with_name(f"{MARK}{path.name}{PARTIAL}")


def refuse_foreign(path: Path, *marks: str) -> None:
    """Raise DataError where a file is there that would be overwritten and holds none of our marks."""
    if not os.path.lexists(path):
        return
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path} is there and cannot be read: {error.strerror or error}") from None
    if text and not any(mark in text for mark in marks):
        raise DataError(f"{path} is there and was not written by vila2; move it, or give another --out")


@contextmanager
def _dropping_unwritten(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Close a stream in any case: where a disk is full, closing fails as writing did."""
    try:
        yield stream
    except BaseException:
        with suppress(OSError):
            stream.close()
        raise
    stream.close()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_whole(folder: Path) -> None:
    """Make what is in a folder, and in folders in it, survive a power cut."""
    for inner, _, names in os.walk(folder):
        for name in names:
            with (Path(inner) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(inner))


def sweep(folder: Path) -> None:
    """Remove the partial files in a folder that killed processes left; those being written are locked."""
    for partial in folder.glob(f"{MARK}*{PARTIAL}"):
        is_file = partial.is_file() and not partial.is_symlink()
        stream = open_locked(partial, create=False) if is_file else None
        if stream is not None:
            partial.unlink(missing_ok=True)
            stream.close()


def open_waiting(path: Path) -> BinaryIO:
    """`open_locked` as soon as no other process holds the file."""
    stream = None
    while stream is None:
        stream = open_locked(path, wait_s=math.inf)
    return stream


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time write the files about a folder as a whole."""
    folder = folder.resolve()
    path = folder.with_name(f"{MARK}{folder.name}.whole.lock")
    with open_waiting(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def open_locked(
    path: Path, *, shared: bool = False, wait_s: float = 0.0, create: bool = True
) -> BinaryIO | None:
    """Open a file to read and append, and lock it; None while another process holds it for all of `wait_s`.

    Several may hold it `shared`. With `create` False a file that is not there is None, too. The lock
    goes when the file is closed or the process ends, however it ends; who unlinks the file does so
    while holding it.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    end_s = time.monotonic() + wait_s
    while True:
        try:
            stream = open(  # noqa: SIM115
                path, "a+b" if create else "r+b", buffering=_BUFFER_BYTES, opener=_opener(path)
            )
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            fcntl.flock(stream, how | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            if time.monotonic() >= end_s:
                return None
            time.sleep(_WAIT_S)
            continue
        if _is_named(path, stream):
            return stream
        stream.close()  # its last holder removed it between our open and our lock


def _opener(path: Path) -> Callable[[str, int], int]:
    """How a file is opened: one of ours that comes and goes, not through a link to another one."""
    not_through = os.O_NOFOLLOW if path.name.startswith(MARK) else 0
    return lambda name, flags: os.open(name, flags | not_through, 0o666)


def _is_named(path: Path, stream: BinaryIO) -> bool:
    try:
        return path.stat().st_ino == os.fstat(stream.fileno()).st_ino
    except FileNotFoundError:
        return False


@contextmanager
def scratch_database(path: Path, advice: str) -> Iterator["sqlite3.Connection"]:
    """A database in a file that is there as long as the block runs; raises DataError when the disk is full."""
    import sqlite3

    path.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            # What a crash leaves of it is thrown away.
            for pragma in ("journal_mode = OFF", "synchronous = OFF"):
                database.execute(f"PRAGMA {pragma}")
            database.execute("BEGIN")
            yield database
    except sqlite3.OperationalError as error:
        raise DataError(f"{path}: {error}; {advice}") from error
    finally:
        path.unlink(missing_ok=True)
