"""The bytes of a shard, read forward only: from a local file, any fsspec URL, or a `pipe:` command.

No more than a few blocks are in memory, whatever the shard's size. A connection that breaks off is
taken up again where it was, a few times; then it is one DataError, as is what cannot be read at all.
"""

import gzip
import hashlib
import io
import os
import signal
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, cast

from vila2cli.errors import DataError, Vila2Error
from vila2cli.shards import web
from vila2cli.shards.credentials import masked
from vila2cli.shards.fingerprints import Fingerprint, of_status
from vila2cli.shards.places import PIPE, Command, Remote, is_pipe, is_remote, local_path, path_of
from vila2cli.shards.store_errors import asked_wait_s, explained, one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

RETRY_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each further try; progress starts them over."""

BLOCK_BYTES = 8 << 20
"""What one request to a store asks for."""

MAX_SMALL_BYTES = 64_000_000
"""A file that describes a remote shard or layer is not read beyond this, whoever serves it."""

_BUFFER_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
# Under which names file systems of fsspec say what changes with a file's content, the surest first.
_TAGS = (
    *("ETag", "etag", "blob_id", "md5Hash", "LastModified", "Last-Modified", "last_modified", "updated"),
    "mtime",
)

_DEFECTS = (AssertionError, AttributeError, NameError, TypeError)
"""Errors that are ours, not the store's."""

T = TypeVar("T")


class Stream:
    """A shard from its first byte on, unpacked when it is gzip; made by `open_stream`."""

    def __init__(self, place: str, raw: "_Raw", *, digests: bool):
        self.place = place
        self._raw = raw
        self._sha256 = hashlib.sha256() if digests else None
        source = _Hashing(raw, self._sha256.update) if self._sha256 else raw
        self._packed = io.BufferedReader(source, _BUFFER_BYTES)
        self.is_gzip = self._packed.peek(2)[:2] == _GZIP_MAGIC
        self._file = self._packed
        if self.is_gzip:  # in a buffer, whose `read` takes a fifth of the time
            unpacked = cast(Any, gzip.GzipFile(fileobj=self._packed))
            self._file = io.BufferedReader(unpacked, _BUFFER_BYTES)
        self._unpacked = hashlib.sha256() if digests and self.is_gzip else None
        self.read = self._read_hashed if self._unpacked else self._file.read
        """`read(n)`: that many bytes, fewer only at the end."""
        self._can_seek = not digests and not self.is_gzip and raw.seekable()

    @property
    def num_bytes(self) -> int | None:
        """Bytes there are to read, None when that is not known beforehand."""
        return None if self.is_gzip else self._raw.fingerprint.num_bytes

    def skip(self, num_bytes: int) -> None:
        """Pass over bytes, without reading them where that can be; raises EOFError when they are not there."""
        if self._can_seek:
            self._file.seek(num_bytes, os.SEEK_CUR)
            return
        while num_bytes > 0:
            data = self.read(min(num_bytes, _BUFFER_BYTES))
            if not data:
                raise EOFError(f"{num_bytes} more bytes should be there")
            num_bytes -= len(data)

    def _read_hashed(self, num_bytes: int) -> bytes:
        data = self._file.read(num_bytes)
        assert self._unpacked is not None
        self._unpacked.update(data)
        return data

    def num_unpacked(self) -> int:
        """Read on to the end; returns how many bytes there were in all, as they are read."""
        while self.read(_BUFFER_BYTES):
            pass
        return self._file.tell()

    def fingerprint(self) -> Fingerprint:
        """Of the whole file, read to its end for it; raises DataError when it changed meanwhile."""
        assert self._sha256 is not None, "open it with digests=True"
        unpacked = self._unpacked_sha256() if self._unpacked else ""
        while self._packed.read(_BUFFER_BYTES):
            pass
        before, now = self._raw.fingerprint, self._raw.look()
        if before.differs(now):
            raise DataError(f"{self.place} was changed while it was read; run the same command again")
        return Fingerprint(before.num_bytes, before.tag, self._sha256.hexdigest(), unpacked)

    def _unpacked_sha256(self) -> str:
        assert self._unpacked is not None
        try:
            self.num_unpacked()
        except (OSError, EOFError, zlib.error):  # damaged behind what its reader needed
            return ""
        return self._unpacked.hexdigest()

    def close(self) -> None:
        self._file.close()
        self._packed.close()
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stream(place: str | Path, *, digests: bool = False) -> Stream:
    """Open a place for reading; with `digests` its fingerprint can be had at the end.

    Raises DataError, also later from `read`, for what is not there or cannot be had.
    """
    raw: _Raw
    if isinstance(place, Command):
        raw = _Pipe(place)
    elif isinstance(place, Remote):
        raw = _Remote(place)
    else:
        raw = _Local(str(place))
    try:
        return Stream(place if isinstance(place, Remote) else str(place), raw, digests=digests)
    except BaseException:
        raw.close()
        raise


def fingerprint(place: str | Path) -> Fingerprint:
    """What can be told of a place without reading it, so no SHA-256; raises DataError when it is not there."""
    if is_pipe(place):
        return Fingerprint(None, "")
    if isinstance(place, Remote):
        return _Remote(place).fingerprint
    try:
        return of_status(local_path(place).stat())
    except OSError as error:
        raise DataError(f"cannot read {place}: {error.strerror or error}") from None


def digest_of(place: str | Path) -> Fingerprint:
    """The whole fingerprint of a place, which is read for it; raises DataError."""
    with open_stream(place, digests=True) as stream:
        return stream.fingerprint()


def is_gzip(place: str | Path) -> bool:
    """Whether a place holds a gzip file; of what would have to be fetched or run for it, by its name."""
    if is_remote(place):
        return path_of(str(place)).endswith("gz")
    with open_stream(place) as stream:
        return stream.is_gzip


