"""What the finished shards of a conversion were made from, so that going on notices what changed since.

A shard takes the next items of the sources, in their order. Its stats file says of which sources, and holds a
digest of the items and of the images they name: of these name, size and time of change. As long as the digests
are the same, what is there continues what is finished. Where one differs each item is made again and compared.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import whole_characters
from vila2cli.formats.captions.items import Item, ItemReader, PictureStore, members_of
from vila2cli.formats.captions.keys import Keys
from vila2cli.formats.reading import RowError
from vila2cli.shards import read_rejects
from vila2cli.shards.records import check_whole, note, recorded
from vila2cli.shards.sample import EncodedImage, Reject
from vila2cli.shards.tarfiles import read_members, split_name

Digests = Mapping[str, str]
"""SHA-256 of a sample's files by extension."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An item with its key, and where it is from.

    `origin` is the file and row that its JSON names, None in a folder of a release that named none.
    """

    key: str
    source: Path
    item: Item | RowError
    origin: Mapping[str, Any] | None = None

    def members(self, store: PictureStore) -> tuple[dict[str, bytes], int]:
        """What `members_of` makes of it."""
        return members_of(self.item, store, self.origin)

    @property
    def is_bare(self) -> bool:
        """Whether it is a picture of which nothing is said."""
        item = self.item
        if isinstance(item, RowError) or (item.text and item.text.strip()):
            return False
        return not {"messages", "interleaved"} & item.meta.keys()


@dataclass(frozen=True, slots=True)
class FoundItem:
    """An item, and its source and its place among the items of that."""

    source: Path
    row: int
    item: Item | RowError


def read_items(read: ItemReader, sources: Iterable[Path], *, max_images: int) -> Iterator[FoundItem]:
    """The items of the sources, one after another."""
    for source in sources:
        for row, item in enumerate(read(source, max_images), 1):
            yield FoundItem(source, row, item)


def number_items(items: Iterable[FoundItem], keys: Keys, *, named: bool = True) -> Iterator[Numbered]:
    """The items with their keys; `named` where each is to say what it is from."""
    for index, found in enumerate(items):
        key, item = keys.number(index), found.item
        if isinstance(item, Item):
            try:
                key = keys.of(index, item)
            except RowError as error:
                item = error
        stated = item.origin if isinstance(item, Item) else None
        origin = {"file": whole_characters(found.source.name), "row": found.row} if stated is None else stated
        yield Numbered(key, found.source, item, origin if named else None)


class Taken:
    """The items that a shard was made from."""

    def __init__(self, store: PictureStore) -> None:
        self._store = store
        self._digest = hashlib.sha256()
        self._counts: dict[Path, int] = {}
        self._sizes: dict[Path, int | None] = {}

    def add(self, numbered: Numbered, identity: bytes) -> None:
        """Note an item, which was of this `identity` before its images were read."""
        if numbered.source not in self._counts:
            self._counts[numbered.source], self._sizes[numbered.source] = 0, _size(numbered.source)
        self._counts[numbered.source] += 1
        self._digest.update(identity)

    def identity(self, numbered: Numbered) -> bytes:
        """What tells an item, with its images, from another."""
        item = numbered.item
        value: list[Any] = [item.reason, str(item)] if isinstance(item, RowError) else []
        if isinstance(item, Item):
            images = [
                hashlib.sha256(image.data).hexdigest()
                if isinstance(image, EncodedImage)
                else self._named(image)
                for image in item.images
            ]
            value = [item.name, item.text, item.meta, images]
        return json.dumps(value, sort_keys=True, default=repr).encode() + b"\n"

    def _named(self, name: str) -> list[str | int]:
        return [name, *self._store.identity(name)]

    def to_json(self) -> dict[str, Any]:
        """Entries of the shard's stats file: the digest; of the sources path, size and number of items."""
        sources = [[str(path.absolute()), self._sizes[path], num] for path, num in self._counts.items()]
        return {"taken": self._digest.hexdigest(), "sources": sources}


def in_order(sources: Sequence[Path], out: Path, names: Sequence[str]) -> list[Path]:
    """The sources, those that the finished shards were made from first, and in the order they were taken in.

    Raises DataError for one of these that is not there any more, RecipeError for one of another size.
    """
    left = {str(path.absolute()): path for path in sources}
    in_use: dict[str, Path] = {}
    for name in names:
        for place, size, _ in recorded(out / f"{name}.tar").get("sources", ()):
            if place in in_use:
                continue
            if place not in left:
                raise DataError(
                    f"{out / name}.tar was made from {place}, which is not among the inputs now; give it "
                    "again, or convert to another --out"
                )
            if size != _size(left[place]):
                raise RecipeError(
                    f"{place} has changed since {out / name}.tar was made from it: sizes {size} and "
                    f"{_size(left[place])} bytes; put the old one back, or convert to another --out"
                )
            in_use[place] = left.pop(place)
    return [*in_use.values(), *left.values()]


