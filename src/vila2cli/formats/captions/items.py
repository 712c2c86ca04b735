"""What each item of the input becomes: its images by name, its text, and the files of its sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import to_json_bytes
from vila2cli.formats.reading import Row, RowError
from vila2cli.formats.registry import Format
from vila2cli.shards.places import PLAIN, tar_stem
from vila2cli.shards.sample import EncodedImage

_TABLES = (
    *(".json", ".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zip", ".parquet"),
    *(".csv", ".tsv", ".csv.gz", ".tsv.gz", ".arrow"),
)
_BESIDE_TABLES = (
    *("manifest.json", "summary.json", "rejects.jsonl", "unmatched.jsonl"),
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"),
)
"""What our exports and `datasets` write beside tables about them."""
_FOR_PICTURES = "a folder of pictures is read by `vila2 shards convert folder`"


class PictureStore(ABC):
    """Where the pictures are that items name."""

    @abstractmethod
    def find(self, name: str) -> EncodedImage:
        """The picture of this name; raises RowError when it is missing or is no picture."""

    @abstractmethod
    def identity(self, name: str) -> list[str | int]:
        """What tells it from another without reading it, or why there is none."""

    @abstractmethod
    def file_name(self, name: str) -> str:
        """What its file is called there, below a folder or in a tar; raises RowError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of the input; an image is named, or is there already.

    `name` tells it from the others in an error, `files` are the names of images that are there already. Of a
    document `may_lose` says that an image which is missing is left out instead of the whole; then
    `meta["interleaved"]["images"]` holds the names. `origin` is the file and row that it was read from, where
    that is not its place among the items of its source. A picture needs no text: `vila2 recaption` writes one.
    """

    name: str
    images: tuple[str | EncodedImage, ...] = ()
    text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    may_lose: bool = False
    origin: Mapping[str, Any] | None = None

    @property
    def file(self) -> str:
        """The name of its first picture, "" where none is known."""
        return next((name for name in (*self.files, *self.images) if isinstance(name, str)), "")


ItemReader = Callable[[Path, int], Iterator[Item | RowError]]
"""From a source, and the most images of a document, to its items in order, or why one cannot be used."""


def items_of(rows: Iterable[Row | RowError], item_of: Callable[[Row], Item]) -> Iterator[Item | RowError]:
    """What each row becomes, or why it cannot be used."""
    for row in rows:
        try:
            yield row if isinstance(row, RowError) else item_of(row)
        except RowError as error:
            yield error


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
            tables = sorted(path for path in place.iterdir() if _is_table(path))
            if not tables:
                below = next((path.parent for path in sorted(place.rglob("*")) if _is_table(path)), None)
                instead = f"name {below}, which does" if below else _FOR_PICTURES
                raise DataError(f"{place} holds no file that ends in {', '.join(_TABLES)}; {instead}")
            yield from tables
        elif place.is_file():
            yield place
        else:
            raise DataError(f"{place} does not exist")


def _is_table(path: Path) -> bool:
    is_beside = path.name in _BESIDE_TABLES or path.name.endswith(".stats.json")
    return path.name.endswith(_TABLES) and not is_beside


def _tars_and_folders(inputs: Sequence[Path]) -> Iterator[Path]:
    """Tars, and folders of files as img2dataset writes them; what it could not download is in its tables."""
    for place in inputs:
        if not place.is_dir():
            yield place
            continue
        for folder in [place, *sorted(path for path in place.rglob("*") if path.is_dir())]:
            yield from sorted(path for path in folder.iterdir() if _is_own_tar(path))
            yield folder


def _is_own_tar(path: Path) -> bool:
    """Whether a file is a tar, and not the packed copy of one beside it, whose samples would come twice."""
    stem = tar_stem(path)
    plain = path.with_name(f"{stem}{PLAIN}")
    return bool(stem) and path.is_file() and (path == plain or not plain.exists())


def members_of(
    item: Item | RowError, store: PictureStore, origin: Mapping[str, Any] | None
) -> tuple[dict[str, bytes], int]:
    """The files of a sample and how many of its images are missing; raises RowError.

    With an `origin`, the file and row that it is from, KEY.json holds that and what its pictures' files are
    called.
    """
    if isinstance(item, RowError):
        raise item
    images, files, missing = _images_of(item, store)
    places = [f"{i}." if len(images) > 1 else "" for i in range(len(images))]
    members = {f"{at}{image.extension}": image.data for at, image in zip(places, images, strict=True)}
    if item.text and item.text.strip():
        members["txt"] = item.text.strip().encode("utf-8", "replace")
    meta = _meta(item, missing) if origin is None else _with_origin(_meta(item, missing), files, origin)
    if meta:
        try:
            members["json"] = to_json_bytes(meta)
        except (ValueError, TypeError) as error:
            raise RowError(str(error), "bad-json", item.name) from None
    return members, len(missing)


def _images_of(item: Item, store: PictureStore) -> tuple[list[EncodedImage], list[str], list[str]]:
    """The images of an item, the names of their files, and the names of those that are missing."""
    images: list[EncodedImage] = []
    files = list(item.files)
    missing: list[str] = []
    for image in item.images:
        try:
            images.append(image if isinstance(image, EncodedImage) else store.find(image))
            if isinstance(image, str) and not item.files:
                files.append(store.file_name(image))
        except RowError as error:
            if not item.may_lose:
                raise RowError(str(error), error.reason, item.name) from None
            missing.append(str(image))
    if item.may_lose and not images:
        raise RowError(f"none of its images is there: {', '.join(missing)}", "missing-image", item.name)
    return images, files, missing


def _with_origin(meta: dict[str, Any], files: Sequence[str], origin: Mapping[str, Any]) -> dict[str, Any]:
    """KEY.json with where the sample is from; what it said of that itself lies one deeper."""
    if len(files) == 1:
        meta["file_name"] = files[0]
    elif files:
        meta["file_names"] = list(files)
    earlier = {"from": meta["origin"]} if "origin" in meta else {}
    return {**meta, "origin": {**origin, **earlier}} if origin or earlier else meta


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
