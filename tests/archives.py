"""Shards as other tools make them, and what we read of them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from vila2cli.shards import num_samples, open_source, read_shard
from vila2cli.shards.sample import Reject, Sample


def jpeg(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "JPEG")
    return stream.getvalue()


JPEG = jpeg()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], **options: object) -> Path:
    """A tar as other tools make it: members in any order, with any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def read(path: Path) -> tuple[list[Sample], list[Reject]]:
    rejects: list[Reject] = []
    (shard,) = open_source([str(path)]).shards
    samples = list(read_shard(shard, on_reject=rejects.append))
    assert num_samples(shard) == len(samples) + len(rejects)
    return samples, rejects
