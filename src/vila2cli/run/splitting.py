"""The shards of a stage that writes several layers, as the one list that its workers share.

Tasks and judges may have a shard each: split layer by layer, the first worker would get all of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vila2cli.files import read_json
from vila2cli.run.folder import Worker, select, write_json
from vila2cli.shards import Shard, done

SHARDS_FILE = "shards.json"


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


def count_undone(out_dir: Path) -> tuple[int, int]:
    """How many of the shards that `split` kept are not there yet, and how many there are in all."""
    listed = listed_shards(out_dir)
    return len(undone(out_dir, listed)), len(listed)


def undone(out_dir: Path, shards: Sequence[str]) -> list[str]:
    """Those of the shards, given as `FOLDER/SHARD` or, of `out_dir` itself, `SHARD`, that are not there yet."""
    folders = {name.rpartition("/")[0] for name in shards}
    there = {folder: done(out_dir / folder) for folder in folders}
    return [name for name in shards if name.rpartition("/")[2] not in there[name.rpartition("/")[0]]]
