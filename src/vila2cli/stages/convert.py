"""`vila2 shards convert`: other data formats to base shards, every item a sample or a written reject."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, ClassVar

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import sweep
from vila2cli.formats.captions.images import ImageStore
from vila2cli.formats.captions.items import ItemReader, PictureStore, sources_of
from vila2cli.formats.captions.keys import NAME, NUMBER, Keys
from vila2cli.formats.captions.photos import PhotoReader, PictureCaptions, PictureFiles, find_pictures
from vila2cli.formats.captions.tables import check_column
from vila2cli.formats.captions.taken import (
    FoundItem,
    Numbered,
    Taken,
    in_order,
    number_items,
    pass_over,
    read_items,
)
from vila2cli.formats.reading import RowError
from vila2cli.formats.registry import Format, find_format
from vila2cli.run.beginning import begun_with
from vila2cli.run.cost import counted
from vila2cli.run.folder import claim, digest
from vila2cli.run.locks import lock
from vila2cli.run.stopping import interruptible
from vila2cli.run.written import ShardsWritten
from vila2cli.shards import TarWriter, done, folder_figures, folder_stats, gather_rejects, write_rejects
from vila2cli.shards.sample import Reject

MAX_IMAGES = 6
"""Images of a web document at most, as VILA's loader has it."""
UNMATCHED_FILE = "unmatched.jsonl"
"""Pictures without a row, and rows of no picture."""
_HINTS = {
    "img2dataset": ": an item is a picture with KEY.txt or KEY.json beside it, or in a tar with it",
    "webdataset": ": name tars, or folders that hold some",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How tables and folders are read: `text` and `picture` name columns, `captions` are a folder's tables."""

    text: str = ""
    picture: str = ""
    captions: Sequence[Path] = ()

    def to_json(self) -> dict[str, str]:
        """What of it decides the shards; tables are compared row by row."""
        return {name: value for name in ("text", "picture") if (value := getattr(self, name))}


@dataclass(frozen=True, kw_only=True)
class Converted(ShardsWritten):
    """The counts of converted items, and how many of all shards an earlier call had finished.

    `num_bare` are pictures without a caption, and `may_name` says whether --text could name the column of it.
    """

    SAMPLES: ClassVar[str] = "items"
    DROPPED: ClassVar[str] = "rejected"
    num_shards: int
    num_shards_kept: int
    num_bare: int = field(default=0, metadata={"key": "without_caption"})
    may_name: bool = field(default=False, metadata={"key": ""})

    def lines(self) -> Iterator[str]:
        """What was made of the items, and which shards were there already."""
        yield from super().lines()
        if num := self.num_bare:
            pictures = counted(num, "picture")
            named = "; if it stands under another name, name that with --text" if self.may_name else ""
            yield f"  {pictures} without a caption: `vila2 recaption` writes it{named}"
        if num := self.num_shards_kept:
            of = f"all {num:,}" if num == self.num_shards > 1 else f"{num:,} of {self.num_shards:,}"
            yield f"  there already: {of} shards"


def convert(
    form: str,
    inputs: Sequence[Path],
    out: Path,
    *,
    images: Sequence[Path] = (),
    per_shard: int = 1000,
    max_images: int = MAX_IMAGES,
    text: str = "",
    picture: str = "",
    captions: Sequence[Path] = (),
    key: str = "",
) -> Converted:
    """Write base shards of at most `per_shard` samples, whose JSON says what they were made from.

    An item that cannot be used is written to rejects.jsonl with its reason and, where an image is
    missing, its name; pictures that no row of `captions` names, and rows that name none, stand in
    unmatched.jsonl. An image missing from a web document only takes itself out; it is counted, and
    named in the sample's JSON under "missing_images". Shards that are there are kept, so that a
    conversion that was stopped goes on, and what is new among the inputs comes behind them, wherever its
    name would sort.
    `text` and `picture` name columns, `captions` are the tables of a folder. `key` is `number`, `name` (of the
    picture's file, that of a folder by default), or a field of KEY.json, such as a column. Numbers begin with a
    digest of what comes first, so that two data sets may lie side by side.
    Raises DataError for files that cannot be read, where what a finished shard was made from is not what it
    was, and when no item could be used; RecipeError for another conversion's folder, and for options that the
    format has no use for.
    """
    reading = _Reading(text=text, picture=picture, captions=captions)
    source = _source(find_format("shards convert", form), inputs, images, reading)
    with lock(out), interruptible() as stop, stop.at_once():
        stored = begun_with(out, "convert")
        finished = sorted(done(out)) if stored else []
        found = read_items(source.read, in_order(source.paths, out, finished), max_images=max_images)
        if (first := next(found, None)) is None and not finished:
            raise DataError(_no_items(form, source.paths))
        numbers = str(stored.get("numbers", "")) if stored or first is None else _numbers(form, first)
        keys = Keys(key or (NAME if form == "folder" else NUMBER), numbers)
        named = "key" in stored or not stored
        settings = {"format": form, "per_shard": per_shard, "max_images": max_images, **reading.to_json()}
        if named or key:
            settings |= {"key": keys.how, "numbers": numbers}
        claim(out, {"stage": "convert", **settings, **_claimed_earlier(stored)})
        sweep(out)
        if source.captions is not None:
            source.captions.report_unmatched(out / UNMATCHED_FILE)
        items = number_items(chain([first] if first else [], found), keys, named=named)
        names = _convert(_Items(items), source.store, out, per_shard, finished)
        gather_rejects(out, names)
        counts = {"num_shards": len(names), "num_shards_kept": len(finished)}
        counts["num_bare"] = folder_figures(out, names)["without_caption"]
        counts["may_name"] = not text and (form in ("csv", "parquet", "webdataset") or bool(captions))
        return Converted.counting(folder_stats(out, names), stage="convert", out_dir=out, **counts)


@dataclass(frozen=True, slots=True)
class _Source:
    """What items are read from and how, and where the pictures are that they name."""

    paths: Sequence[Path]
    read: ItemReader
    store: PictureStore
    captions: PictureCaptions | None = None


def _source(form: Format, inputs: Sequence[Path], images: Sequence[Path], reading: _Reading) -> _Source:
    """Raises RecipeError for options that the format has no use for, DataError for what is not there."""
    uses = {
        "text": ("parquet", "folder", "csv", "webdataset"),
        "picture": ("folder", "csv"),
        "captions": ("folder",),
    }
    if unused := next(
        (name for name, of in uses.items() if getattr(reading, name) and form.name not in of), ""
    ):
        raise RecipeError(f"--{unused} is for {' and '.join(uses[unused])}; {form.name} has no use for it")
    if form.name == "folder":
        if images:
            raise RecipeError("--images: the pictures of folder are the inputs themselves; leave it out")
        return _pictures(inputs, reading)
    paths = sources_of(form, inputs)
    if form.name == "csv":
        read = form.load()(reading.picture, reading.text)
        return _Source(paths, read, ImageStore(images or list(dict.fromkeys(path.parent for path in paths))))
    if reading.text and form.name == "parquet":
        check_column(paths, reading.text)
    return _Source(
        paths, partial(form.load(), text=reading.text) if reading.text else form.load(), ImageStore(images)
    )


def _pictures(inputs: Sequence[Path], reading: _Reading) -> _Source:
    names = find_pictures(inputs)
    if not reading.captions and (reading.picture or reading.text):
        raise RecipeError("--picture and --text name columns of --captions: give that table")
    captions = (
        PictureCaptions(reading.captions, names.values(), picture=reading.picture, text=reading.text)
        if reading.captions
        else None
    )
    return _Source(list(names), PhotoReader(names, captions), PictureFiles(names), captions)


def _no_items(form: str, paths: Sequence[Path]) -> str:
    return f"there are no items of the format {form} in {', '.join(map(str, paths[:3]))}{_HINTS.get(form, '')}"


def _numbers(form: str, first: FoundItem) -> str:
    """What numbers of a data set begin with: eight digits that tell it from others, by its first item."""
    item = first.item
    about = [str(item)] if isinstance(item, RowError) else [item.name, item.text]
    return f"{digest([form, first.source.name, *about])[:8]}-"


def _claimed_earlier(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What earlier releases held fixed of the inputs: now each shard says what it was made from."""
    return {key: stored[key] for key in ("inputs", "sizes", "images") if key in stored}


class _Items:
    """Numbered items, of which the last one can be put back."""

    def __init__(self, source: Iterator[Numbered]) -> None:
        self._source = source
        self._back: list[Numbered] = []

    def put_back(self, item: Numbered) -> None:
        self._back.append(item)

    def __iter__(self) -> "_Items":
        return self

    def __next__(self) -> Numbered:
        return self._back.pop() if self._back else next(self._source)


def _convert(
    items: _Items, store: PictureStore, out: Path, per_shard: int, finished: Sequence[str]
) -> list[str]:
    """Write the shards that are missing; returns the names of all."""
    names: list[str] = []
    for name in map("{:06d}".format, count()):
        if name in finished:
            pass_over(items, store, out, name)
        elif not _write_shard(items, store, out, name, per_shard):
            break
        names.append(name)
    if extra := [name for name in finished if name not in names]:
        raise DataError(
            f"{out} holds {extra[0]}.tar, for which no items are left: there were more of them; put back what "
            "was there, or give another --out"
        )
    return names


def _write_shard(items: _Items, store: PictureStore, out: Path, name: str, per_shard: int) -> bool:
    """Write one shard from the items that are left; returns whether there were any."""
    if (first := next(items, None)) is None:
        return False
    items.put_back(first)
    rejects: list[Reject] = []
    taken = Taken(store)
    num_in = num_images = num_missing = num_bare = 0
    with TarWriter(out / f"{name}.tar") as tar:
        for numbered in items:
            identity = taken.identity(numbered)  # before the images are read
            try:
                members, missing = numbered.members(store)
            except RowError as error:
                rejects.append(Reject(name, numbered.key, error.reason, str(error)))
            else:
                if tar.num_samples == per_shard:
                    items.put_back(numbered)  # rejects at the end belong to a shard that has samples
                    break
                tar.write_sample(numbered.key, members)
                num_missing += missing
                num_bare += numbered.is_bare
                num_images += sum(extension not in ("txt", "json") for extension in members)
            num_in += 1
            taken.add(numbered, identity)
        if not tar.num_samples:  # of all items, or of those that are new
            write_rejects(out, name, rejects)
            raise DataError(
                f"none of {num_in} items can be used, see {out / name}.rejects.jsonl; the first: "
                f"{rejects[0].reason}: {rejects[0].error}"
            )
        dropped = Counter(reject.reason for reject in rejects)
        tar.stats = {
            "in": num_in,
            "dropped": dict(sorted(dropped.items())),
            "rejected": len(rejects),
            **write_rejects(out, name, rejects),
            "images": num_images,
            "missing_images": num_missing,
            **({"without_caption": num_bare} if num_bare else {}),
            **taken.to_json(),
        }
    return True
