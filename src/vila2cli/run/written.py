"""What a stage that writes shards or a layer returns: the counts of all shards in its folder."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from vila2cli.run.results import StageResult, key
from vila2cli.shards import ShardStats


@dataclass(frozen=True, kw_only=True)
class ShardsWritten(ShardStats, StageResult):
    """The counts of the shards that a stage wrote into `out_dir`."""

    SAMPLES: ClassVar[str] = "samples"
    DROPPED: ClassVar[str] = "dropped"
    stage: str
    out_dir: Path

    @classmethod
    def counting(cls, stats: ShardStats, **about: Any) -> Self:
        """These counts, and what else the class holds."""
        counts = {field.name: getattr(stats, field.name) for field in dataclasses.fields(ShardStats)}
        return cls(**counts, **about)

    def to_json(self) -> dict[str, Any]:
        counted = {field.name for field in dataclasses.fields(ShardStats)}
        about = {name: value for name, value in StageResult.to_json(self).items() if name not in counted}
        return {**about, **ShardStats.to_json(self)}

    def lines(self) -> Iterator[str]:
        """How many of the samples are written, and why the others are not."""
        why = ", ".join(f"{num:,} {reason}" for reason, num in self.dropped.items()) or "none"
        counts = f"{self.num_out:,} of {self.num_in:,} {self.SAMPLES}; {self.DROPPED}: {why}"
        yield f"{self.stage}: done ({self.out_dir}), {counts}{empty_shards(self.num_empty_shards)}"


@dataclass(frozen=True, kw_only=True)
class LayerCounts(StageResult):
    """The counts of a layer, by all workers: samples in and out of its complete shards, and images asked about.

    `num_fewer_tiles` requests were shown in fewer tiles than there are of their pictures, to fit the context,
    and `num_empty_shards` hold no file.
    """

    num_shards: int
    num_in: int = key("in")
    num_out: int = key("out")
    dropped: Mapping[str, int]
    num_rejected: int = key("rejected")
    reject_rate: float
    num_images: int = key("images")
    num_fewer_tiles: int = field(default=0, metadata={"key": "fewer_tiles"})
    num_empty_shards: int = field(default=0, metadata={"key": "empty_shards"})


def empty_shards(num: int) -> str:
    """What a line of counts ends with where shards hold nothing, as those that img2dataset leaves."""
    return f"; {num:,} empty shard{'s' * (num > 1)}" if num else ""


def layer_counts(stats: ShardStats, *, num_shards: int, num_images: float) -> dict[str, Any]:
    """The fields of `LayerCounts`."""
    return {
        "num_shards": num_shards,
        "num_in": stats.num_in,
        "num_out": stats.num_out,
        "dropped": dict(stats.dropped),
        "num_rejected": stats.num_rejected,
        "reject_rate": stats.reject_rate,
        "num_images": int(num_images),
        "num_fewer_tiles": stats.num_fewer_tiles,
        "num_empty_shards": stats.num_empty_shards,
    }
