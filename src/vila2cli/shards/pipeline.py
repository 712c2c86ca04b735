"""Samples for a trainer of one's own: base shards and their layers as a webdataset.DataPipeline.

`dataset` is all there is to call. Each rank and DataLoader worker reads its part: whole shards where there are
enough of them, else every N-th sample of one; with `per_rank` ranges of equal length, for DDP.
"""

import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import webdataset
from torch import distributed
from torch.utils.data import get_worker_info

from vila2cli.errors import DataError, DataWarning, RecipeError
from vila2cli.files import DEFAULT_MAX_PIXELS
from vila2cli.image import decode_image
from vila2cli.ranks import parse_rank
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.places import redacted
from vila2cli.shards.reader import OnReject, Shard, num_samples, read_shard
from vila2cli.shards.sample import FILTER, ORIGINAL, Reject, Sample, caption_of, is_kept
from vila2cli.shards.source import open_source

FILTERED, NO_CAPTION, BAD_IMAGE = "filtered", "no-caption", "bad-image"
REASONS = (
    *(FILTERED, NO_CAPTION, NO_IMAGE, BAD_IMAGE, "empty-image", "ambiguous-image", "duplicate-key"),
    *("not-adjacent", "dotted-name", "bad-key", "bad-json", "not-utf8", "bad-messages", "bad-document"),
)
"""Why a sample is left out: the first two on purpose, the others because it cannot be used."""
PerRank = Literal["all", "drop", "pad"]
_MAX_WORKERS = 256
_ALL = range(sys.maxsize)


def dataset(
    shards: str | Path | Sequence[str | Path],
    *,
    caption: str | None = None,
    decode: bool = True,
    shuffle: int = 0,
    seed: int = 0,
    per_rank: PerRank = "all",
    rank: tuple[int, int] | None = None,
    base: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    may_lack_images: bool = False,
    on_reject: OnReject | None = None,
) -> "Samples":
    """The samples of base shards with the captions of a layer over them, for any torch training loop.

    `shards` and `base` are as `open_source` takes them. `caption` names the layer whose text is the caption,
    "original" for the alt-text; a sample without one is left out, as is one that a filter layer drops. It may
    be None (alt-text, where there is one) over shards without caption layers. A sample without a picture cannot
    be used, unless it `may_lack_images` or is a conversation or document.

    Decoded samples are dicts of `__key__`, `__url__`, `caption`, `image` and `images` (upright RGB, as every
    stage of vila2 sees them), `text` (alt-text), `json` (metadata), and `annotations` by layer. With `decode`
    False they are the members of the sample as bytes by extension, as webdataset gives them, and `caption.txt`.

    Samples are split over ranks (torch.distributed if it is initialised, else as the launcher says) and over
    DataLoader workers, so add no `split_by_node`; where something else splits, like accelerate's `prepare`,
    give `rank=(0, 1)`. Each sample is read once by all of them together, also where shards are few. For DDP,
    `per_rank` "drop" or "pad" gives each rank the same number of samples and batches: as many as all ranks can
    have, or so many that none is left out. It counts the samples first; what then proves unusable is made up
    for by repeats of that worker's own. `shuffle` is the size of the buffer that samples are drawn from, over
    shards in an order drawn by `seed` and `set_epoch`; 0 keeps the order. What cannot be used is warned about
    shard by shard, given to `on_reject` (in the worker), and counted in `Samples.left_out`.

    Raises DataError as `open_source` and `read_shard` do, RecipeError for a caption that no layer holds.
    """
    specs = [shards] if isinstance(shards, str | Path) else list(shards)
    source = open_source(specs, base=base)
    names = [info.name for info in source.layers]
    if caption is None and (layer := next((name for name in names if name != FILTER), None)):
        raise RecipeError(f"which caption? caption={layer!r}, or 'original' for the alt-text")
    if caption not in (None, ORIGINAL, *names):
        raise RecipeError(f"no layer {caption!r} over these shards; there are {', '.join(names) or 'none'}")
    reader = _Reader(
        shards=source.shards,
        caption=caption,
        decode=decode,
        shuffle=shuffle,
        seed=seed,
        per_rank=per_rank,
        rank=rank,
        max_pixels=max_pixels,
        may_lack_images=may_lack_images,
        on_reject=on_reject,
    )
    return Samples(reader)


