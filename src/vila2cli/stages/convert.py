"""`vila2 shards convert`: other data formats to base shards, every item a sample or a written reject."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vila2cli.conversion.formats import FORMATS, Item, read_items
from vila2cli.conversion.images import ImageStore
from vila2cli.errors import DataError, RecipeError
from vila2cli.files import read_json, sweep, to_json_bytes
from vila2cli.groups import Unusable
from vila2cli.run import claim, lock
from vila2cli.sample import EncodedImage, Reject
from vila2cli.shards import ShardStats, TarWriter, done, folder_stats, gather_rejects, write_rejects
from vila2cli.stopping import interruptible

MAX_IMAGES = 6
"""Images of a web document at most, as VILA's loader has it."""


def convert(
    form: str,
    inputs: Sequence[Path],
    out: Path,
    *,
    images: Sequence[Path] = (),
    per_shard: int = 1000,
    max_images: int = MAX_IMAGES,
) -> ShardStats:
    """Write base shards of at most `per_shard` samples, with keys that count the input's items.

    An item that cannot be used is written to rejects.jsonl with its reason and, where an image is
    missing, its name. An image missing from a web document only takes itself out; it is counted, and
    named in the sample's JSON under "missing_images". Shards that are there are kept, so that a
    conversion that was stopped goes on. Raises DataError for files that cannot be read, and when no
    item could be used; RecipeError for another conversion's folder.
    """
    if form not in FORMATS:
        raise RecipeError(f"unknown format {form!r}; known are {', '.join(FORMATS)}")
    settings = {"per_shard": per_shard, "max_images": max_images}
    sizes = {str(path): path.stat().st_size for path in inputs if path.is_file()}
    places = {"inputs": list(map(str, inputs)), "sizes": sizes, "images": list(map(str, images))}
    with lock(out), interruptible() as stop:
        claim(out, {"stage": "convert", "format": form, **settings, **places})
        sweep(out)
        with stop.at_once():
            store = ImageStore(images)
            items = _Items(enumerate(read_items(form, inputs, max_images=max_images)))
            names = _write_all(items, store, out, per_shard)
        gather_rejects(out, names)
        return folder_stats(out, names)


class _Items:
    """Numbered items, of which the last one can be put back."""

    def __init__(self, source: Iterator[tuple[int, Item | Unusable]]) -> None:
        self._source = source
        self._back: list[tuple[int, Item | Unusable]] = []

    def put_back(self, index: int, item: Item | Unusable) -> None:
        self._back.append((index, item))

    def __iter__(self) -> "_Items":
        return self

    def __next__(self) -> tuple[int, Item | Unusable]:
        return self._back.pop() if self._back else next(self._source)


def _write_all(items: "_Items", store: ImageStore, out: Path, per_shard: int) -> list[str]:
    names: list[str] = []
    complete = done(out)
    while True:
        name = f"{len(names):06d}"
        if name in complete:
            num_in = int(read_json(out / f"{name}.stats.json")["in"])
            if sum(1 for _ in islice(items, num_in)) < num_in:
                raise DataError(
                    f"{out} was made from more items than there are now; remove it to start it over"
                )
            names.append(name)
            continue
        if not _write_shard(items, store, out, name, per_shard, is_first=not names):
            return names
        names.append(name)


def _write_shard(
    items: "_Items",
    store: ImageStore,
    out: Path,
    name: str,
    per_shard: int,
    *,
    is_first: bool,
) -> bool:
    """Write one shard from the items that are left; returns whether there were any."""
    if (item := next(items, None)) is None:
        return False
    items.put_back(*item)
    rejects: list[Reject] = []
    num_in = num_images = num_missing = 0
    with TarWriter(out / f"{name}.tar") as tar:
        for index, one in items:
            num_in += 1
            key = f"{index:09d}"
            try:
                members, missing = _members(one, store)
            except Unusable as error:
                rejects.append(Reject(name, key, error.reason, str(error)))
                continue
            if tar.num_samples == per_shard:
                items.put_back(index, one)  # rejects at the end belong to a shard that has samples
                num_in -= 1
                break
            tar.write_sample(key, members)
            num_images += sum(extension not in ("txt", "json") for extension in members)
            num_missing += missing
        if is_first and not tar.num_samples:
            first = rejects[0]
            write_rejects(out, name, rejects)
            raise DataError(
                f"none of {num_in} items can be used, see {out / name}.rejects.jsonl; the first: "
                f"{first.reason}: {first.error}"
            )
        dropped = Counter(reject.reason for reject in rejects)
        tar.stats = {
            "in": num_in,
            "dropped": dict(sorted(dropped.items())),
            "rejected": len(rejects),
            **write_rejects(out, name, rejects),
            "images": num_images,
            "missing_images": num_missing,
        }
    return True


def _members(item: Item | Unusable, store: ImageStore) -> tuple[dict[str, bytes], int]:
    """The files of a sample and how many of its images are missing; raises Unusable."""
    if isinstance(item, Unusable):
        raise item
    found: list[EncodedImage] = []
    missing: list[str] = []
    for image in item.images:
        try:
            found.append(image if isinstance(image, EncodedImage) else store.find(image))
        except Unusable as error:
            if not item.may_lose:
                raise Unusable(error.reason, f"{item.name}: {error}") from None
            missing.append(str(image))
    if item.may_lose and not found:
        raise Unusable("missing-image", f"{item.name}: none of its images is there: {', '.join(missing)}")
    if item.images and not item.text and not {"messages", "interleaved"} & item.meta.keys():
        raise Unusable("no-caption", f"{item.name} has no text")
    several = len(found) > 1
    members = {f"{i}.{one.extension}" if several else one.extension: one.data for i, one in enumerate(found)}
    if item.text:
        members["txt"] = item.text.strip().encode("utf-8", "replace")
    if meta := _meta(item, missing):
        try:
            members["json"] = to_json_bytes(meta)
        except (ValueError, TypeError) as error:
            raise Unusable("bad-json", f"{item.name}: {error}") from None
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
