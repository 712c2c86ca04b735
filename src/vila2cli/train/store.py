"""Tokenised samples on disk, so that neither texts nor images of a large data set have to fit into memory.

Every shard gets a safetensors file of its samples' token ids and labels, with the place of each image in
the shard's own tar. Images of archives that cannot be read at a place (remote, gzip, a command) are kept
beside the ids. What is in memory are lengths: under 100 bytes a sample.
"""

import bisect
import contextlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save

from vila2cli.errors import DataError
from vila2cli.files import DEFAULT_DRAFT, DEFAULT_MAX_PIXELS, read_json, write_atomically
from vila2cli.model.chat import Chat
from vila2cli.run.feed import ahead
from vila2cli.shards import Shard, read_shard
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.members import NO_IMAGE, Unusable
from vila2cli.shards.places import is_remote, local_path, redacted
from vila2cli.shards.sample import EncodedImage, Reject, Sample, is_kept
from vila2cli.shards.stats import found_parts
from vila2cli.shards.tarfiles import image_index, split_name
from vila2cli.text.choose import Choice
from vila2cli.train.choosing import PLAIN, Choosing, DrawnRows
from vila2cli.train.choosing import TABLES as CHOICE_TABLES
from vila2cli.train.data import Compose, Lengths, TrainSample, decode_sample, encode_sample, num_trained
from vila2cli.train.stored_image import StoredImage, read_at