class Samples(webdataset.DataPipeline):  # type: ignore[misc]  # webdataset has no types
    """What `dataset` gives: a DataPipeline, so `compose`, `with_epoch` and torch's DataLoader work as usual."""

    def __init__(self, reader: "_Reader") -> None:
        super().__init__(reader)
        self._reader = reader

    def __iter__(self) -> Iterator[Any]:
        self._reader.num_passes = 0
        return iter(super().__iter__())

    def set_epoch(self, epoch: int) -> None:
        """Draw another order, as DistributedSampler does; call it before each epoch, workers may persist."""
        self._reader.epoch.fill_(epoch)
        self._reader.counts.zero_()

    @property
    def left_out(self) -> dict[str, int]:
        """How many samples this rank left out in the last epoch, by reason, over all of its workers."""
        totals = self._reader.counts.sum(0).tolist()
        return {reason: number for reason, number in zip(REASONS, totals, strict=True) if number}

    @property
    def num_per_rank(self) -> int | None:
        """Samples that each rank has in an epoch, None with `per_rank="all"`."""
        return self._reader.num_per_rank(self._reader.find_rank()[1])


@dataclass(frozen=True, slots=True)
class _Part:
    """Of one shard the usable samples with these numbers, in the order of the tar."""

    shard: Shard
    numbers: range = _ALL


