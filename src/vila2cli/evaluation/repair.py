"""Prediction shards that are complete but for questions that a server left unanswered, to be asked again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vila2cli.sample import Annotation, Reject
from vila2cli.score.annotations import read_annotation_tar
from vila2cli.shards import Shard, ShardStats, done

NO_ANSWER = "no-answer"
"""Reason of a reject that another try may answer."""
REFUSED = "engine"
"""Reason of a reject that the engine would not take, and will not."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of a shard by key: predictions, and questions that the engine refused."""

    predictions: Mapping[str, Annotation] = field(default_factory=dict)
    refused: Mapping[str, Reject] = field(default_factory=dict)


def reopen(folder: Path, shards: Sequence[Shard]) -> dict[str, Earlier]:
    """By name the complete shards that lack answers which did not come, and what else they hold.

    They are complete no longer: until they are written again no other worker may sum them up.
    """
    names = lacking(folder, [shard.name for shard in shards])
    found = {name: _read(folder, name) for name in names}
    for name in names:
        (folder / f"{name}.stats.json").unlink()
    return found


def lacking(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of the shards that are complete but for answers which did not come."""
    complete = done(folder)
    return [
        name
        for name in names
        if name in complete and NO_ANSWER in ShardStats.read(folder / f"{name}.stats.json").dropped
    ]


def _read(folder: Path, name: str) -> Earlier:
    lines = (folder / f"{name}.rejects.jsonl").read_text(encoding="utf-8").splitlines()
    rejects = [Reject(**json.loads(line)) for line in lines]
    return Earlier(
        dict(read_annotation_tar(folder / f"{name}.tar")),
        {reject.key: reject for reject in rejects if reject.reason == REFUSED},
    )
