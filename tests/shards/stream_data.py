"""Shards on a web server of our own."""

import io
from pathlib import Path

import pytest
from PIL import Image

from vila2cli.shards import Source, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation, Sample

NUM_SHARDS, NUM_EACH = 3, 4


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), shade + 1).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def read(source: Source) -> list[Sample]:
    return [sample for shard in source.shards for sample in read_shard(shard, on_reject=pytest.fail)]


def local(data: Path) -> list[Sample]:
    return read(open_source([str(data / "data")]))


def write_layer(out: Path, source: Source, layer: str = "recaption") -> Path:
    writer = open_layer(out, layer=layer, source=source)
    for shard in writer.missing(source.shards):
        with writer.shard(shard) as shard_out:
            for sample in shard_out.samples():
                caption = Annotation(layer=layer, kind="caption", text=f"{layer} {sample.key}")
                shard_out.annotate(sample, caption)
    writer.finish()
    return out
