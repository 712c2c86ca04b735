"""Files of other tools and their rows, any of which may be malformed.

What is wrong with one is a `RowError` that says file, row, field and what was there. A benchmark's import ends
with it; conversion and building count it with its reason and go on.
"""

import codecs
import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vila2cli.errors import DataError
from vila2cli.files import check_value, load_unchecked, parse_json
from vila2cli.text.box_parsing import Box
from vila2cli.text.printable import shortened

Value = TypeVar("Value")
MAX_SHOWN_CHARS = 80
"""How much of a wrong value is shown."""
_NOT_BLANK = re.compile(r"\S")


class RowError(DataError):
    """What is wrong with one row, that in one word (`reason`), and the row's place."""

    def __init__(self, error: str, reason: str = "malformed", where: str = "") -> None:
        super().__init__(f"{where}: {error}" if where else error)
        self.error, self.reason, self.where = error, reason, where


@dataclass(slots=True)
class Row:
    """A value of a file, mostly an object, its place there, and the line of it where that is known, else 0.

    Each method gives a field as what it should be, or raises RowError. A field that is null counts as missing.
    """

    value: Any
    where: str
    line: int = 0

    def error(self, error: str, reason: str = "malformed") -> RowError:
        return RowError(error, reason, self.where)

    def wrong(self, name: str, expected: str, reason: str = "malformed") -> RowError:
        """The error of a field that holds something else than it should."""
        return self.error(f"{name} is {shown(self.fields.get(name))}, not {expected}", reason)

    @property
    def fields(self) -> Mapping[str, Any]:
        if not isinstance(self.value, Mapping):
            raise self.error(f"is {shown(self.value)}, not an object")
        return self.value

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)

    def need(self, name: str) -> Any:
        """The value of a field that must be there."""
        if self.fields.get(name) is None:
            others = islice((key for key, value in self.fields.items() if value is not None), 8)
            raise self.error(f"has no {name!r}; it has {shown(list(others))}")
        return self.fields[name]

    def child(self, name: str) -> "Row":
        return Row(self.need(name), f"{self.where}: {name}" if self.where else name)

    def items(self) -> Iterator[tuple[str, "Row"]]:
        """The fields of an object of objects."""
        for name, value in self.fields.items():
            yield name, Row(value, f"{self.where}[{shown(name)}]")

    def elements(self) -> Iterator["Row"]:
        """The elements of a list, one at a time: an annotation file has a million."""
        if not isinstance(self.value, list):
            raise self.error(f"is {shown(self.value)}, not a list")
        for number, value in enumerate(self.value):
            yield Row(value, f"{self.where}[{number}]")

    def listed(self, name: str) -> list[Any]:
        """The list of this name, empty where there is none."""
        value = self.fields.get(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "a list")
        return value or []

    def rows(self, name: str) -> Iterator["Row"]:
        """The elements of the list of this name, none where there is none."""
        if self.listed(name):
            yield from self.child(name).elements()

    def need_rows(self, name: str) -> Iterator["Row"]:
        """The elements of the list of this name, which must be there and hold objects."""
        values = self.need(name)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, "a list of objects")
        return self.child(name).elements()

    def text(self, name: str) -> str:
        if not isinstance(value := self.need(name), str):
            raise self.wrong(name, "text")
        return value

    def filled(self, name: str) -> str:
        """A text that is not empty, as a file name."""
        if not (text := self.text(name)).strip():
            raise self.error(f"{name} is empty")
        return text

    def string(self, name: str) -> str:
        """Whatever stands there, as text."""
        return str(self.need(name))

    def strings(self, name: str) -> list[str]:
        """A list of texts or numbers, as texts."""
        values = self.need(name)
        if not isinstance(values, list) or not all(isinstance(value, str | int | float) for value in values):
            raise self.wrong(name, "a list of texts")
        return list(map(str, values))

    def id(self, name: str) -> int | str:
        value = self.need(name)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.wrong(name, "a number or text")
        return value

    def number(self, value: object, name: str, reason: str = "malformed") -> float:
        """A value of this row as a finite number."""
        try:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            number = float(value) if is_number else math.nan  # type: ignore[arg-type]
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(f"{name} is {shown(value)}, not a finite number", reason)
        return number

    def box(self, value: object, name: str) -> Box:
        """A value of this row as the four numbers of a box."""
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
            raise self.error(f"{name} is {shown(value)}, not four numbers", "not-a-box")
        a, b, c, d = (self.number(side, f"{name}[{i}]", "not-a-box") for i, side in enumerate(value))
        return a, b, c, d

    def box_of_parts(self, *names: str) -> Box:
        """A box whose numbers stand under a name each."""
        if missing := [name for name in names if self.fields.get(name) is None]:
            raise self.error(f"has no {missing[0]!r}", "not-a-box")
        a, b, c, d = (self.number(self.fields[name], name, "not-a-box") for name in names)
        return a, b, c, d

    def first(self, *names: str) -> str | None:
        """The first of these fields that is text, and not empty, or a whole number, as text."""
        values = (self.fields.get(name) for name in names)
        return next((str(value) for value in values if isinstance(value, str | int) and value != ""), None)

    def size(self, width: str = "width", height: str = "height") -> tuple[float, float] | None:
        """Width and height in pixels, None where they are not stated."""
        if not self.get(width) and not self.get(height):
            return None
        sides = self.number(self.get(width), width), self.number(self.get(height), height)
        if min(sides) <= 0:
            raise self.error(f"{width} and {height} are {sides[0]:g} and {sides[1]:g}")
        return sides


