"""Which column of a table holds what: by the name that the user gives, else by what others call it."""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, meant
from vila2cli.formats.captions.tables import check_turns, plain
from vila2cli.formats.reading import Row, RowError, shown, stream_rows

PICTURES = (
    *("image", "file_name", "filename", "image_path", "img_path", "filepath", "file_path", "path", "file"),
    *("image_name", "image_file", "img", "picture", "photo", "url", "image_url", "name", "key", "id"),
    "image_id",
)
TEXTS = (
    *("caption", "text", "alt", "alt_text", "alttext", "description", "captions", "txt", "sentence", "title"),
    *("comment", "raw"),
)
"""What columns are called, the likeliest first; upper case, spaces and hyphens make no difference."""
_LOOKED_AT = 1000


def columns_of(path: Path, wanted: Collection[str] = (), most: int | None = _LOOKED_AT) -> list[str]:
    """The columns of a table: of its first thousand rows, as those of JSON may lack any.

    With `wanted` it is enough to have seen these.
    """
    columns: dict[str, None] = {}
    for row in islice(stream_rows(path, 1), most):
        if not isinstance(row, RowError):
            columns |= dict.fromkeys(row.fields)
            if path.suffix == ".parquet" or (wanted and columns.keys() >= set(wanted)):
                break
    return list(columns)


def picture_column(path: Path, columns: Collection[str], given: str) -> str:
    """The column that names pictures; raises DataError where there is none."""
    return find_column(path, columns, given, PICTURES, "--picture", "names pictures")


def text_column(path: Path, columns: Collection[str], given: str) -> str:
    """The column of the captions, "" where none is called so; raises DataError for one given and not there."""
    return _find(path, columns, given, TEXTS, "--text")


def find_column(
    path: Path, columns: Collection[str], given: str, names: Sequence[str], option: str, use: str
) -> str:
    """The column given, or one of these `names`; raises DataError where there is none, saying its `use`."""
    if not columns:
        raise DataError(f"{path} has no row that can be read")
    found = _find(path, columns, given, names, option)
    if not found:
        has = f"such as {', '.join(names[:3])}; it has {shown(list(columns))}"
        raise DataError(f"{path} has no column that {use}, {has}: name one with {option}")
    return found


def _find(path: Path, columns: Collection[str], given: str, names: Sequence[str], option: str) -> str:
    if given:
        if given not in columns:
            has = f"it has {shown(list(columns))}"
            raise DataError(
                f"{path} has no column {given!r}{meant(given, columns)}; {has}: name one with {option}"
            )
        return given
    known: dict[str, str] = {}
    for column in columns:
        known.setdefault(column.strip().lower().replace(" ", "_").replace("-", "_"), column)
    return next((known[name] for name in names if name in known), "")


def metadata(row: Row, without: Collection[str]) -> dict[str, Any]:
    """What a row says beside picture and text; raises RowError for what no reader of shards would take."""
    meta = {
        name: plain(value)
        for name, value in row.fields.items()
        if name not in without and value not in (None, "") and not _holds_bytes(value)
    }
    if "interleaved" in meta:
        raise row.error(
            "has a column 'interleaved', which means a web document in shards; rename it", "bad-row"
        )
    check_turns(row, meta)
    return meta


def _holds_bytes(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes))
