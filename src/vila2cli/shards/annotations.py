"""The annotations of a layer folder on their own: without pictures, which lie in the base shards."""

from collections.abc import Iterator
from pathlib import Path

from vila2cli.shards.places import tar_stem
from vila2cli.shards.reader import read_layer_shard
from vila2cli.shards.records import layer_tars
from vila2cli.shards.sample import Annotation

SampleId = tuple[str, str]
"""Shard name and key: a key is unique in its shard only."""


def read_annotations(layer_dir: Path) -> Iterator[tuple[SampleId, Annotation]]:
    """Yield all annotations of the complete shards in a folder, in shard and key order."""
    for tar in layer_tars(layer_dir):
        for key, annotation in read_annotation_tar(tar):
            yield (tar_stem(tar), key), annotation


def read_annotation_tar(tar: str | Path) -> Iterator[tuple[str, Annotation]]:
    """Yield key and annotation of one layer tar in key order; raises DataError for one that is damaged."""
    return read_layer_shard(tar).annotations()