def stated(read: Callable[[str], Value], name: str) -> Value | None:
    """What a method of a row reads under a name, None where that is malformed."""
    try:
        return read(name)
    except RowError:
        return None


def shown(value: object) -> str:
    """A wrong value for a message, cut to a length that fits a line."""
    return shortened(repr(value), MAX_SHOWN_CHARS)


def read_document(path: Path, *names: str, kind: type = list) -> Row:
    """A JSON file that is one object, with lists (or what `kind` says) of these names."""
    document = Row(parse_json(read_bytes(path), str(path)), path.name)
    if missing := [name for name in names if not isinstance(document.get(name), kind)]:
        what = "list" if kind is list else "object"
        raise DataError(f"{path} has no {what} {missing[0]!r}; is it of another --format?")
    return document


def read_list(path: Path) -> Iterator[Row]:
    """A JSON file that is a list with objects in it."""
    value = load_packed(path)
    if not isinstance(value, list) or (value and not any(isinstance(element, dict) for element in value)):
        raise DataError(f"{path} should hold a JSON list of objects; is it of another --format?")
    return Row(value, path.name).elements()


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; raises DataError, also for one with nothing in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if not data.strip():
        raise DataError(f"{path} is empty")
    return data


def read_text(path: Path) -> str:
    """A file's text; raises DataError where it is not in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from None


def not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    """What to say of a text file in another encoding."""
    encoding = "utf-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin1"
    return DataError(
        f"cannot read {path}: it is not in UTF-8 ({error.reason} at byte {error.start}); convert it, for "
        f"instance with iconv -f {encoding} -t utf-8"
    )


def read_values(path: Path) -> list[Any]:
    """The JSON values of a file: one value, one per line, or one after the other.

    Raises DataError naming file and line for what is no JSON.
    """
    text = read_text(path).rstrip()
    decoder, values, end = json.JSONDecoder(), [], 0
    while found := _NOT_BLANK.search(text, end):
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, found.start()) + 1
            raise DataError(f"{path}, line {line}: no JSON: {error}") from None
        values.append(value)
    return values


def read_rows(path: Path, key: str | None = None) -> list[Row]:
    """The objects of a JSON file, a JSON-lines file or a Parquet file; of one object those under `key`."""
    if path.suffix == ".parquet":
        rows: Any = list(_parquet(path))
        if not rows:
            raise DataError(f"{path} holds no rows")
    else:
        values = read_values(path)
        rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
        if key is not None and len(values) == 1 and isinstance(values[0], dict):
            rows = values[0].get(key)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        where = f"a list of objects under {key!r}" if key else "a list of objects, or one on each line"
        raise DataError(f"{path} should hold {where}")
    return [Row(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def read_object(path: Path) -> Row:
    """The one JSON object of a file."""
    values = read_values(path)
    if len(values) != 1 or not isinstance(values[0], dict):
        raise DataError(f"{path} should hold one JSON object")
    return Row(values[0], str(path))


def stream_rows(path: Path, batch_size: int = 1024) -> Iterator[Row | RowError]:
    """The rows of a large file by its name: .json (one list), .jsonl, .ndjson, .csv, .tsv, any of them also as
    .gz and .zip, or .parquet, or .arrow as datasets saves to disk.

    A row that is no JSON object is a RowError in its place. Of Parquet `batch_size` rows are in memory, which
    may hold pictures. Raises DataError for a file that cannot be read as a whole.
    """
    suffixes = [suffix for suffix in map(str.lower, path.suffixes) if suffix not in (".gz", ".zip")]
    if suffixes[-1:] in ([".parquet"], [".arrow"]):
        rows: Iterator[Any] = _parquet(path, batch_size)
    elif suffixes[-1:] in ([".jsonl"], [".ndjson"]):
        rows = _lines(path)
    elif suffixes[-1:] in ([".csv"], [".tsv"]):
        from vila2cli.formats.delimited import delimited_rows

        rows = delimited_rows(path)
    else:
        value = load_packed(path)
        if not isinstance(value, list):
            raise DataError(f"{path} should hold a list of objects; a file of JSON lines is named .jsonl")
        rows = (_checked(row, f"entry {number}", path.name) for number, row in enumerate(value, 1))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Row | RowError):
            row = Row(row, "")
        if isinstance(row, Row):
            row.where = f"{path.name}, item {number}"
        yield row


def load_packed(path: Path) -> Any:
    """The one JSON value of a file, which may be packed as .gz or .zip."""
    with opened(path) as stream:
        return load_unchecked(stream.read())


def _lines(path: Path) -> Iterator[Any]:
    with opened(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                if line.strip():
                    yield _checked(load_unchecked(line), f"line {number}", path.name)
            except ValueError as error:
                yield RowError(f"line {number} is no JSON: {error}", "bad-row", path.name)


def _checked(row: Any, place: str, name: str) -> Any:
    """One row of many: half a character in it is its own fault alone."""
    try:
        check_value(row)
    except UnicodeError:
        return RowError(f"{place} holds half a character", "not-utf8", name)
    except ValueError as error:
        return RowError(f"{place}: {error}", "bad-row", name)
    return row if isinstance(row, dict) else RowError(f"{place} is no object", "bad-row", name)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file that may be packed; raises DataError, also for what is read of it inside."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                if len(names) != 1:
                    raise DataError(f"{path} should hold one file, it holds {len(names)}")
                with archive.open(names[0]) as packed:
                    yield io.BufferedReader(packed)  # type: ignore[type-var]
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                yield stream  # type: ignore[misc]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _parquet(path: Path, batch_size: int = 1024) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, memory_map
        from pyarrow.ipc import open_stream
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'vila2cli[parquet]'") from None
    try:
        if path.suffix.lower() == ".arrow":
            with memory_map(str(path)) as file:
                for whole in open_stream(file):
                    starts = range(0, whole.num_rows, batch_size)
                    yield from chain.from_iterable(whole.slice(at, batch_size).to_pylist() for at in starts)
            return
        for batch in ParquetFile(path).iter_batches(batch_size=batch_size):
            yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from None
