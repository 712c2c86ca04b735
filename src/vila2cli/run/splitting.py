"""The shards of a stage that writes several layers, as the one list that its workers share.

Tasks and judges may have a shard each: split layer by layer, the first worker would get all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.files import read_json
from vila2cli.run.folder import write_json
from vila2cli.run.results import StageResult
from vila2cli.run.workers import Worker, select
from vila2cli.shards import Shard, done

SHARDS_FILE = "shards.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished(StageResult):
    """How far the workers of a stage are together, which is not `done` yet: "scored", "judged".

    `done_by` says who else is doing the last step.
    """

    done: str
    num_shards: int
    num_shards_done: int
    done_by: str = ""

    def to_json(self) -> dict[str, Any]:
        """The counts, and that the stage is not done."""
        counts = {"num_shards": self.num_shards, "num_shards_done": self.num_shards_done}
        return {self.done: False, **counts, **({f"{self.done}_by": self.done_by} if self.done_by else {})}


def split(out_dir: Path, layers: Mapping[str, Sequence[Shard]], worker: Worker) -> dict[str, list[Shard]]:
    """The worker's part of the shards of each layer folder in `out_dir`; the list of all is kept there."""
    parts = [(name, shard) for name, shards in layers.items() for shard in shards]
    listed = {"shards": [f"{name}/{shard.name}" for name, shard in parts]}
    path = out_dir / SHARDS_FILE
    if not path.is_file() or read_json(path) != listed:
        write_json(path, listed)
    own = select(parts, worker)
    return {name: [shard for layer, shard in own if layer == name] for name in layers}


def listed_shards(out_dir: Path) -> list[str]:
    """What `split` kept, as `FOLDER/SHARD` in the order of the workers; nothing where none was."""
    path = out_dir / SHARDS_FILE
    return list(read_json(path)["shards"]) if path.is_file() else []


def unfinished(out_dir: Path, done: str) -> Unfinished | None:
    """How many of the shards that `split` kept are there, None where all are."""
    listed = listed_shards(out_dir)
    num_undone = len(undone(out_dir, listed))
    if not num_undone:
        return None
    return Unfinished(done=done, num_shards=len(listed), num_shards_done=len(listed) - num_undone)


def undone(out_dir: Path, shards: Sequence[str]) -> list[str]:
    """Those of the shards, given as `FOLDER/SHARD` or, of `out_dir` itself, `SHARD`, that are not there yet."""
    folders = {name.rpartition("/")[0] for name in shards}
    there = {folder: done(out_dir / folder) for folder in folders}
    return [name for name in shards if name.rpartition("/")[2] not in there[name.rpartition("/")[0]]]