_TABLES = ("tokens", "images", "trained")
_HELD_TO, _TILES = "most_tiles", "tiles"
FEWER_TILES = "fewer_tiles"


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a shard: its samples' file, how many samples, those left out by a filter, and rejects.

    `num_rows` counts each of the captions that one is drawn from, `num_fewer_tiles` the samples whose pictures
    are shown in fewer tiles than the model has for them.
    """

    path: Path
    num_samples: int
    num_rows: int
    num_filtered: int
    rejects: tuple[Reject, ...]
    num_fewer_tiles: int = 0


def store_shard(
    shard: Shard,
    chat: Chat,
    compose: Compose,
    path: Path,
    *,
    max_length: int,
    check_stop: Callable[[], None],
    digests: Mapping[str, str] | None = None,
    may_lack_images: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    draft: float = DEFAULT_DRAFT,
    choosing: Choosing | None = None,
    num_workers: int = 0,
) -> Stored:
    """Tokenise a shard into `path`, or read what is there from an earlier start.

    A sample with nothing to train, with an unreadable image or longer than `max_length` tokens becomes
    a reject, and so does a caption without a picture unless it `may_lack_images`. Where one of several captions
    is drawn in each epoch, all of them are kept. Images are decoded in `num_workers` threads beside this one.
    Raises DataError when a part of the shard is not of the digest that is to be recorded, see `Source.digest`.
    """

    def encode(
        sample: Sample, images: Callable[[], Sequence[Image.Image]]
    ) -> tuple[list[TrainSample], list[Any]]:
        if sample.lacks_images and not may_lack_images:
            raise Unusable(NO_IMAGE, "a caption without its picture")
        drawn = choosing.alternatives(sample) if choosing is not None else {}
        told = [*drawn.values(), *compose(sample)] or [()]
        made = [encode_sample(sample, chat, one, max_length, max_pixels, draft, images) for one in told]
        return made, list(drawn)

    def decode(one: Sample | Reject) -> tuple[Image.Image, ...]:
        if isinstance(one, Reject) or not is_kept(one):
            return ()
        return decode_sample(one, chat, max_pixels, draft)

    notes = path.with_suffix(".json")
    if not notes.exists():
        fingerprints: dict[str, Fingerprint] = {}
        read = ahead(decode, _read(shard, fingerprints), num_workers=num_workers)
        writer = _Writer(shard, choosing, chat)
        with contextlib.closing(read):
            counts = _fill(writer, shard.name, read, encode, check_stop)
        parts = found_parts(shard, fingerprints)  # of a shard that is cut the base was not read to its end
        _check_digests(shard, parts, digests or {})
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write(path, parts[shard.name])
        rows = {"rows": writer.num_rows} if choosing is not None else {}
        value = {"samples": writer.num_samples, **rows, **counts}
        write_atomically(notes, json.dumps(value).encode())  # last: its existence means complete
    known = read_json(notes)
    num_samples, rejects_known = known["samples"], tuple(Reject(**one) for one in known["rejects"])
    num_rows, num_fewer_tiles = known.get("rows", num_samples), known.get(FEWER_TILES, 0)
    return Stored(path, num_samples, num_rows, known["filtered"], rejects_known, num_fewer_tiles)


def _fill(
    writer: "_Writer",
    shard: str,
    read: Iterable[tuple[Sample | Reject, Future[tuple[Image.Image, ...]]]],
    encode: Callable[[Sample, Callable[[], Sequence[Image.Image]]], tuple[list[TrainSample], list[Any]]],
    check_stop: Callable[[], None],
) -> dict[str, Any]:
    """Add what can be trained on; returns how many a filter left out, the rejects, and who has fewer tiles."""
    rejects: list[Reject] = []
    num_filtered = num_fewer_tiles = 0
    for one, images in read:
        check_stop()
        if isinstance(one, Reject):
            rejects.append(one)
        elif not is_kept(one):
            num_filtered += 1
        else:
            try:
                encoded, drawn = encode(one, images.result)
            except Unusable as error:
                rejects.append(Reject(shard, one.key, error.reason, str(error)))
            else:
                writer.add(one, encoded, drawn)
                num_fewer_tiles += any(each.most_tiles for each in encoded)
    fewer = {FEWER_TILES: num_fewer_tiles} if num_fewer_tiles else {}
    return {"filtered": num_filtered, "rejects": [r.to_json() for r in rejects], **fewer}


def _read(shard: Shard, fingerprints: dict[str, Fingerprint]) -> Iterator[Sample | Reject]:
    """The samples of a shard, and what cannot be one, in the order in which they are found."""
    found: list[Reject] = []
    for sample in read_shard(shard, on_reject=found.append, fingerprints=fingerprints):
        yield from found
        found.clear()
        yield sample
    yield from found


def _check_digests(shard: Shard, found: Mapping[str, Fingerprint], digests: Mapping[str, str]) -> None:
    for name, place in shard.parts().items():
        now = found[name]
        if name in digests and digests[name] not in (now.sha256, f"{now.num_bytes} bytes, {now.tag}"):
            raise DataError(
                f"{place} has changed since this training was started; run the same command again to train on "
                "what is there now, or put the old one back first"
            )


class _Writer:
    """Collects the samples of one shard."""

    def __init__(self, shard: Shard, choosing: Choosing | None, chat: Chat) -> None:
        self._shard, self._choosing, self._chat = shard, choosing, chat
        self._tar = None if is_remote(shard.url) else str(local_path(shard.url))
        self._places = _image_places(self._tar)
        drawn = CHOICE_TABLES if choosing is not None else ()
        tiles = (_TILES,) if chat.pictures.tokens_per_tile else ()
        columns = (*_TABLES, _HELD_TO, *tiles, *drawn, "offset", "num_bytes")
        self._columns: dict[str, list[int]] = {name: [] for name in columns}
        self._keys: list[str] = []
        self._ids: list[NDArray[np.int32]] = []
        self._labels: list[NDArray[np.int32]] = []
        self._bytes = bytearray()

    @property
    def num_rows(self) -> int:
        return len(self._keys)

    @property
    def num_samples(self) -> int:
        """The rows, but of the captions that one is drawn from one."""
        firsts = self._columns.get(CHOICE_TABLES[0], ())
        return self.num_rows - sum(first == 0 for first in firsts)

    def add(self, sample: Sample, encoded: Sequence[TrainSample], drawn: Sequence[str] = ()) -> None:
        """Add what a sample became, first the captions of the sources that one is drawn from.

        All of it shares the sample's images.
        """
        places = self._find(sample)
        if self._choosing is not None:
            rows = self._choosing.rows(self._shard.name, sample.key, drawn)
            for row in [*rows, *[PLAIN] * (len(encoded) - len(rows))]:
                for name, value in zip(CHOICE_TABLES, row, strict=True):
                    self._columns[name].append(value)
        for one in encoded:
            self._keys.append(sample.key)
            self._ids.append(np.asarray(one.ids, np.int32))
            self._labels.append(np.asarray(one.labels, np.int32))
            counts = {"tokens": len(one.ids), "images": len(places), "trained": num_trained(one.labels)}
            for name, count in (*counts.items(), (_HELD_TO, one.most_tiles)):
                self._columns[name].append(count)
            if _TILES in self._columns:
                self._columns[_TILES].append(self._chat.pictures.num_tiles(one.ids))
            self._columns["offset"] += [offset for offset, _ in places]
            self._columns["num_bytes"] += [size for _, size in places]

    def _find(self, sample: Sample) -> list[tuple[int, int]]:
        """Offset and size of the sample's images in the tar, else (offsets from -1 down) in our own bytes."""
        places = self._places.get(sample.key, [])
        if len(places) == len(sample.images) and self._tar is not None:
            with Path(self._tar).open("rb") as file:
                pairs = zip(places, sample.images, strict=True)
                if all(size == len(i.data) and read_at(file, at, size) == i.data for (at, size), i in pairs):
                    return places
        own = []
        for image in sample.images:
            own.append((-1 - len(self._bytes), len(image.data)))
            self._bytes += image.data
        return own

    def write(self, path: Path, then: Fingerprint) -> None:
        """Write the file whole or not at all; `then` is the fingerprint of the tar."""
        empty = np.zeros(0, np.int32)
        keys = "".join(f"{key}\n" for key in self._keys).encode()
        tensors = {name: np.asarray(values, np.int64) for name, values in self._columns.items()}
        tensors["ids"] = np.concatenate([empty, *self._ids])
        tensors["labels"] = np.concatenate([empty, *self._labels])
        tensors["bytes"] = np.frombuffer(bytes(self._bytes), np.uint8)
        tensors["keys"] = np.frombuffer(keys, np.uint8)
        tensors["key_length"] = np.asarray([len(key.encode()) + 1 for key in self._keys], np.int64)
        metadata = {
            "tar": self._tar or "",
            "place": redacted(self._shard.url),
            "fingerprint": json.dumps(then.to_json()),
        }
        write_atomically(path, save(tensors, metadata))


