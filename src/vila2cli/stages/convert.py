"""`vila2 shards convert`: other data formats to base shards, every item a sample or a written reject."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import sweep
from vila2cli.formats.captions.images import ImageStore
from vila2cli.formats.captions.items import ItemReader, members_of, sources_of
from vila2cli.formats.captions.taken import Numbered, Taken, in_order, number_items, pass_over
from vila2cli.formats.reading import RowError
from vila2cli.formats.registry import Format, find_format
from vila2cli.run.folder import claim, lock, read_manifest
from vila2cli.run.stopping import interruptible
from vila2cli.shards import ShardStats, TarWriter, done, folder_stats, gather_rejects, write_rejects
from vila2cli.shards.sample import Reject

MAX_IMAGES = 6
"""Images of a web document at most, as VILA's loader has it."""
_HINTS = {"img2dataset": ": an item is a picture with KEY.txt or KEY.json beside it, or in a tar with it"}


def convert(
    form: str,
    inputs: Sequence[Path],
    out: Path,
    *,
    images: Sequence[Path] = (),
    per_shard: int = 1000,
    max_images: int = MAX_IMAGES,
    text: str = "",
) -> ShardStats:
    """Write base shards of at most `per_shard` samples, with keys that count the input's items.

    An item that cannot be used is written to rejects.jsonl with its reason and, where an image is
    missing, its name. An image missing from a web document only takes itself out; it is counted, and
    named in the sample's JSON under "missing_images". Shards that are there are kept, so that a
    conversion that was stopped goes on, and what is new among the inputs comes behind them, wherever its
    name would sort. Raises DataError for files that cannot be read, where what a finished shard was made
    from is not what it was, and when no item could be used; RecipeError for another conversion's folder.
    """
    chosen = find_format("shards convert", form)
    if text and form != "parquet":
        raise RecipeError(f"--text names a column of parquet; {form} has its captions where it has them")
    read = partial(chosen.load(), text=text) if text else chosen.load()
    sources = sources_of(chosen, inputs)
    with lock(out), interruptible() as stop:
        settings = {"format": form, "per_shard": per_shard, "max_images": max_images}
        settings |= {"text": text} if text else {}
        claim(out, {"stage": "convert", **settings, **_claimed_earlier(out)})
        sweep(out)
        with stop.at_once():
            names = _convert(chosen, read, sources, ImageStore(images), out, per_shard, max_images)
        gather_rejects(out, names)
        return folder_stats(out, names)


def _claimed_earlier(out: Path) -> dict[str, Any]:
    """What earlier releases held fixed of the inputs: now each shard says what it was made from."""
    stored = read_manifest(out)
    inputs = stored.inputs if stored is not None else {}
    return {key: inputs[key] for key in ("inputs", "sizes", "images") if key in inputs}


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
    form: Format,
    read: ItemReader,
    sources: Sequence[Path],
    store: ImageStore,
    out: Path,
    per_shard: int,
    max_images: int,
) -> list[str]:
    """Write the shards that are missing; returns the names of all."""
    finished = sorted(done(out))
    items = _Items(number_items(read, in_order(sources, out, finished), max_images=max_images))
    names: list[str] = []
    for name in map("{:06d}".format, count()):
        if name in finished:
            pass_over(items, store, out, name)
        elif not _write_shard(items, store, out, name, per_shard):
            break
        names.append(name)
    if not names:
        places = ", ".join(map(str, sources[:3]))
        raise DataError(f"there are no items of the format {form.name} in {places}{_HINTS.get(form.name, '')}")
    if extra := [name for name in finished if name not in names]:
        raise DataError(
            f"{out} holds {extra[0]}.tar, for which no items are left: there were more of them; put back what "
            "was there, or give another --out"
        )
    return names


def _write_shard(items: _Items, store: ImageStore, out: Path, name: str, per_shard: int) -> bool:
    """Write one shard from the items that are left; returns whether there were any."""
    if (first := next(items, None)) is None:
        return False
    items.put_back(first)
    rejects: list[Reject] = []
    taken = Taken(store)
    num_in = num_images = num_missing = 0
    with TarWriter(out / f"{name}.tar") as tar:
        for numbered in items:
            identity = taken.identity(numbered)  # before the images are read
            try:
                members, missing = members_of(numbered.item, store)
            except RowError as error:
                rejects.append(Reject(name, numbered.key, error.reason, str(error)))
            else:
                if tar.num_samples == per_shard:
                    items.put_back(numbered)  # rejects at the end belong to a shard that has samples
                    break
                tar.write_sample(numbered.key, members)
                num_missing += missing
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
            **taken.to_json(),
        }
    return True