def read_small(url: str) -> bytes | None:
    """All bytes of a small remote file; None when it is not there or not ours to see, else raises DataError."""
    system, path = file_system(url)

    def read() -> bytes | None:
        try:
            with system.open(path, "rb") as file:
                data = bytes(file.read(MAX_SMALL_BYTES + 1))
            if len(data) > MAX_SMALL_BYTES:
                raise DataError(f"cannot read {url}: it is larger than {MAX_SMALL_BYTES:,} bytes")
            return data
        except Exception as error:
            if explained(error)[1] == "absent":
                return None
            raise

    return persistently(read, url)


_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def file_system(url: str) -> "tuple[AbstractFileSystem, str]":
    """The fsspec file system of a URL and the path in it; raises DataError when there is none for it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url, **web.options(url))
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(url.partition("://")[0]) if isinstance(error, ImportError) else None
        how = f"; pip install 'vila2cli[{extra}]'" if extra else ""
        raise DataError(f"cannot read {url}: {one_line(error)}{how}") from None
    return system, path


def persistently(action: Callable[[], T], place: str) -> T:
    """Do something with a store, again after what may pass; raises DataError when it does not."""
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            return action()
        except (Vila2Error, *_DEFECTS):
            raise
        except Exception as error:  # noqa: BLE001  (every store has errors of its own)
            reason, kind = explained(error)
            if kind != "passing" or wait_s is None:
                tried = f", {len(RETRY_WAITS_S) + 1} times" if kind == "passing" else ""
                raise DataError(f"cannot read {place}: {reason}{tried}") from None
            time.sleep(max(wait_s, asked_wait_s(error)))
    raise AssertionError("the last wait is None")


class _Raw(io.RawIOBase):
    """A source of bytes that knows its fingerprint."""

    fingerprint: Fingerprint

    def look(self) -> Fingerprint:
        """The fingerprint as it is now."""
        return self.fingerprint

    def readable(self) -> bool:
        return True


class _Hashing(_Raw):
    """Tells `update` every byte that is read of a source."""

    def __init__(self, source: _Raw, update: Callable[[memoryview], None]):
        self._source, self._update = source, update

    def readinto(self, buffer: Any) -> int | None:
        num_bytes = self._source.readinto(buffer)
        if num_bytes:
            self._update(memoryview(buffer)[:num_bytes])
        return num_bytes


class _Local(io.FileIO, _Raw):
    def __init__(self, place: str):
        try:
            super().__init__(local_path(place), "rb")
        except OSError as error:
            raise DataError(f"cannot read {place}: {error.strerror or error}") from None
        self._place = place
        self.fingerprint = of_status(os.fstat(self.fileno()))

    def look(self) -> Fingerprint:
        return fingerprint(self._place)


class _Pipe(_Raw):
    """The output of a shell command; that it failed is known, and raised, at its end."""

    def __init__(self, place: Command):
        self._place = place
        self.fingerprint = Fingerprint(None, "")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            ["bash", "-c", f"set -o pipefail; {place.removeprefix(PIPE)}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for us alone: we stop between two shards
        )

    def readinto(self, buffer: Any) -> int:
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), len(buffer))
        if not data and (code := self._process.wait()):
            self._errors.seek(0)
            errors = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            reason = f": {masked(errors[-1])}" if errors else ""
            raise DataError(f"{self._place} failed with exit code {code}{reason}")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            assert self._process.stdout is not None
            self._process.stdout.close()
            if self._process.poll() is None:  # nobody reads on
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._errors.close()
        super().close()


class _Remote(_Raw):
    """A file of an fsspec file system, opened again where it was when a connection breaks off."""

    def __init__(self, place: Remote):
        self._place = place
        self._system, self._path = file_system(place)
        self._file: BinaryIO | None = None
        self._offset = 0
        self._in_blocks = True
        self._is_same = False
        self.fingerprint = self.look()

    def look(self) -> Fingerprint:
        self._system.invalidate_cache()
        info = persistently(lambda: self._system.info(self._path), self._place)
        tag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
        size = info.get("size") or None  # a server that does not care for HEAD says 0, and an archive has bytes
        return Fingerprint(None if size is None else int(size), tag)

    def readinto(self, buffer: Any) -> int:
        data = persistently(lambda: self._read(len(buffer)), self._place)
        self._offset += len(data)
        buffer[: len(data)] = data
        if not data and self._offset > BLOCK_BYTES and not self._is_same:  # or they are blocks of two files
            self._check_unchanged()
            self._is_same = True
        return len(data)

    def _check_unchanged(self) -> None:
        if self.fingerprint.differs(self.look()):
            raise DataError(f"{self._place} was changed while it was read; run the same command again")

    def _read(self, num_bytes: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._opened()
            data = self._file.read(num_bytes)
            expected = self.fingerprint.num_bytes
            if not data and expected is not None and self._offset < expected:
                raise ConnectionError(f"it breaks off at byte {self._offset} of {expected}")
        except Exception as error:
            self._close_file()
            if isinstance(error, ValueError) and self._in_blocks:  # a web server that gives no parts of a file
                self._in_blocks = False
                return self._read(num_bytes)
            raise
        return data

    def _opened(self) -> BinaryIO:
        if self._offset:
            self._check_unchanged()
        if self._in_blocks:
            file = self._system.open(self._path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
            file.seek(self._offset)
            return cast(BinaryIO, file)
        file = self._system.open(self._path, "rb", block_size=0)
        try:
            passed = 0
            while passed < self._offset and (data := file.read(min(_BUFFER_BYTES, self._offset - passed))):
                passed += len(data)
        except BaseException:
            file.close()
            raise
        return cast(BinaryIO, file)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._close_file()
        super().close()
