"""What each item of the input becomes: its images by name, its text, and the files of its sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import to_json_bytes
from vila2cli.formats.captions.images import ImageStore
from vila2cli.formats.reading import RowError
from vila2cli.formats.registry import Format
from vila2cli.shards.sample import EncodedImage

_TABLES = (".json", ".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zip", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of the input; an image is named, or is there already.

    `name` tells it from the others in an error. Of a document `may_lose` says that an image which is
    missing is left out instead of the whole; then `meta["interleaved"]["images"]` holds the names.
    """

    name: str
    images: tuple[str | EncodedImage, ...] = ()
    text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    may_lose: bool = False


ItemReader = Callable[[Path, int], Iterator[Item | RowError]]
"""From a source, and the most images of a document, to its items in order, or why one cannot be used."""


def sources_of(form: Format, inputs: Sequence[Path]) -> list[Path]:
    """The files that hold items, and for formats in shards folders of loose files, in order and each once."""
    first: dict[Path, Path] = {}
    for path in _tars_and_folders(inputs) if form.in_shards else _tables(inputs):
        first.setdefault(path.resolve(), path)
    return list(first.values())


def _tables(inputs: Sequence[Path]) -> Iterator[Path]:
    """The files given, and of folders those that may hold rows, in order of their names."""
    for place in inputs:
        if place.is_dir():
            tables = sorted(path for path in place.iterdir() if path.name.endswith(_TABLES))
            if not tables:
                raise DataError(f"{place} holds no file that ends in {', '.join(_TABLES)}")
            yield from tables
        elif place.is_file():
            yield place
        else:
            raise DataError(f"{place} does not exist")


def _tars_and_folders(inputs: Sequence[Path]) -> Iterator[Path]:
    """Tars or folders of files as img2dataset writes them; what it could not download is in its tables."""
    for place in inputs:
        if not place.is_dir():
            yield place
            continue
        for folder in [place, *sorted(path for path in place.rglob("*") if path.is_dir())]:
            yield from sorted(folder.glob("*.tar"))
            yield folder


def members_of(item: Item | RowError, store: ImageStore) -> tuple[dict[str, bytes], int]:
    """The files of a sample and how many of its images are missing; raises RowError."""
    if isinstance(item, RowError):
        raise item
    images: list[EncodedImage] = []
    missing: list[str] = []
    for image in item.images:
        try:
            images.append(image if isinstance(image, EncodedImage) else store.find(image))
        except RowError as error:
            if not item.may_lose:
                raise RowError(str(error), error.reason, item.name) from None
            missing.append(str(image))
    if item.may_lose and not images:
        raise RowError(f"none of its images is there: {', '.join(missing)}", "missing-image", item.name)
    if item.images and not item.text and not {"messages", "interleaved"} & item.meta.keys():
        raise RowError(f"{item.name} has no text", "no-caption")
    several = len(images) > 1
    members = {
        f"{i}.{image.extension}" if several else image.extension: image.data for i, image in enumerate(images)
    }
    if item.text:
        members["txt"] = item.text.strip().encode("utf-8", "replace")
    if meta := _meta(item, missing):
        try:
            members["json"] = to_json_bytes(meta)
        except (ValueError, TypeError) as error:
            raise RowError(str(error), "bad-json", item.name) from None
    return members, len(missing)


def _meta(item: Item, missing: Sequence[str]) -> dict[str, Any]:
    """KEY.json: of a document the places of the images that are there, counted from 0."""
    meta = dict(item.meta)
    if not item.may_lose:
        return meta
    texts: list[str | None] = []
    places: list[int | None] = []
    gone = list(missing)
    num = 0
    for text, image in zip(meta["interleaved"]["texts"], meta["interleaved"]["images"], strict=True):
        if image is not None and image in gone:
            gone.remove(image)
            continue
        texts.append(text)
        places.append(None if image is None else num)
        num += image is not None
    meta["interleaved"] = {"texts": texts, "images": places}
    return meta | ({"missing_images": list(missing)} if missing else {})
