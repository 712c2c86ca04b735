"""Shards: tar archives of samples, and the layers of annotations beside them.

places and finding say where tars are, streams and tarfiles read their bytes, tarwriter writes them, members and
reader make samples of them. layers, packed, stats, records, rejects and origins keep what a stage adds; source
joins all, and is where to begin: `open_source` gives base shards with their layers, `read_shard` the samples of
one, and pipeline's `dataset` all of them to a trainer of one's own.
"""

from typing import TYPE_CHECKING, Any

from vila2cli.shards.layers import (
    LayerInfo,
    LayerWriter,
    ShardWriter,
    Source,
    layer_suffix,
    open_layer,
    samples_of,
    write_layer_shard,
)
from vila2cli.shards.reader import LayerShard, Shard, member_problems, num_samples, read_shard
from vila2cli.shards.records import file_sha256, layer_tar, made_from
from vila2cli.shards.rejects import Unreadable, gather_rejects, read_rejects, write_rejects
from vila2cli.shards.source import expand, open_source
from vila2cli.shards.stats import (
    ShardStats,
    done,
    expected_samples,
    folder_figures,
    folder_stats,
    missing,
    to_made_from,
)
from vila2cli.shards.tarwriter import TarWriter

if TYPE_CHECKING:
    from vila2cli.shards.pipeline import dataset

__all__ = [
    "LayerInfo",
    "LayerShard",
    "LayerWriter",
    "Shard",
    "ShardStats",
    "ShardWriter",
    "Source",
    "TarWriter",
    "Unreadable",
    "dataset",
    "done",
    "expand",
    "expected_samples",
    "file_sha256",
    "folder_figures",
    "folder_stats",
    "gather_rejects",
    "layer_suffix",
    "layer_tar",
    "made_from",
    "member_problems",
    "missing",
    "num_samples",
    "open_layer",
    "open_source",
    "read_rejects",
    "read_shard",
    "samples_of",
    "to_made_from",
    "write_layer_shard",
    "write_rejects",
]


def __getattr__(name: str) -> Any:
    """`dataset`, whose module loads torch."""
    if name == "dataset":
        from vila2cli.shards.pipeline import dataset

        return dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
