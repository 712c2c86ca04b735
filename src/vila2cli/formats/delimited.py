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
    world. Columns without a name, such as the index of pandas, are left out. Raises DataError for a field in
    quotation marks that never ends, for it would hold all further rows.
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
        error = ""
        try:
            if (values := next(rows, None)) is None:
                return
        except csv.Error as wrong:
            if "unexpected end" in str(wrong):
                raise DataError(
                    f"{path}: a quotation mark opens a field on line {line} that is never closed; close it, or "
                    "double it and put the field in quotation marks"
                ) from None
            if "expected after" not in str(wrong):
                raise
            # Marks that are part of the text: a line by itself is read as it stands.
            values = _as_it_stands(taken[0], delimiter) if len(taken) == 1 else []
            lines = f"line {line}" if len(taken) == 1 else f"lines {line} to {rows.line_num}"
            error = f"{lines}: a field goes on behind its closing quotation mark"
        if len(values) == len(names):
            fields = {name: value for name, value in zip(names, values, strict=True) if name}
            yield Row(fields, "", line)
        elif values or error:
            counts = f"line {rows.line_num} has {len(values)} fields, and the first line names {len(names)}"
            yield RowError(error or counts, "bad-row", path.name)


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
