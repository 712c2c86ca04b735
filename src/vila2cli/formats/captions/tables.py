"""Parquet with pictures in it, as Hugging Face `datasets` and many others write it."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

from vila2cli.errors import DataError, meant
from vila2cli.files import load_json
from vila2cli.formats.captions.chats import FIELDS, has_turns, messages_of
from vila2cli.formats.captions.items import Item, items_of
from vila2cli.formats.reading import Row, RowError, shown, stream_rows
from vila2cli.image import upright_header
from vila2cli.shards.sample import EncodedImage, Turn
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS

TEXTS = ("text", "caption", "txt", "original", "alt_text", "alt", "recaption", "captions")
"""Columns that are taken for the text, the first that a row fills."""
_JSON_COLUMNS = ("json", "meta")
"""Columns whose objects are metadata, as text or not: of tars that `datasets` has read, and of our exports."""
_BATCH = 32
_MIN_BASE64 = 128
"""Characters of the smallest picture in base64; a name that long has a dot in it."""


def read_parquet(path: Path, max_images: int, text: str = "") -> Iterator[Item | RowError]:
    """The rows of a file; `text` names the column of the caption."""
    if path.suffix not in (".parquet", ".arrow"):
        raise DataError(
            f"{path} is no .parquet or .arrow: name these files or the folder that holds them, of "
            "save_to_disk that of one split; `vila2 shards convert csv` and coyo read pairs in .jsonl"
        )
    return items_of(stream_rows(path, _BATCH), lambda row: _item(row, max_images, text))


def check_column(paths: Sequence[Path], text: str) -> None:
    """Raise DataError for a column of the caption that no file has."""
    firsts = [next(stream_rows(path, 1), None) for path in paths]
    columns = dict.fromkeys(name for row in firsts if isinstance(row, Row) for name in row.fields)
    if columns and text not in columns:
        raise DataError(
            f"{paths[0]} has no column {text!r}{meant(text, columns)}; it has {shown(list(columns))}: "
            "name one with --text"
        )


def _item(row: Row, max_images: int, text: str) -> Item:
    if text and text not in row:
        raise row.error(f"has no column {text!r}; it has {shown(list(row.fields))}", "no-caption")
    images: list[str | EncodedImage] = []
    files: list[str] = []
    meta: dict[str, Any] = {}
    for name, value in row.fields.items():
        pictures = list(_pictures(row, name, value))
        if pictures:
            images += pictures
            files += _file_names(value)
        elif name in _JSON_COLUMNS and (known := _object(row, name, value)) is not None:
            meta |= known
        elif value is not None and not isinstance(value, bytes):
            meta[name] = plain(value)
    if "messages" not in meta and has_turns(row):
        meta = {name: value for name, value in meta.items() if name not in FIELDS}
        meta["messages"] = messages_of(row, len(images))
    if not images and "messages" not in meta:
        raise row.error("has no picture: a column of bytes, or of bytes and path", "no-image")
    if len(images) > max_images:
        raise row.error(f"has {len(images)} pictures, and {max_images} are the most", "image-count")
    check_turns(row, meta)
    filled = [name for name in TEXTS if captions_in(meta.get(name))]
    worded = (name for name in filled if not isinstance(meta[name], int | float))  # no label beside a caption
    column = text or next(worded, next(iter(filled), ""))
    captions = captions_in(meta.pop(column, None))
    meta |= {"captions": captions} if len(captions) > 1 else {}
    has_names = len(files) == len(images) and not any(isinstance(image, str) for image in images)
    return Item(
        name=row.first("key", "__key__", "id", "url") or row.where,
        images=tuple(images),
        files=tuple(files) if has_names else (),
        text=next(iter(captions), None),
        meta=meta,
    )


def captions_in(value: Any) -> list[str]:
    """The captions that a column says, one or a list of several; a number is one, what is blank none."""
    values = value if isinstance(value, list) else [value]
    texts = [plain(one) for one in values if isinstance(one, str | int | float) and not isinstance(one, bool)]
    return list(dict.fromkeys(text for one in texts if one is not None and (text := str(one)).strip()))


def _file_names(value: Any) -> list[str]:
    """What the files of a value's pictures are called, as far as it says."""
    structs = value if isinstance(value, list) else [value]
    paths = [one.get("path") for one in structs if isinstance(one, Mapping)]
    return [path for path in paths if isinstance(path, str) and path]


def _pictures(row: Row, name: str, value: Any) -> Iterator[str | EncodedImage]:
    """The pictures that a value holds: bytes, a struct of bytes and path, or a list of those."""
    if isinstance(value, list) and value and all(_may_be_picture(one) for one in value):
        for one in value:
            yield from _pictures(row, name, one)
    elif isinstance(value, Mapping) and _may_be_picture(value):
        if isinstance(data := value["bytes"], bytes):
            yield _encoded(row, name, data, value.get("path"))
        elif isinstance(path := value.get("path"), str):
            yield path
    elif isinstance(value, bytes) and value:
        yield _encoded(row, name, value, None)


def _may_be_picture(value: Any) -> bool:
    is_struct = isinstance(value, Mapping) and {"bytes"} <= value.keys() <= {"bytes", "path"}
    return is_struct or isinstance(value, bytes)


def _encoded(row: Row, name: str, data: bytes, path: Any) -> EncodedImage:
    try:
        form = upright_header(data)[2]
    except DataError as error:
        raise row.error(f"{name}: {error}", "undecodable") from None
    extension = PurePosixPath(path).suffix[1:].lower() if isinstance(path, str) else ""
    if extension not in IMAGE_EXTENSIONS:
        extension = {"jpeg": "jpg", "jpeg2000": "jp2"}.get(form, form)
    return EncodedImage(data, extension if extension in IMAGE_EXTENSIONS else "jpg")


def embedded(row: Row, name: str, value: str) -> str | EncodedImage:
    """The picture that a text is in base64, perhaps as a data: URL; any other text as it is."""
    is_url = value.startswith("data:image/")
    if not is_url and (len(value) < _MIN_BASE64 or "." in value):
        return value
    try:
        data = base64.b64decode(value.partition(",")[2] if is_url else value, validate=not is_url)
    except ValueError:
        return value
    try:
        return _encoded(row, name, data, None)
    except RowError:
        if is_url:
            raise
        return value


def _object(row: Row, name: str, value: Any) -> dict[str, Any] | None:
    """Metadata in a column of its own; None for what is none."""
    if isinstance(value, str):
        try:
            value = load_json(value.encode("utf-8", "surrogatepass"))
        except ValueError:
            return None
    if not isinstance(value, dict):
        return None
    return {key: plain(one) for key, one in value.items() if one is not None}


def plain(value: Any) -> Any:
    """A value of Parquet as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if isinstance(value, str | int | bool | None) else str(value)


def check_turns(row: Row, meta: Mapping[str, Any]) -> None:
    """Raise RowError for a conversation that no reader of shards would take."""
    messages = meta.get("messages")
    if messages is None:
        return
    try:
        for message in messages:
            Turn.from_json(message)
    except (DataError, TypeError, AttributeError) as error:
        raise row.error(f"messages: {error}", "bad-conversation") from None
