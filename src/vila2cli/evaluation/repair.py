"""Prediction shards that are complete but for questions that a server left unanswered, to be asked again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vila2cli.shards import Shard, ShardStats, done, layer_tar
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.rejects import NO_ANSWER, read_rejects
from vila2cli.shards.sample import Annotation, Reject

REFUSED = "engine"
"""Reason of a reject that the engine would not take, and will not."""


@dataclass(frozen=True, slots=True)
class EarlierAnswers:
    """What is known of a shard by key: predictions, and questions that the engine refused."""

    predictions: Mapping[str, Annotation] = field(default_factory=dict)
    refused: Mapping[str, Reject] = field(default_factory=dict)


def reopen(folder: Path, shards: Sequence[Shard]) -> dict[str, EarlierAnswers]:
    """By name the complete shards that lack answers which did not come, and what else they hold.

    They are complete no longer: until they are written again no other worker may sum them up.
    """
    complete = done(folder)
    stats = {name: folder / f"{name}.stats.json" for shard in shards if (name := shard.name) in complete}
    lacking = [name for name, path in stats.items() if NO_ANSWER in ShardStats.read(path).dropped]
    earlier = {name: _read(folder, name) for name in lacking}
    for name in earlier:
        stats[name].unlink()
    return earlier


def _read(folder: Path, name: str) -> EarlierAnswers:
    rejects = read_rejects(folder, name)
    return EarlierAnswers(
        dict(read_annotation_tar(layer_tar(folder, name))),
        {reject.key: reject for reject in rejects if reject.reason == REFUSED},
    )