@dataclass(kw_only=True, eq=False)
class _Reader:
    """The first stage of the pipeline, which is called once for each pass over the samples.

    What has to be known in all workers, those that persist as well, is in tensors of shared memory.
    """

    shards: Sequence[Shard]
    caption: str | None
    decode: bool
    shuffle: int
    seed: int
    per_rank: PerRank
    rank: tuple[int, int] | None
    max_pixels: int
    may_lack_images: bool
    on_reject: OnReject | None

    def __post_init__(self) -> None:
        self.num_usable = {shard.name: self._count(shard) for shard in self.shards if self.per_rank != "all"}
        self.num_passes = 0
        self.epoch, self.counts = _shared(), _shared(_MAX_WORKERS, len(REASONS))

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker cannot ask torch.distributed.
        return self.__dict__ | {"rank": self.find_rank()}

    def find_rank(self) -> tuple[int, int]:
        """Which rank this is, and of how many."""
        if self.rank is not None:
            return self.rank
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        launched = parse_rank()
        return launched.index, launched.count

    def __call__(self) -> Iterator[dict[str, Any]]:
        (rank, num_ranks), info = self.find_rank(), get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        pass_seed = f"{self.seed} {self.epoch.item()} {self.num_passes}"
        self.num_passes += 1
        order = list(self.shards)
        if self.shuffle:
            random.Random(pass_seed).shuffle(order)
        rng = random.Random(f"{pass_seed} {rank} {worker}")
        counts = self.counts[worker % _MAX_WORKERS]
        counts.zero_()
        num_each = self.num_per_rank(num_ranks)
        if num_each is None:
            return self._read(_split(order, rank + num_ranks * worker, num_ranks * num_workers), rng, counts)
        start, stop = (rank * num_each + num_each * (worker + i) // num_workers for i in (0, 1))
        parts = list(_between(order, self.num_usable, start, stop))
        return _repeated(lambda: self._read(parts, rng, counts), stop - start)

    def num_per_rank(self, num_ranks: int) -> int | None:
        """Samples that each rank has, where all have the same number."""
        if self.per_rank == "all":
            return None
        total = sum(self.num_usable.values())
        if total < num_ranks:
            raise DataError(f"{total} samples cannot be shared by {num_ranks} ranks")
        return total // num_ranks if self.per_rank == "drop" else -(-total // num_ranks)

    def _read(
        self, parts: Sequence[_Part], rng: random.Random, counts: torch.Tensor
    ) -> Iterator[dict[str, Any]]:
        samples = (pair for part in parts for pair in self._samples(part, counts))
        if self.shuffle:
            samples = webdataset.shuffle(self.shuffle, rng=rng)(samples)
        for shard, sample in samples:
            try:
                value = self._decoded(sample) if self.decode else self._raw(sample)
            except DataError as error:
                reject = Reject(shard.name, sample.key, BAD_IMAGE, str(error))
                self._note(shard, [reject], counts)
                continue
            yield {"__key__": sample.key, "__url__": redacted(shard.url), **value}

    def _samples(self, part: _Part, counts: torch.Tensor) -> Iterator[tuple[Shard, Sample]]:
        """The samples of a part that are wanted and can be used, but for images that cannot be decoded."""
        rejects: list[Reject] = []
        takes = None if part.numbers == _ALL else _Numbers(part.numbers, *self._usable(part.shard))
        for sample in read_shard(part.shard, on_reject=rejects.append, takes=takes):
            if not is_kept(sample):
                counts[REASONS.index(FILTERED)] += 1
            elif self.caption is not None and not caption_of(sample, self.caption):
                counts[REASONS.index(NO_CAPTION)] += 1
            elif sample.lacks_images and not self.may_lack_images:
                rejects.append(Reject(part.shard.name, sample.key, NO_IMAGE, "a caption without its picture"))
            else:
                yield part.shard, sample
        self._note(part.shard, rejects, counts)

    def _note(self, shard: Shard, rejects: Sequence[Reject], counts: torch.Tensor) -> None:
        for reject in rejects:
            counts[REASONS.index(reject.reason)] += 1
            if self.on_reject is not None:
                self.on_reject(reject)
        if rejects and self.on_reject is None:
            times = Counter(reject.reason for reject in rejects)
            reasons = ", ".join(f"{number} {reason}" for reason, number in times.items())
            first = f"{rejects[0].key}: {rejects[0].error}"
            text = f"{redacted(shard.url)}: samples that cannot be used: {reasons}; the first is {first}"
            warnings.warn(text, DataWarning, stacklevel=2)

    def _decoded(self, sample: Sample) -> dict[str, Any]:
        images = [decode_image(image.data, max_pixels=self.max_pixels) for image in sample.images]
        return {
            **({"image": images[0]} if images else {}),
            "images": images,
            "caption": caption_of(sample, self.caption or ORIGINAL),
            "text": sample.text,
            "json": sample.meta,
            "annotations": {annotation.layer: annotation for annotation in sample.annotations},
        }

    def _raw(self, sample: Sample) -> dict[str, Any]:
        caption = caption_of(sample, self.caption or ORIGINAL)
        return {**sample.members, **({"caption.txt": caption.encode()} if caption else {})}

    def _usable(self, shard: Shard) -> tuple[dict[str, bool], bool]:
        """Of each key that the layers know whether it is wanted, and whether the others are."""
        annotated: dict[str, list[Any]] = {}
        for layer in shard.layers:
            if layer.layer in (FILTER, self.caption):
                for key, annotation in read_annotation_tar(layer.url):
                    annotated.setdefault(key, []).append(annotation)
        needs_layer = self.caption not in (None, ORIGINAL)
        usable = {}
        for key, annotations in annotated.items():
            sample = Sample(key=key, annotations=tuple(annotations))
            has_caption = not needs_layer or bool(caption_of(sample, str(self.caption)))
            usable[key] = has_caption and is_kept(sample)
        return usable, not needs_layer

    def _count(self, shard: Shard) -> int:
        usable, are_others = self._usable(shard)
        num_out = sum(not is_usable for is_usable in usable.values())
        return num_samples(shard) - num_out if are_others else len(usable) - num_out


def _shared(*shape: int) -> torch.Tensor:
    numbers: torch.Tensor = torch.zeros(shape, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
    return numbers


class _Numbers:
    """Whether the keys of a shard, as they come, belong to a part; those not usable have no number."""

    def __init__(self, numbers: range, usable: Mapping[str, bool], are_others: bool) -> None:
        self._numbers, self._usable, self._are_others = numbers, usable, are_others
        self._number = 0
        self._known: dict[str, bool] = {}

    def __call__(self, key: str) -> bool:
        if key not in self._known:
            self._known[key] = self._number in self._numbers
            self._number += self._usable.get(key, self._are_others)
        return self._known[key]


def _split(shards: Sequence[Shard], index: int, count: int) -> list[_Part]:
    """Part `index` of `count` of all samples: whole shards, or every N-th sample of one where they are few."""
    if len(shards) >= count:
        return [_Part(shard) for shard in shards[index::count]]
    number, first = divmod(index, len(shards))
    return [_Part(shards[first], range(number, sys.maxsize, len(range(first, count, len(shards)))))]


def _between(shards: Sequence[Shard], num_usable: Mapping[str, int], start: int, stop: int) -> Iterator[_Part]:
    """The samples from number `start` to `stop` of all shards in a row, from the beginning again at the end."""
    offset = 0
    while offset < stop:
        for shard in shards:
            number = num_usable[shard.name]
            low, high = max(start - offset, 0), min(stop - offset, number)
            if low < high:
                yield _Part(shard, range(low, high if high < number else sys.maxsize))
            offset += number


def _repeated(read: Callable[[], Iterator[dict[str, Any]]], number: int) -> Iterator[dict[str, Any]]:
    """Exactly so many samples: those read, again from the first one where they are fewer."""
    num_given = 0
    while num_given < number:
        before = num_given
        for sample in read():
            yield sample
            num_given += 1
            if num_given == number:
                return
        if num_given == before:
            raise DataError(f"none of the {number} samples of this worker can be used")