def _image_places(tar: str | None) -> dict[str, list[tuple[int, int]]]:
    """Offset and size of the images of each key of a plain tar, in the order in which samples have them."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    if tar is None:
        return {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                split = split_name(member.name)
                index = None if split is None else image_index(split[1])
                if split is not None and index is not None and member.isreg():
                    found.setdefault(split[0], []).append((index, member.offset_data, member.size))
    except (tarfile.TarError, OSError):  # gzip, or damaged in a way that the reader has its own words for
        return {}
    return {key: [(at, size) for _, at, size in sorted(places)] for key, places in found.items()}


class SampleStore(Sequence[TrainSample]):
    """The samples of several sources, one after another, read when they are asked for."""

    def __init__(
        self,
        sources: Sequence[Sequence[Stored]],
        limits: Sequence[int],
        max_pixels: int = DEFAULT_MAX_PIXELS,
        choices: Mapping[int, Choice] = MappingProxyType({}),
        draft: float = DEFAULT_DRAFT,
    ) -> None:
        """`limits` bounds the samples of each source, 0 for all; `max_pixels` and `draft` as in `store_shard`.

        `choices` has how one of several captions is drawn, by the number of a source.
        """
        self._files: list[_File] = []
        self._starts: list[int] = []
        columns: dict[str, list[NDArray[np.int64]]] = {
            name: [] for name in (*_TABLES, _TILES, *(CHOICE_TABLES if choices else ()), "source")
        }
        total = 0
        for number, (source, limit) in enumerate(zip(sources, limits, strict=True)):
            left = limit or sum(stored.num_samples for stored in source)
            for stored in source:
                file = _File(stored.path, max_pixels, draft) if left and stored.num_rows else None
                if file is not None:
                    count, num_samples = file.first_rows(left, stored, is_drawn=number in choices)
                    self._files.append(file)
                    self._starts.append(total)
                    for name in _TABLES:
                        columns[name].append(file.table(name)[:count])
                    columns[_TILES].append(file.tiles[:count])
                    for name, plain in zip(CHOICE_TABLES, PLAIN, strict=True) if choices else ():
                        own = file.table(name)[:count] if number in choices else np.full(count, plain, np.int64)
                        columns[name].append(own)
                    columns["source"].append(np.full(count, number, np.int64))
                    total, left = total + count, left - num_samples
        self._total = total
        tables = {name: np.concatenate([np.zeros(0, np.int64), *parts]) for name, parts in columns.items()}
        drawn = None
        if choices:
            of_choice = {name: tables.pop(name) for name in CHOICE_TABLES}
            drawn = DrawnRows(**of_choice, source=tables["source"], choices=choices)
        self.lengths = Lengths(**tables, drawn=drawn)

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._total))]
        if not 0 <= index < self._total:
            raise IndexError(index)
        place = bisect.bisect_right(self._starts, index) - 1
        return self._files[place].sample(index - self._starts[place])

    def __iter__(self) -> Iterator[TrainSample]:
        return (self[i] for i in range(self._total))


class _File:
    """One shard's samples, mapped and read slice by slice."""

    def __init__(self, path: Path, max_pixels: int, draft: float) -> None:
        self._file, self._max_pixels, self._draft = _mapped(path), max_pixels, draft
        metadata = self._file.metadata()
        self._tar, self._place = metadata["tar"], metadata["place"]
        known = metadata.get("fingerprint")  # an earlier release began this training
        self._then = Fingerprint.from_json(json.loads(known)) if known else None
        self._token_ends = np.cumsum(self.table("tokens"))
        self._image_ends = np.cumsum(self.table("images"))
        self._key_ends = np.cumsum(self.table("key_length"))
        self._held_to = self.table(_HELD_TO) if _HELD_TO in self._file.keys() else None  # noqa: SIM118

    def table(self, name: str) -> NDArray[np.int64]:
        table: NDArray[np.int64] = self._file.get_tensor(name)
        return table

    @property
    def tiles(self) -> NDArray[np.int64]:
        """The tiles of each sample's images, which are as many as those where a model cuts none."""
        return self.table(_TILES if _TILES in self._file.keys() else "images")  # noqa: SIM118

    def first_rows(self, most: int, stored: Stored, *, is_drawn: bool) -> tuple[int, int]:
        """How many rows hold at most so many samples, and how many samples those are."""
        if not is_drawn:
            return (min(most, stored.num_rows),) * 2
        num_before = np.cumsum(self.table(CHOICE_TABLES[0]) != 0)
        rows = int(np.searchsorted(num_before, most, side="right"))
        return rows, int(num_before[rows - 1])

    def sample(self, index: int) -> TrainSample:
        ids = self._slice("ids", self._token_ends, index)
        labels = self._slice("labels", self._token_ends, index)
        offsets = self._slice("offset", self._image_ends, index)
        sizes = self._slice("num_bytes", self._image_ends, index)
        images = [self._image(at, size) for at, size in zip(offsets, sizes, strict=True)]
        key = bytes(self._slice("keys", self._key_ends, index)).rstrip(b"\n").decode()
        # Keys repeat from source to source; the shard's path tells them apart.
        most = 0 if self._held_to is None else int(self._held_to[index])
        return TrainSample(f"{self._place}/{key}", ids, labels, images, self._max_pixels, self._draft, most)

    def _slice(self, name: str, ends: NDArray[np.int64], index: int) -> list[int]:
        start, stop = int(ends[index - 1]) if index else 0, int(ends[index])
        values: list[int] = self._file.get_slice(name)[start:stop].tolist() if stop > start else []
        return values

    def _image(self, offset: int, num_bytes: int) -> StoredImage | EncodedImage:
        if offset >= 0:
            return StoredImage(self._tar, offset, num_bytes, self._then)
        start = -1 - offset
        return EncodedImage(bytes(self._file.get_slice("bytes")[start : start + num_bytes]), "")


def _mapped(path: Path) -> Any:
    return safe_open(path, framework="numpy")
