"""Formats whose items are rows of a file: LLaVA, COCO, image-text pairs, MMC4 and OBELICS."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from vila2cli.formats.captions.chats import messages_of
from vila2cli.formats.captions.columns import columns_of, metadata, picture_column, text_column
from vila2cli.formats.captions.items import Item, ItemReader, items_of
from vila2cli.formats.captions.tables import captions_in, embedded
from vila2cli.formats.reading import Row, RowError, load_packed, stated, stream_rows

_TEXT_KEYS = ("text", "caption", "alt")
MAX_NAME_CHARS = 2000
"""A longer name is none: it may be a picture in base64."""
_IMAGE_KEYS = ("image", "file_name", "url")
_ORIGIN_KEYS = ("id", "url", "doc_id", "title", "license")
"""What tells where an item came from, kept in KEY.json."""


def _by_row(item_of: Callable[[Row, int], Item]) -> ItemReader:
    @wraps(item_of)
    def read(path: Path, max_images: int) -> Iterator[Item | RowError]:
        return items_of(stream_rows(path), lambda row: item_of(row, max_images))

    return read


@_by_row
def read_llava(row: Row, _: int) -> Item:
    """A conversation as `messages_of` reads it, with one name in `image` or `images`, several, or none."""
    if row.get("video") or row.get("videos"):
        raise row.error("videos are not read", "video")
    column = "image" if row.get("image") else "images"
    named = row.get(column) or []
    images = [named] if isinstance(named, str) else named
    if not isinstance(images, list) or not all(isinstance(image, str | int) for image in images):
        how = "a name or a list of names (pictures within are read by `vila2 shards convert parquet`)"
        raise row.wrong(column, how, "bad-row")
    meta = {"messages": messages_of(row, len(images)), **_origin(row)}
    return Item(name=_name(row), images=tuple(embedded(row, column, str(image)) for image in images), meta=meta)


def read_coco(path: Path, _: int) -> Iterator[Item | RowError]:
    """Images with their captions, which may be in any order."""
    return items_of(_coco_rows(path), _coco)


def _coco(row: Row) -> Item:
    """An image with any captions, joined by `_coco_rows`; the first is the text, all are in the JSON."""
    file, captions = row.get("file_name"), row.get("captions")
    if not file:
        error = f"{len(captions)} captions of image {row.get('id')}, which is not listed"
        raise row.error(error, "no-image-entry")
    captions = [text.strip() for text in captions if isinstance(text, str) and text.strip()]
    size = {name: row.get(name) for name in ("width", "height") if name in row}
    meta = {**({"captions": captions} if captions else {}), **size, **_origin(row)}
    return Item(name=str(file), images=(str(file),), text=next(iter(captions), None), meta=meta)


def _coco_rows(path: Path) -> Iterator[Row | RowError]:
    table = Row(load_packed(path), str(path))
    rows: dict[Any, dict[str, Any] | RowError] = {}
    captions: dict[Any, list[Any]] = {}
    for number, image in enumerate(table.rows("images"), 1):
        name = f"image {number}"
        if (key := stated(image.id, "id")) is None:
            rows[name] = RowError(f"{name} has no id that is a number or text", "bad-row", path.name)
        else:
            captions[key] = []
            rows[key] = {**image.fields, "captions": captions[key]}
    for number, annotation in enumerate(table.rows("annotations"), 1):
        name = f"annotation {number}"
        if (key := stated(annotation.id, "image_id")) is None:
            rows[name] = RowError(f"{name} names no image", "bad-row", path.name)
        else:
            rows.setdefault(key, {"id": key, "captions": captions.setdefault(key, [])})
            captions[key].append(annotation.get("caption"))
    for number, row in enumerate(rows.values(), 1):
        yield row if isinstance(row, RowError) else Row(row, f"{path.name}, item {number}")


@_by_row
def read_pairs(row: Row, _: int) -> Item:
    """An image and its alt-text, if any, as COYO's rows: `text`, and an `image`, `file_name` or `url`."""
    texts, images = _texts(row, _TEXT_KEYS), [name for name in _texts(row, _IMAGE_KEYS) if name]
    text = next((text for text in texts if text.strip()), None)
    if not images:
        raise row.error(f"{_name(row)} names no image", "no-image-entry")
    rest = {key: value for key, value in row.fields.items() if key not in (*_TEXT_KEYS, "image", "file_name")}
    return Item(name=_name(row), images=(embedded(row, "image", images[0]),), text=text, meta=rest)


