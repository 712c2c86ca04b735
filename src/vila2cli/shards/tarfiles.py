"""Tar archives as streams of members, read so that damage is noticed.

That is ours, as webdataset 1.0.2 loses samples in silence: `v1.000.jpg`, `v1.001.jpg` and so on are one sample
`v1`, and a `pipe:` that breaks off between two members is the end of the shard (findings/webdataset_pipe.sh).
"""

import functools
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.shards.credentials import masked
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.places import is_remote
from vila2cli.shards.records import check_length, recorded, unpacked_bytes
from vila2cli.shards.streams import Stream, open_stream

IMAGE_EXTENSIONS = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "j2k")
) | {"ppm", "pgm", "pbm", "pnm"}
UNREAD_IMAGE_EXTENSIONS = frozenset(
    ("heic", "heif", "hif", "jxl", "jxr", "svg", "svgz", "eps", "psd", "tga", "ico", "exr", "hdr", "dng")
) | {"cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "mpo", "pcx"}
"""Names of pictures that are not read: a sample with one of them is no text without a picture."""
MAX_UNSIZED_MEMBER_BYTES = 1 << 30
"""A member that claims more is refused where the size of the whole is not known, as in a gzip archive."""

SHARED_MEMBER = "__shared__"
"""What many annotations of a tar have in common; programs that read shards pass over a member of this name."""

_BLOCK_BYTES = tarfile.BLOCKSIZE
_COPY_BYTES = 1 << 18
_END_MARKER = bytes(_BLOCK_BYTES)
_ENDS_NUMBER = b"\0 "
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_FIELDS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
"""Members that hold fields of those after them: pax headers and GNU's long names."""
_WITHOUT_DATA = frozenset(
    (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
)
"""Members that are a header alone, whatever size it states."""


@functools.lru_cache(maxsize=4)  # whether a member is wanted and where it belongs are asked one after the other
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
    number, _, last = extension.partition(".")
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return int(number) if is_number and last in IMAGE_EXTENSIONS else None


def is_unread_image(extension: str) -> bool:
    """Whether a name ends as a picture's does and yet is none that `image_index` finds a place for."""
    last = extension.rpartition(".")[2]
    return image_index(extension) is None and last in IMAGE_EXTENSIONS | UNREAD_IMAGE_EXTENSIONS


def read_members(
    place: str | Path,
    wanted: Callable[[str], bool],
    *,
    on_odd: Callable[[str], None] | None = None,
    on_read: Callable[[Fingerprint], None] | None = None,
    record: Mapping[str, Any] | None = None,
    is_layer: bool = False,
) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and bytes of every regular file in one sequential pass; None for bytes that are not wanted.

    Reads plain and gzip archives, whatever they are called and wherever `open_stream` finds them.
    Raises DataError naming place and offset when the archive is cut off or damaged, after everything
    before that, and before it when the archive is shorter than its stats file says. `on_odd` gets
    what is legal and yet suspicious: links, a missing end marker, data after the end marker; in a layer,
    which we wrote, the last two are damage, and so is one that is longer. `on_read` gets the fingerprint of
    an archive read to its end. `record` is what the stats file holds, by default of the one beside a local
    archive.
    """
    if record is None:
        record = {} if is_remote(place) else recorded(place)
    with open_stream(place, digests=on_read is not None) as stream:
        then = unpacked_bytes(record)
        check_length(place, stream.num_bytes, then, may_grow=not is_layer)
        archive = _Archive(stream, on_odd, is_layer=is_layer)
        try:
            yield from archive.members(wanted)
            if stream.is_gzip and then is not None:
                check_length(place, stream.num_unpacked(), then, may_grow=not is_layer)
        except (tarfile.TarError, zlib.error, EOFError, OSError, MemoryError, ValueError) as error:
            raise DataError(
                f"{place} is damaged or cut off at byte {archive.offset}: {error}; copy or download it again"
            ) from None
        if on_read:
            on_read(stream.fingerprint())


class _Archive:
    """Walks forward through the members of a tar; `offset` is where the one in hand begins."""

    def __init__(self, stream: Stream, on_odd: Callable[[str], None] | None, *, is_layer: bool):
        self.offset = 0
        self._stream, self._on_odd, self._is_layer = stream, on_odd, is_layer
        self._fields_of_all: dict[str, str] = {}

    def members(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
        fields: dict[str, str] = {}
        num_ignored, first_ignored = 0, ""
        block = self._stream.read(_BLOCK_BYTES)
        while block and block != _END_MARKER:
            name, size, kind = _plain_header(block) or self._any_header(block)
            if kind in _FIELDS:
                fields = self._fields(kind, self._take(name, size, is_wanted=True), fields)
            else:
                if fields:
                    name, size = fields.get("path", name), int(fields.get("size", size))
                    self._check_sparse(name, fields)
                if kind in _REGULAR:
                    yield name, self._take(name, size, is_wanted=wanted(name))
                elif kind in _WITHOUT_DATA:
                    size = 0
                else:
                    self._take(name, size, is_wanted=False)
                if kind not in (*_REGULAR, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGLINK):
                    num_ignored, first_ignored = num_ignored + 1, first_ignored or name
                fields = self._fields_of_all
            padding = -size % _BLOCK_BYTES
            block = self._stream.read(padding + _BLOCK_BYTES)
            if len(block) < padding:
                raise EOFError(f"{name!r} should be {size} bytes long and padded")
            block = block[padding:] if padding else block
            self.offset += _BLOCK_BYTES + size + padding
        self._check_end(block)
        if num_ignored and self._on_odd:
            self._on_odd(f"{num_ignored} links or devices are ignored, first {first_ignored!r}")

    def _any_header(self, block: bytes) -> tuple[str, int, bytes]:
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError:
            if self.offset == 0:
                _refuse_foreign(self._stream.place, block)
            raise tarfile.ReadError("no valid member header") from None
        if header.type == tarfile.GNUTYPE_SPARSE:
            self._check_sparse(header.name, {"GNU.sparse.size": ""})
        return header.name, header.size, header.type

    def _check_sparse(self, name: str, fields: Mapping[str, str]) -> None:
        if any(field.startswith("GNU.sparse") for field in fields):
            raise DataError(
                f"{self._stream.place} holds {name!r} as a sparse file, which is not read; pack it again "
                "without --sparse"
            )

    def _take(self, name: str, size: int, *, is_wanted: bool) -> bytes | None:
        """Read the data of a member, or pass over it; raises when it is not all there."""
        if size < 0:
            raise tarfile.ReadError(f"{name!r} has a negative size")
        there = self._stream.num_bytes
        most = MAX_UNSIZED_MEMBER_BYTES if there is None else there - self.offset - _BLOCK_BYTES
        if size > most:
            raise EOFError(f"{name!r} should be {size} bytes long")
        if not is_wanted:
            self._stream.skip(size)
            return None
        data = self._stream.read(size)
        if len(data) != size:
            raise EOFError(f"{name!r} should be {size} bytes long, {len(data)} are there")
        return data

    def _fields(self, kind: bytes, data: bytes | None, fields: dict[str, str]) -> dict[str, str]:
        """The fields of the next member, after one more header that holds some."""
        assert data is not None
        if kind == tarfile.GNUTYPE_LONGNAME:
            return fields | {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
        new = _pax_fields(data)
        if kind == tarfile.XGLTYPE:
            self._fields_of_all |= new
        return fields | new

    def _check_end(self, block: bytes) -> None:
        """Tell the end marker from what only looks like an end: a cut, a second archive."""
        if len(block) < _BLOCK_BYTES and (block or self.offset == 0):
            raise tarfile.ReadError("no valid member header")
        if self._on_odd is None and not self._is_layer:
            return
        if not block:
            self._note_end("the archive has no end marker; it may have been cut off between two members")
        while block:
            if block.strip(b"\0"):
                self._note_end("there is data after the end marker, which nobody reads (two archives joined?)")
                return
            block = self._stream.read(_COPY_BYTES)

    def _note_end(self, text: str) -> None:
        if self._is_layer:
            raise tarfile.ReadError(text)
        if self._on_odd is not None:
            self._on_odd(text)


def _plain_header(block: bytes) -> tuple[str, int, bytes] | None:
    """Name, size and type of a plain file as most programs write it, in a fifth of the time tarfile takes.

    None for every other header: long names, large sizes, numbers with blanks, damage.
    """
    size, checksum = block[124:135], block[148:154]
    if block[156:157] != tarfile.REGTYPE or len(block) != _BLOCK_BYTES or block[345]:
        return None
    if not (size.isdigit() and checksum.isdigit() and block[135] in _ENDS_NUMBER):
        return None
    try:
        # The low half of Adler-32 is one more than the sum of the bytes, modulo 65521, and quick to have.
        total = int(checksum, 8) + sum(block[148:156]) - 8 * 32
        if zlib.adler32(block) & 0xFFFF != (1 + total) % 65521:
            return None
        return block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), int(size, 8), tarfile.REGTYPE
    except ValueError:  # a digit above 7
        return None


_PACKED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_UNPACK = "unpack it, and make shards of the folder with `vila2 shards convert folder`"
_OTHERS = {
    b"PK\x03\x04": f"a ZIP archive: {_UNPACK}",
    b"7z\xbc\xaf": f"a 7z archive: {_UNPACK}",
    b"Rar!\x1a\x07": f"a RAR archive: {_UNPACK}",
    b"PAR1": "a Parquet file: make shards of it with `vila2 shards convert parquet`",
    b"version https://git-lfs": "the pointer that Git LFS leaves in place of a file: run `git lfs pull`",
}
_SHOWN_BYTES = 100
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<error", b"{")


def _refuse_foreign(place: str, start: bytes) -> None:
    """Raise DataError for an archive of another kind, and for what was sent or left in place of one."""
    if packer := next((name for magic, name in _PACKED.items() if start.startswith(magic)), ""):
        raise DataError(
            f"{place} is packed by {packer}, and only gzip is unpacked here: unpack it, or name the command "
            f"that does so, 'pipe:{packer} -dc FILE'"
        )
    what = next((what for magic, what in _OTHERS.items() if start.startswith(magic)), "")
    if start.lstrip().lower().startswith(_PAGES):
        text = masked(" ".join(start[:_SHOWN_BYTES].decode("utf-8", "replace").split()))
        what = f"text, as servers send in place of a file: {text!r}"
    if what:
        raise DataError(f"{place} is no tar but {what}")


def _pax_fields(data: bytes) -> dict[str, str]:
    """Read the `LENGTH KEY=VALUE\\n` lines of a pax header."""
    fields: dict[str, str] = {}
    while data.strip(b"\0"):
        digits = data.partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise tarfile.ReadError("a pax header is damaged")
        fields[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return fields


def key_problem(key: str) -> str | None:
    """Why a key cannot be written so that every reader gets it back, or None."""
    folder, _, basename = key.rpartition("/")
    if not basename or "." in basename:
        return "the last part of its key is empty or holds a dot"
    if key.startswith("/") or ".." in folder.split("/"):
        return "its key leads out of the archive"
    return "its key starts with '__'" if key.startswith("__") and _is_meta(key) else None
