"""Tables with commas, semicolons or tabs between, and the names of their columns in the first line."""

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.formats.reading import Row, RowError, not_utf8, opened

_COMMAS = ",;\t"


def delimited_rows(path: Path) -> Iterator[Row | RowError]:
    """The rows of a .csv or .tsv by the names of their columns; one of another length is a RowError.

    `line` of a row is the one of the file that it begins on, the line with the names being the first.

    Of a .csv the delimiter is what its first line has most of, as spreadsheets write semicolons in half of the
    world. Columns without a name, such as the index of pandas, are left out. A quotation mark that is never
    closed is part of the text where each line by itself has all fields; else, as it would hold all further
    rows, it raises DataError.
    """
    csv.field_size_limit(min(sys.maxsize, 1 << 31))
    with opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        try:
            yield from _rows(path, text)
        except UnicodeDecodeError as error:
            raise not_utf8(path, error) from None
        except csv.Error as error:
            raise DataError(f"cannot read {path}: {error}") from None


def _rows(path: Path, text: io.TextIOWrapper) -> Iterator[Row | RowError]:
    first = text.readline()
    delimiter = "\t" if ".tsv" in path.name.lower() else max(_COMMAS, key=first.count)
    taken: list[str] = []
    rows = csv.reader(_noted(chain([first], text), taken), delimiter=delimiter, strict=True)
    names = [name.strip() for name in next(rows, [])]
    named = [name for name in names if name]
    if not named:
        raise DataError(f"{path} is empty: its first line should name the columns")
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise DataError(f"{path} has two columns called {twice!r}; rename one")
    while True:
        line = rows.line_num + 1
        taken.clear()
        try:
            values = next(rows, None)
        except csv.Error as error:
            yield from _mended(path, names, line, [_as_it_stands(one, delimiter) for one in taken], error)
            continue
        if values is None:
            return
        if values:
            yield _row(path, names, line, values)


def _row(path: Path, names: list[str], line: int, values: list[str]) -> Row | RowError:
    if len(values) == len(names):
        return Row({name: value for name, value in zip(names, values, strict=True) if name}, "", line)
    counts = f"line {line} has {len(values)} fields, and the first line names {len(names)}"
    return RowError(counts, "bad-row", path.name)


def _mended(
    path: Path, names: list[str], line: int, each: list[list[str]], error: csv.Error
) -> Iterator[Row | RowError]:
    """The rows of lines, from `line` on, whose quotation marks are part of the text; an error for others."""
    is_cut = "unexpected end" in str(error)  # as the last line of a file may be, with its mark still open
    is_text = len(each) > 1 and len(names) > 1 if is_cut else len(names) > 1 or len(each) == 1
    if is_text and all(len(values) == len(names) for values in each):
        for number, values in enumerate(each, line):
            yield _row(path, names, number, values)
    elif is_cut:
        raise DataError(
            f"{path}: a quotation mark opens a field on line {line} that is never closed; close it, or "
            "double it and put the field in quotation marks"
        ) from None
    elif "expected after" not in str(error):
        raise error
    else:
        lines = f"lines {line} to {line + len(each) - 1}" if len(each) > 1 else f"line {line}"
        yield RowError(f"{lines}: a field goes on behind its closing quotation mark", "bad-row", path.name)


def _as_it_stands(line: str, delimiter: str) -> list[str]:
    """The fields of a line whose quotation marks are text, unless only blanks behind them were wrong."""
    line = line.rstrip("\r\n")
    with suppress(csv.Error):
        closed = re.sub(rf'" +(?={re.escape(delimiter)}|$)', '"', line)
        return next(csv.reader([closed], delimiter=delimiter, strict=True), [])
    return line.split(delimiter)


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    """The lines, each of which is also put into `taken`."""
    for line in lines:
        taken.append(line)
        yield line