def pass_over(items: Iterator[Numbered], store: PictureStore, out: Path, name: str) -> None:
    """Take the items of a finished shard; raises DataError when they are not those that it was made from."""
    tar = out / f"{name}.tar"
    check_whole(tar)
    record = recorded(tar)
    taken, kept, num_in = Taken(store), list[_Outline](), int(record.get("in", 0))
    for numbered in islice(items, num_in):
        taken.add(numbered, taken.identity(numbered))
        kept.append(_Outline.of(numbered, store))
    if gone := num_in - len(kept):
        raise DataError(f"{tar} was made from more items than there are now: {gone} are missing; {_ADVICE}")
    now = taken.to_json()
    if now["taken"] == record.get("taken"):
        return
    _compare(kept, store, out, name)
    note(tar, **now)  # an earlier release said nothing of them, or a time alone has changed


_ADVICE = (
    "put back what was there, or remove its stats.json and those of the shards after it to convert from there "
    "on again, or give another --out"
)


@dataclass(frozen=True, slots=True)
class _Outline:
    """An item without the bytes of its images: of one that has them, what its sample's files would be."""

    numbered: Numbered
    digests: Digests | None = None

    @classmethod
    def of(cls, numbered: Numbered, store: PictureStore) -> "_Outline":
        item = numbered.item
        if isinstance(item, RowError) or not any(isinstance(image, EncodedImage) for image in item.images):
            return cls(numbered)
        try:
            return cls(replace(numbered, item=replace(item, images=())), _digests(numbered.members(store)[0]))
        except RowError as error:
            return cls(replace(numbered, item=error))


def _digests(members: Mapping[str, bytes]) -> Digests:
    return {extension: hashlib.sha256(data).hexdigest() for extension, data in members.items()}


def _compare(kept: Sequence[_Outline], store: PictureStore, out: Path, name: str) -> None:
    """Raise DataError naming the first item that would become something else than it has become.

    One whose text or picture is another goes before those that differ in the name of their table alone.
    """
    there: dict[str, dict[str, str]] = {}
    for member, data in read_members(out / f"{name}.tar", lambda name: True):
        split = split_name(member)
        if split is not None and data is not None:
            there.setdefault(split[0], {})[split[1]] = hashlib.sha256(data).hexdigest()
    rejects = {reject.key: reject for reject in read_rejects(out, name)}
    minor: DataError | None = None
    for outline in kept:
        numbered = outline.numbered
        change = _change(outline, store, there.get(numbered.key), rejects.get(numbered.key))
        if change is None:
            continue
        called = "" if isinstance(numbered.item, RowError) else f" ({numbered.item.name})"
        error = DataError(
            f"{out / name}.tar was made from other files than there are now: item {numbered.key} of "
            f"{numbered.source}{called} differs: {change}; {_ADVICE}"
        )
        if change != _OTHER_JSON:
            raise error
        minor = minor or error
    if minor is not None:
        raise minor


_OTHER_JSON = "what its JSON says of it, such as its file and table, is not what it was"


def _change(outline: _Outline, store: PictureStore, there: Digests | None, was: Reject | None) -> str | None:
    """How an item differs from the members `there`, or from the reject that it `was`; else None."""
    try:
        now = _digests(outline.numbered.members(store)[0]) if outline.digests is None else outline.digests
    except RowError as error:
        if was is None:
            return f"now it cannot be used ({error})"
        same = (was.reason, was.error) == (error.reason, str(error))
        return None if same else f"it was {was.error}, and is {error}"
    if was is not None:
        if was.reason == "no-caption" and outline.numbered.is_bare:  # as earlier releases rejected it
            return None
        return f"it was rejected ({was.error}) and can be used now"
    if there is None:
        return "there was no such item"
    if there == now:
        return None
    other = {extension for extension in there.keys() | now.keys() if there.get(extension) != now.get(extension)}
    parts = (["its text"] if "txt" in other else []) + (["its picture"] if other - {"txt", "json"} else [])
    are = "are" if len(parts) > 1 else "is"
    return f"{' and '.join(parts)} {are} not what it was" if parts else _OTHER_JSON


def _size(path: Path) -> int | None:
    """Bytes of a file; of a folder, or a link to nothing, nothing tells as much."""
    return path.stat().st_size if path.is_file() else None
