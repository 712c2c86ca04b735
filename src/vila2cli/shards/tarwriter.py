"""Writing a shard: atomic, and the same bytes for the same samples."""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, Self

from vila2cli.errors import DataError
from vila2cli.files import aside, naming, open_locked, sync_folder, to_json_bytes, write_atomically
from vila2cli.shards.places import PACKED, PLAIN, tar_stem
from vila2cli.shards.records import stats_path
from vila2cli.shards.tarfiles import SHARED_MEMBER, key_problem

_BLOCK_BYTES = tarfile.BLOCKSIZE
_GZIP_LEVEL = 6
_SWEEP_S = 0.5  # for which a sweep may hold a file that has no lock yet


def member_header(name: str, size: int) -> bytes:
    """The header of a plain file of no user, group or time, as tarfile writes it, in a tenth of the time."""
    if not name.isascii() or len(name) > 100 or size >= 8**11:
        header = tarfile.TarInfo(name)
        header.size = size
        return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    told = name.encode("ascii"), b"%011o" % size
    checksum = b"%06o" % (_SUM_OF_BLANK + sum(told[0]) + sum(told[1]))
    return b"".join((told[0].ljust(100, b"\0"), _BEFORE_SIZE, told[1], _BEFORE_SUM, checksum, _AFTER_SUM))


def _blank_header() -> bytes:
    header = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
    header[124:135] = bytes(11)
    return bytes(header)


_BLANK = _blank_header()
_BEFORE_SIZE, _BEFORE_SUM, _AFTER_SUM = _BLANK[100:124], _BLANK[135:148], _BLANK[154:]
_SUM_OF_BLANK = sum(_BLANK[:148]) + 8 * 32 + sum(_BLANK[156:])


class TarWriter:
    """Writes one shard: .vila2-SHARD.tar.partial, then on a clean exit SHARD.tar and SHARD.stats.json.

    The same samples in the same order give the same bytes. On an exception nothing is left behind. A path that
    ends in .tar.gz is packed; of NAME.tar and NAME.tar.gz the one written last stays.

        with TarWriter(Path("data/000000.tar")) as tar:
            tar.write_sample("000000000", {"jpg": jpeg_bytes, "txt": b"a red circle", "json": b"{}"})
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.num_samples = 0
        if not tar_stem(self.path) or not self.path.name.endswith((PLAIN, PACKED)):
            raise DataError(f"a shard is written as NAME{PLAIN} or NAME{PACKED}, got {self.path}")
        self.stats: dict[str, Any] = {}
        """Counts that the stats file should hold instead of, or next to, those of the samples written."""
        self._start_s = perf_counter()
        self._keys: set[str] = set()
        self._partial = aside(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stream = open_locked(self._partial, wait_s=_SWEEP_S)
        if stream is None:
            raise DataError(f"{self._partial} is being written by another process; wait for it or stop it")
        stream.truncate(0)  # what a killed process left
        self._sink = (_PackingSink if self.path.name.endswith(PACKED) else _Sink)(self.path, stream)
        self._tar = tarfile.open(fileobj=self._sink, mode="w|", format=tarfile.PAX_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115

    def write_sample(self, key: str, members: Mapping[str, bytes]) -> None:
        """Add one sample, its members sorted by extension; raises DataError for a key no reader could split."""
        problem = "is there twice" if key in self._keys else key_problem(key)
        if problem or not members:
            raise DataError(f"cannot write sample {key!r} to {self.path}: {problem or 'it is empty'}")
        self._keys.add(key)
        self.num_samples += 1
        for extension in sorted(members):
            self._add(f"{key}.{extension}", members[extension])

    def write_shared(self, data: bytes) -> None:
        """Add the member that annotations refer to; it comes first."""
        self._add(SHARED_MEMBER, data)

    def _add(self, name: str, data: bytes) -> None:
        written = b"".join((member_header(name, len(data)), data, bytes(-len(data) % _BLOCK_BYTES)))
        self._tar.fileobj.write(written)
        self._tar.offset += len(written)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abort()

    def close(self) -> None:
        """Finish the archive, rename it into place, then write its stats file: that one means complete."""
        self._tar.close()
        unpacked = self._sink.finish()
        with naming(self.path):
            self._sink.stream.flush()
            os.fsync(self._sink.stream.fileno())
        stats_path(self.path).unlink(missing_ok=True)
        for suffix in {PLAIN, PACKED} - {self.path.name.removeprefix(tar_stem(self.path))}:
            self.path.with_name(f"{tar_stem(self.path)}{suffix}").unlink(missing_ok=True)
        self._partial.replace(self.path)
        self._sink.stream.close()  # and with it the lock, now that the name is free
        sync_folder(self.path.parent)
        status = self.path.stat()
        counts = {"in": self.num_samples, "out": self.num_samples, "dropped": {}, "rejected": 0, "tokens": 0}
        seconds = round(perf_counter() - self._start_s, 3)
        figures = {"seconds": seconds, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        digest = {"sha256": self._sink.sha256.hexdigest(), "written": self.num_samples, **unpacked}
        write_atomically(stats_path(self.path), to_json_bytes(counts | figures | digest | self.stats))

    def abort(self) -> None:
        """Give the shard up and remove what was written of it; does nothing after `close`."""
        if not self._sink.stream.closed:
            self._partial.unlink(missing_ok=True)
            with suppress(OSError):  # where a disk is full, closing fails as writing did
                self._sink.stream.close()


class _Sink:
    """What the tar is written to: the file, with the digest of its bytes taken along."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self.stream = path, stream
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        if self.stream.closed:  # tarfile flushes what it holds, of a shard that was given up, too
            return
        with naming(self._path):
            self.stream.write(data)
        self.sha256.update(data)

    def finish(self) -> dict[str, Any]:
        """Write what is still held back; returns what the stats file says of how the tar is packed."""
        return {}


class _PackingSink(_Sink):
    """Packs what is written to it as gzip, with neither name nor time, so that equal tars are equal files."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        super().__init__(path, stream)
        self._packer = zlib.compressobj(_GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)
        self._unpacked, self._num_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._unpacked.update(data)
        self._num_bytes += len(data)
        super().write(self._packer.compress(data))

    def finish(self) -> dict[str, Any]:
        super().write(self._packer.flush())
        return {"unpacked": {"bytes": self._num_bytes, "sha256": self._unpacked.hexdigest()}}