@dataclass(frozen=True, slots=True)
class ListReader:
    """Reads tables of pictures by path or URL, of which any column may be the caption or none."""

    picture: str = ""
    text: str = ""

    def __call__(self, path: Path, _: int) -> Iterator[Item | RowError]:
        columns = columns_of(path)
        named = picture_column(path, columns, self.picture)
        said = text_column(path, columns, self.text)
        return items_of(stream_rows(path), lambda row: self._item(row, named, said))

    def _item(self, row: Row, named: str, said: str) -> Item:
        name = row.get(named)
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise row.wrong(named, "the name of a picture", "no-image-entry")
        name = str(name).strip()
        captions = captions_in(row.get(said) if said else None)
        meta = metadata(row, (said,) if "://" in name else (named, said))
        meta |= {"captions": captions} if len(captions) > 1 else {}
        text = next(iter(captions), None)
        image = embedded(row, named, name)
        return Item(name=name if image == name else _name(row), images=(image,), text=text, meta=meta)


def _texts(row: Row, keys: Sequence[str]) -> list[str]:
    return [value for key in keys if isinstance(value := row.get(key), str)]


@_by_row
def read_mmc4(row: Row, max_images: int) -> Item:
    """A web document: sentences, and before each the images that were matched to it, at most `max_images`
    in all, as VILA reads it (VILA section 2 and released loader)."""
    sentences, infos = row.get("text_list"), row.get("image_info")
    if not isinstance(sentences, list) or not isinstance(infos, list):
        raise row.error("a document needs 'text_list' and 'image_info'", "bad-document")
    for info in infos:
        index = info.get("matched_text_index") if isinstance(info, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(sentences):
            raise row.error(f"an image is matched to sentence {index!r} of {len(sentences)}", "bad-document")
    kept = sorted(infos, key=lambda info: int(info["matched_text_index"]))[:max_images]
    places: list[tuple[str | None, str | None]] = []
    for index, sentence in enumerate(sentences):
        own = [info for info in kept if info["matched_text_index"] == index]
        places += [(None, str(info.get("image_name") or info.get("raw_url"))) for info in own]
        places += [(sentence, None)] if isinstance(sentence, str) and sentence.strip() else []
    return _document(row, places)


@_by_row
def read_obelics(row: Row, max_images: int) -> Item:
    """A web document: `texts` and `images` of one length, one of the two at every position."""
    texts, images = row.get("texts"), row.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        raise row.error("a document needs 'texts' and 'images' of one length", "bad-document")
    places: list[tuple[str | None, str | None]] = []
    for text, image in zip(texts, images, strict=True):
        if isinstance(image, str) and image and sum(place[1] is not None for place in places) < max_images:
            places.append((None, image))
        elif isinstance(text, str) and text.strip():
            places.append((text, None))
    return _document(row, places)


def _document(row: Row, places: Sequence[tuple[str | None, str | None]]) -> Item:
    texts, images = [text for text, _ in places], [image for _, image in places]
    named = tuple(image for image in images if image is not None)
    if not named or not any(texts):
        raise row.error(f"the document has no {'text' if named else 'image'}", "bad-document")
    meta = {"interleaved": {"texts": texts, "images": images}, **_origin(row)}
    return Item(name=_name(row), images=named, meta=meta, may_lose=True)


def _name(row: Row) -> str:
    name = row.first("id", "doc_id", "url", "image", "title") or "an item without id"
    return name if len(name) <= MAX_NAME_CHARS else row.where


def _origin(row: Row) -> dict[str, Any]:
    return {key: row.get(key) for key in _ORIGIN_KEYS if key in row}
