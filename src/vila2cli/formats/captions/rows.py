"""Rows of annotation files: JSON, JSON lines (plain, gzip or zip) and Parquet."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vila2cli.errors import DataError
from vila2cli.files import check_value, load_unchecked
from vila2cli.shards.members import Unusable

Row = dict[str, Any] | Unusable
"""A row as it lies in the file, or why it is none."""


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file by its name: .json (one list), .jsonl or .ndjson, also .gz and .zip, or .parquet.

    A line that is no JSON object is an Unusable in its place. Raises DataError for a file that cannot
    be read as a whole.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zip")]
    if suffixes[-1:] == [".parquet"]:
        yield from _parquet(path)
        return
    try:
        with _opened(path) as stream:
            if suffixes[-1:] in ([".jsonl"], [".ndjson"]):
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield _object(line, f"line {number}")
                return
            value = load_unchecked(stream.read())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(value, list):
        raise DataError(f"{path} should hold a list of objects; a file of JSON lines is named .jsonl")
    for number, row in enumerate(value, 1):
        yield _checked(row, f"entry {number}")


def read_table(path: Path) -> dict[str, Any]:
    """A JSON file that is one object, as COCO's are."""
    try:
        with _opened(path) as stream:
            value = load_unchecked(stream.read())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} should hold one object")
    return value


def files_in(inputs: Sequence[Path], endings: Sequence[str]) -> list[Path]:
    """The files given, and of folders those with these endings, in order of their names."""
    found: list[Path] = []
    for place in inputs:
        if place.is_dir():
            own = sorted(path for path in place.iterdir() if path.name.endswith(tuple(endings)))
            if not own:
                raise DataError(f"{place} holds no file that ends in {', '.join(endings)}")
            found += own
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(f"{place} does not exist")
    return found


def _object(line: bytes, where: str) -> Row:
    try:
        row = load_unchecked(line)
    except ValueError as error:
        return Unusable("bad-row", f"{where} is no JSON: {error}")
    return _checked(row, where)


def _checked(row: Any, where: str) -> Row:
    """One row of many: half a character in it is its own fault alone."""
    try:
        check_value(row)
    except UnicodeError:
        return Unusable("not-utf8", f"{where} holds half a character")
    except ValueError as error:
        return Unusable("bad-row", f"{where}: {error}")
    return row if isinstance(row, dict) else Unusable("bad-row", f"{where} is no object")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1:
                raise DataError(f"{path} should hold one file, it holds {len(names)}")
            with archive.open(names[0]) as stream:
                yield io.BufferedReader(stream)  # type: ignore[type-var]
    elif path.suffix == ".gz":
        with gzip.open(path) as stream:
            yield stream  # type: ignore[misc]
    else:
        with path.open("rb") as stream:
            yield stream


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'vila2cli[parquet]'") from None
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
