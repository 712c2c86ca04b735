"""SHARD.stats.json beside SHARD.tar: that the shard is complete, its counts, and what it was made from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import to_json_bytes, write_atomically
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.places import is_remote, tar_stem
from vila2cli.shards.reader import Shard, check_any, known_num_samples, num_samples
from vila2cli.shards.records import (
    GROUPS,
    add_figures,
    check_whole,
    layer_tar,
    layer_tars,
    made_from,
    read_stats,
    stats_path,
)
from vila2cli.shards.streams import digest_of, fingerprint

_MAY_LACK = ("fewer_tiles", "empty_shards")
MAX_COUNTED_SHARDS = 8
"""Shards whose samples are counted for an estimate of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStats:
    """Counts of one shard or the sum of several: `num_in == num_out + sum(dropped.values())`.

    `num_rejected` is the part of the dropped that could not be used; the rest was left out on purpose. Pictures
    of `num_fewer_tiles` requests were shown in fewer tiles than they have, to fit the model's context.
    `num_empty_shards` are those without any file.
    """

    num_in: int = 0
    num_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    num_rejected: int = 0
    seconds: float = 0.0
    tokens: int = 0
    bytes: int = 0
    num_fewer_tiles: int = 0
    num_empty_shards: int = 0

    @property
    def reject_rate(self) -> float:
        """Rejected samples as a share of all, 0 when there were none."""
        return self.num_rejected / self.num_in if self.num_in else 0.0

    def to_json(self) -> dict[str, Any]:
        """The counts under the names that SHARD.stats.json uses, which are these without `num_`."""
        names = [one.name for one in fields(ShardStats)]  # and not those of a class made from it
        counts = {name.removeprefix("num_"): getattr(self, name) for name in names}
        counts["dropped"] = dict(self.dropped)
        return {name: count for name, count in counts.items() if count or name not in _MAY_LACK}

    @classmethod
    def counted(cls, figures: Mapping[str, Any]) -> "ShardStats":
        """The counts of a stats file, or of several summed."""
        known = {one.name: figures.get(one.name.removeprefix("num_"), one.default) for one in fields(cls)}
        known["dropped"] = dict(sorted(figures.get("dropped", {}).items()))
        known["num_fewer_tiles"] = round(known["num_fewer_tiles"])  # of layers of one pass each has its share
        return cls(**known)

    @classmethod
    def read(cls, path: Path) -> "ShardStats":
        """Read SHARD.stats.json."""
        return cls.counted(read_stats(path))


def done(out_dir: str | Path) -> set[str]:
    """Names of the shards in a folder that are complete: the tar and its stats file are both there."""
    return {tar_stem(tar) for tar in layer_tars(Path(out_dir)) if stats_path(tar).is_file()}


def folder_stats(out_dir: str | Path, names: Iterable[str] | None = None) -> ShardStats:
    """The sum over the complete shards of a folder, or over those named."""
    return ShardStats.counted(folder_figures(out_dir, done(out_dir) if names is None else names))


def stats_of_any(out_dir: Path, shards: Sequence[Shard]) -> ShardStats:
    """As `folder_stats`; raises DataError where all shards are complete and none holds a sample."""
    stats = folder_stats(out_dir)
    if done(out_dir) >= {shard.name for shard in shards}:
        check_any(stats.num_in, shards)
    return stats


def folder_figures(out_dir: str | Path, names: Iterable[str]) -> dict[str, Any]:
    """Every number of the stats files and of `GROUPS`, summed over the shards named that are complete.

    What none of them counts is 0.
    """
    total: dict[str, Any] = defaultdict(int)
    for name in sorted(done(out_dir) & set(names)):
        figures = read_stats(Path(out_dir) / f"{name}.stats.json")
        add_figures(total, {k: v for k, v in figures.items() if k in GROUPS or not isinstance(v, dict)})
        total["empty_shards"] += figures.get("in") == 0
    return total


def expected_samples(shards: Sequence[Shard]) -> tuple[int | None, bool]:
    """How many samples shards hold together, and whether that is exact.

    Where stats files do not tell, a few local shards are counted and the others taken to hold as many
    on average. None when nothing is known without reading a remote or damaged shard.
    """
    known = [known_num_samples(shard) for shard in shards]
    unknown = [shard for shard, number in zip(shards, known, strict=True) if number is None]
    total = sum(number for number in known if number is not None)
    if not unknown:
        return total, True
    counted = unknown[:: -(-len(unknown) // MAX_COUNTED_SHARDS)]
    try:
        if any(is_remote(shard.url) for shard in counted):
            return None, False
        mean = sum(map(num_samples, counted)) / len(counted)
    except DataError:  # its turn to be told will come
        return None, False
    return total + round(mean * len(unknown)), len(counted) == len(unknown)


def missing(out_dir: Path, shards: Iterable[Shard]) -> list[Shard]:
    """Those of `shards` that are not complete in a folder; raises DataError as `check_made_from` does, and for
    one that was cut off since it was complete."""

    def check(shard: Shard) -> None:
        tar = layer_tar(out_dir, shard.name)
        check_whole(tar)
        check_made_from(tar, shard)

    shards, complete = list(shards), done(out_dir)
    with ThreadPoolExecutor(16) as pool:  # a request each, where they are remote
        list(pool.map(check, [shard for shard in shards if shard.name in complete]))
    return [shard for shard in shards if shard.name not in complete]


def to_made_from(shard: Shard, known: Mapping[str, Fingerprint]) -> dict[str, Any]:
    """What a stats file says of the files a shard is written over, see `found_parts`."""
    return {name: part.to_json() for name, part in found_parts(shard, known).items()}


def found_parts(shard: Shard, known: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
    """The fingerprint of each part of a shard; reads those that are not `known`."""
    places = shard.parts().items()
    return {name: known[name] if name in known else _unread(shard, place) for name, place in places}


def _unread(shard: Shard, place: str) -> Fingerprint:
    """Of a remote file of which few samples were read its store's tag does."""
    told = fingerprint(place) if shard.first is not None and is_remote(place) else None
    return told if told is not None and told.tag else digest_of(place)


def check_made_from(tar: Path, shard: Shard) -> None:
    """Raise DataError when a complete shard was written over other files than those that `shard` names now.

    Size and time of change (or the store's tag) tell at once; where only the time differs the file is
    read, and its new time noted. What has neither, a `pipe:` command above all, cannot be told before it
    is read: there the check of the images by SHA-256, on joining, is the only one.
    """
    parts, known = shard.parts(), made_from(tar)
    if known and known.keys() != parts.keys():
        raise DataError(
            f"{tar} was made from {' and '.join(known)}, and now there is {' and '.join(parts)}; give "
            f"what it was made from, or remove {stats_path(tar).name} to have this shard done again"
        )
    renewed = {}
    for name, then in known.items():
        place = parts[name]
        now = fingerprint(place)
        agrees = then.agrees(now)
        if agrees is None and now.tag:
            now = digest_of(place)
            agrees = then.agrees(now)
            renewed[name] = now.to_json()
        if agrees is False:
            raise DataError(
                f"{place} has changed since {tar} was made from it; put the old one back, or remove "
                f"{stats_path(tar).name} to have this shard done again"
            )
    if renewed:
        stats = read_stats(stats_path(tar))
        stats["made_from"] |= renewed
        write_atomically(stats_path(tar), to_json_bytes(stats))
