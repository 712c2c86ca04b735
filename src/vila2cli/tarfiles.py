"""Tar archives as streams of members: reading that notices damage, writing that is atomic and repeatable."""

import fcntl
import functools
import gzip
import hashlib
import io
import json
import os
import secrets
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from vila2cli.errors import DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGE_EXTENSIONS = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "avif"))
MAX_COMPRESSED_MEMBER_BYTES = 1 << 30
"""A member of a gzip archive that claims more is refused: its true size is unknown before it is unpacked."""

_BLOCK_BYTES = tarfile.BLOCKSIZE
_BUFFER_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"


def tar_stem(path: str | Path) -> str:
    """File name without .tar, .tar.gz or .tgz; "" when it ends in none of them."""
    name = Path(path).name
    suffix = next((s for s in TAR_SUFFIXES if name.endswith(s)), None)
    return name.removesuffix(suffix) if suffix else ""


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member name into key and lower-case extension as WebDataset does: at the first dot of the
    base name, so folders may hold dots. None for names without an extension, hidden files and `__meta__`."""
    folder, slash, basename = name.rpartition("/")
    stem, dot, extension = basename.partition(".")
    if not stem or not dot or (name.startswith("__") and _is_meta(name)):
        return None
    return folder + slash + stem, extension.lower()


def _is_meta(name: str) -> bool:
    first = name.split("/", 1)[0]
    return len(first) > 4 and first.endswith("__")


def image_index(extension: str) -> int | None:
    """Place of an image in its sample: -1 for `jpg`, 3 for `3.jpg`, None when the extension is no image."""
    if extension in IMAGE_EXTENSIONS:
        return -1
    number, dot, last = extension.partition(".")
    is_numbered = (
        dot and last in IMAGE_EXTENSIONS and number.isascii() and number.isdigit() and len(number) < 10
    )
    return int(number) if is_numbered else None


def read_members(
    path: Path,
    wanted: Callable[[str], bool],
    *,
    on_odd: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and bytes of every regular file in one sequential pass; None for bytes that are not wanted.

    Reads plain and gzip archives, whatever they are called. Raises DataError naming file and offset
    when the archive is cut off or damaged, after everything before that place. `on_odd` is told of
    what is legal and yet suspicious: links, a missing end marker, data after the end marker.
    """
    try:
        stream, num_bytes = _open(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    offset = 0
    with stream:
        try:
            with _Archive.open(
                fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()
                    if archive.offset <= member.offset:
                        raise tarfile.ReadError(f"{member.name!r} has a negative size")
                    if member.isreg():
                        is_wanted = wanted(member.name)
                        yield member.name, _bytes_of(archive, stream, member, num_bytes) if is_wanted else None
                    elif on_odd and not member.isdir():
                        on_odd(f"member {member.name!r} is a link or device and is ignored")
                    offset = archive.offset
                _check_end(stream, offset, on_odd)
        except (tarfile.TarError, zlib.error, EOFError, OSError, MemoryError, ValueError) as error:
            raise DataError(
                f"{path} is damaged or cut off at byte {offset}: {error}; copy or download it again"
            ) from None


class _Header(tarfile.TarInfo):
    """A member header, of which the plain file with a short name is parsed in a third of the time."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> Self:
        is_plain = (
            len(buf) == _BLOCK_BYTES and buf[156:157] == tarfile.REGTYPE and buf[124] < 128 and not buf[345]
        )
        size = _octal(buf[124:136]) if is_plain else -1
        if size < 0 or sum(buf) - sum(buf[148:156]) + 256 != _octal(buf[148:156]):
            return super().frombuf(buf, encoding or "utf-8", errors)
        header = cls(buf[:100].partition(b"\0")[0].decode(encoding or "utf-8", errors))
        header.size = size
        return header


def _octal(number: bytes | bytearray) -> int:
    """The number, or -1 for what only tarfile can tell: blanks only, signs, damage."""
    digits = number.partition(b"\0")[0].strip()
    try:
        return int(digits, 8) if digits.isdigit() else -1
    except ValueError:
        return -1


class _Archive(tarfile.TarFile):
    tarinfo = _Header
    members: list[tarfile.TarInfo]


def _open(path: Path) -> tuple[BinaryIO, int | None]:
    stream = path.open("rb", buffering=_BUFFER_BYTES)
    if stream.read(2) == _GZIP_MAGIC:
        stream.close()
        return cast(BinaryIO, gzip.open(path, "rb")), None
    stream.seek(0)
    return stream, os.fstat(stream.fileno()).st_size


def _bytes_of(
    archive: tarfile.TarFile, stream: BinaryIO, member: tarfile.TarInfo, num_bytes: int | None
) -> bytes:
    if member.issparse():
        unpacked = archive.extractfile(member)
        assert unpacked is not None
        return unpacked.read()
    end = member.offset_data + member.size
    if end > (num_bytes if num_bytes is not None else member.offset_data + MAX_COMPRESSED_MEMBER_BYTES):
        raise EOFError(f"{member.name!r} should be {member.size} bytes long")
    if stream.tell() != member.offset_data:
        stream.seek(member.offset_data)
    data = stream.read(member.size)
    if len(data) != member.size:
        raise EOFError(f"{member.name!r} should be {member.size} bytes long, {len(data)} are there")
    return data


def _check_end(stream: BinaryIO, offset: int, on_odd: Callable[[str], None] | None) -> None:
    """Tell the end marker from a damaged header: tarfile ends silently at both."""
    stream.seek(offset)
    block = stream.read(_BLOCK_BYTES)
    if block.strip(b"\0") or 0 < len(block) < _BLOCK_BYTES:
        raise tarfile.ReadError("no valid member header")
    if on_odd is None:
        return
    if not block:
        on_odd("the archive has no end marker; it may have been cut off between two members")
    while block:
        if block.strip(b"\0"):
            on_odd("there is data after the end marker, which no reader sees (two archives joined?)")
            return
        block = stream.read(_BUFFER_BYTES)


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises DataError naming the file when it is not one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} should hold a JSON object")
    return value


def to_json_bytes(value: Any) -> bytes:
    """The one way JSON is written into shards: keys sorted, ASCII only, so equal values are equal bytes."""
    return json.dumps(value, sort_keys=True).encode("ascii")


def write_atomically(path: Path, data: bytes) -> None:
    """Write aside, fsync, rename: a reader sees the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TarWriter:
    """Writes one shard: SHARD.tar.partial, then on a clean exit SHARD.tar and SHARD.stats.json.

    The same samples in the same order give the same bytes. On an exception nothing is left behind.

        with TarWriter(Path("data/000000.tar")) as tar:
            tar.write_sample("000000000", {"jpg": jpeg_bytes, "txt": b"a red circle", "json": b"{}"})
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.num_samples = 0
        if not tar_stem(self.path) or self.path.suffix != ".tar":
            raise DataError(f"a shard is written as NAME.tar, got {self.path}")
        self.stats: dict[str, Any] = {}
        """Counts that the stats file should hold instead of, or next to, those of the samples written."""
        self._start_s = perf_counter()
        self._keys: set[str] = set()
        self._partial = self.path.with_name(f"{self.path.name}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = _open_alone(self._partial)
        self._tar = _Archive(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT)

    def write_sample(self, key: str, members: Mapping[str, bytes]) -> None:
        """Add one sample, its members sorted by extension; raises DataError for a key no reader could split."""
        problem = "is there twice" if key in self._keys else key_problem(key)
        if problem or not members:
            raise DataError(f"cannot write sample {key!r} to {self.path}: {problem or 'it is empty'}")
        self._keys.add(key)
        self.num_samples += 1
        for extension in sorted(members):
            data = members[extension]
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size, header.mode = len(data), stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
            self._tar.addfile(header, io.BytesIO(data))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abort()

    def close(self) -> None:
        """Finish the archive, rename it into place, then write its stats file: that one means complete."""
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        stats_path(self.path).unlink(missing_ok=True)
        self._partial.replace(self.path)
        self._stream.close()  # and with it the lock, now that the name is free
        status = self.path.stat()
        counts = {"in": self.num_samples, "out": self.num_samples, "dropped": {}, "rejected": 0, "tokens": 0}
        seconds = round(perf_counter() - self._start_s, 3)
        figures = {"seconds": seconds, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        digest = {"sha256": file_sha256(self.path)}
        write_atomically(stats_path(self.path), to_json_bytes(counts | figures | digest | self.stats))

    def abort(self) -> None:
        """Give the shard up and remove what was written of it; does nothing after `close`."""
        if not self._stream.closed:
            self._partial.unlink(missing_ok=True)
            self._stream.close()


def _open_alone(partial: Path) -> BinaryIO:
    """Open a file for writing that no other process is writing; raises DataError when one is."""
    while True:
        stream = partial.open("ab", buffering=_BUFFER_BYTES)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise DataError(f"{partial} is being written by another process; wait for it or stop it") from None
        # Its last writer may have renamed it between our open and our lock.
        if partial.exists() and partial.stat().st_ino == os.fstat(stream.fileno()).st_ino:
            stream.truncate(0)
            stream.seek(0)  # tarfile pads by its position
            return stream
        stream.close()


def key_problem(key: str) -> str | None:
    """Why a key cannot be written so that every reader gets it back, or None."""
    folder, _, basename = key.rpartition("/")
    if not basename or "." in basename:
        return "the last part of its key is empty or holds a dot"
    if key.startswith("/") or ".." in folder.split("/"):
        return "its key leads out of the archive"
    return "its key starts with '__'" if key.startswith("__") and _is_meta(key) else None
