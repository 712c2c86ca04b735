"""Tables with commas, semicolons or tabs between, and the names of their columns in the first line."""

import csv
import io
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.formats.reading import Row, RowError, not_utf8, opened

_COMMAS = ",;\t"


def delimited_rows(path: Path) -> Iterator[Row | RowError]:
    """The rows of a .csv or .tsv by the names of their columns; one of another length is a RowError.

    `line` of a row is the one of the file that it begins on, the line with the names being the first.

    Of a .csv the delimiter is what its first line has most of, as spreadsheets write semicolons in half of the
    world. Columns without a name, such as the index of pandas, are left out.
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
    rows = csv.reader(chain([first], text), delimiter=delimiter)
    names = [name.strip() for name in next(rows, [])]
    named = [name for name in names if name]
    if not named:
        raise DataError(f"{path} is empty: its first line should name the columns")
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise DataError(f"{path} has two columns called {twice!r}; rename one")
    before = rows.line_num
    for values in rows:
        line, before = before + 1, rows.line_num
        if not values:
            continue
        if len(values) == len(names):
            fields = {name: value for name, value in zip(names, values, strict=True) if name}
            yield Row(fields, "", line)
        else:
            error = f"line {rows.line_num} has {len(values)} fields, and the first line names {len(names)}"
            yield RowError(error, "bad-row", path.name)
