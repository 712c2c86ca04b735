"""What a stage that writes shards returns: its name, its folder, and the counts of all shards in it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from vila2cli.run.results import StageResult
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
        return cls(
            **{field.name: getattr(stats, field.name) for field in dataclasses.fields(ShardStats)}, **about
        )

    def to_json(self) -> dict[str, Any]:
        counted = {field.name for field in dataclasses.fields(ShardStats)}
        about = {name: value for name, value in StageResult.to_json(self).items() if name not in counted}
        return {**about, **ShardStats.to_json(self)}

    def lines(self) -> Iterator[str]:
        """How many of the samples are written, and why the others are not."""
        why = ", ".join(f"{num:,} {reason}" for reason, num in self.dropped.items()) or "none"
        counts = f"{self.num_out:,} of {self.num_in:,} {self.SAMPLES}; {self.DROPPED}: {why}"
        yield f"{self.stage}: done ({self.out_dir}), {counts}"
