"""Tars in the WebDataset form that other tools wrote: captions, conversations and documents in KEY.json."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.captions.chats import FIELDS, has_turns, messages_of
from vila2cli.formats.captions.downloads import samples_in
from vila2cli.formats.captions.items import Item
from vila2cli.formats.captions.tables import TEXTS, captions_in
from vila2cli.formats.reading import Row, RowError, shown
from vila2cli.image import pages
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.sample import EncodedImage, Sample, field_text


def read_webdataset(path: Path, max_images: int, text: str = "") -> Iterator[Item | RowError]:
    """The samples of a tar.

    The caption is the field `text` of the JSON, where that is given; else KEY.txt, or the first field called as
    captions are. `conversations` or `messages` make a conversation, `texts` and `images` of one length a web
    document, whose pictures are `KEY.0.jpg`, `KEY.1.jpg`, ... or the pages of a TIFF.
    """
    for sample in samples_in(path) if path.is_file() else ():
        try:
            yield sample if isinstance(sample, RowError) else _item(sample, path, max_images, text)
        except RowError as error:
            yield error


def _item(sample: Sample, path: Path, max_images: int, text: str) -> Item:
    row = Row(sample.meta, f"{path.name}, {sample.key}")
    meta, images = dict(sample.meta), sample.images
    if (document := _document(row, images, max_images)) is not None:
        images, interleaved = document
        meta = {key: value for key, value in meta.items() if key not in ("texts", "images")}
        meta["interleaved"] = interleaved
    elif "messages" not in meta and has_turns(row):
        meta = {key: value for key, value in meta.items() if key not in FIELDS}
        meta["messages"] = messages_of(row, len(images))
    if not images and "messages" not in meta:
        raise row.error("there is no picture of this key", NO_IMAGE)
    captions = _captions(row, sample, text)
    files = tuple(f"{sample.key}.{image.extension}" for image in images) if len(images) == 1 else ()
    meta |= {"captions": captions} if len(captions) > 1 else {}
    return Item(name=sample.key, images=images, files=files, text=next(iter(captions), None), meta=meta)


def _captions(row: Row, sample: Sample, text: str) -> list[str]:
    if not text:
        worded = (captions_in(row.get(name)) for name in TEXTS if not isinstance(row.get(name), int | float))
        return captions_in(sample.text) or next(filter(None, worded), [])
    if text in row:
        return captions_in(row.get(text))
    if (value := field_text(sample.meta, text)) is None:
        raise row.error(f"has no {text!r} in its JSON; it has {shown(list(sample.meta))}", "no-caption")
    return [value]


def _document(
    row: Row, images: Sequence[EncodedImage], max_images: int
) -> tuple[tuple[EncodedImage, ...], Mapping[str, Any]] | None:
    """The pictures and places of a web document, of which the first `max_images` are kept; None for none."""
    texts, named = row.get("texts"), row.get("images")
    if not isinstance(texts, list) or not isinstance(named, list) or len(texts) != len(named):
        return None
    num_there, pictures = _pages(row, images, max_images)
    if (stated := sum(name is not None for name in named)) != num_there:
        raise row.error(f"the document names {stated} images, {num_there} are there", "image-count")
    places: list[tuple[str | None, int | None]] = []
    for text, name in zip(texts, named, strict=True):
        num = sum(place is not None for _, place in places)
        if name is not None and num < max_images:
            places.append((None, num))
        elif isinstance(text, str) and text.strip():
            places.append((text, None))
    kept = tuple(pictures[:max_images])
    if not kept or not any(text for text, _ in places):
        raise row.error(f"the document has no {'text' if kept else 'image'}", "bad-document")
    return kept, {"texts": [text for text, _ in places], "images": [place for _, place in places]}


def _pages(row: Row, images: Sequence[EncodedImage], most: int) -> tuple[int, Sequence[EncodedImage]]:
    """How many pictures there are, and at least the first `most` of them."""
    if len(images) != 1 or images[0].extension not in ("tif", "tiff"):
        return len(images), images
    try:
        num, found = pages(images[0].data, most)
        return num, [EncodedImage(data, "png") for data in found]
    except DataError as error:
        raise row.error(str(error), "undecodable") from None
