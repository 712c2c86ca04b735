"""Base shards and layers over them."""

import io
import json
import time
from pathlib import Path

from PIL import Image

from vila2cli.shards import (
    Source,
    TarWriter,
    open_layer,
    open_source,
    read_shard,
)
from vila2cli.shards.sample import Annotation, Reject, Sample


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(stream, "JPEG")
    return stream.getvalue()


def make_base(folder: Path, num_shards: int = 3, num_each: int = 4, shade: int = 0, bad: bool = False) -> Path:
    """Shards of grey pictures; with `bad` one sample of each shard is not UTF-8."""
    for number in range(num_shards):
        with TarWriter(folder / f"{number:06d}.tar") as tar:
            for i in range(num_each):
                key = f"{number}-{i}"
                text = b"\xff" if bad and i == 1 else f"alt {key}".encode()
                tar.write_sample(key, {"jpg": jpeg(shade + 16 * number + i), "txt": text})
    return folder


def caption(text: str, layer: str = "recaption") -> Annotation:
    return Annotation(layer=layer, kind="caption", text=text, round=1, prompt_id="long-v1", num_tokens=7)


def write_layer(out: Path, source: Source, layer: str = "recaption", names: set[str] | None = None) -> Path:
    writer = open_layer(out, layer=layer, source=source, manifest={"digest": "abc"})
    for shard in source.shards:
        if names is None or shard.name in names:
            with writer.shard(shard) as shard_out:
                for sample in shard_out.samples():
                    shard_out.annotate(sample, caption(f"{layer} of {sample.key}", layer))
                    shard_out.count(tokens=7)
    writer.finish()
    return out


def read_all(source: Source, *, verify: bool = True) -> list[Sample]:
    return [
        sample
        for shard in source.shards
        for sample in read_shard(shard, on_reject=lambda reject: None, verify=verify)
    ]


def rewrite(tar: Path, shade: int) -> None:
    """Other pictures under the same keys."""
    number = int(tar.stem)
    with TarWriter(tar) as writer:
        for i in range(4):
            writer.write_sample(f"{number}-{i}", {"jpg": jpeg(shade + i), "txt": b"alt"})


def work(out_dir: Path, base: Path, index: int) -> None:
    source = open_source([str(base)])
    writer = open_layer(out_dir, layer="recaption", source=source)
    for shard in source.shards[index::3]:
        with writer.shard(shard) as out:
            for sample in out.samples():
                out.reject(Reject(shard.name, sample.key, "empty", ""))
    writer.finish()
    with writer.alone():
        stats = writer.stats()
        time.sleep(0.05 * (2 - index))
        (out_dir / "summary.json").write_text(json.dumps(stats.to_json()))
