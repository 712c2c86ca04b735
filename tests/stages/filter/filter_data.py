"""Shards with captions of every kind, and what a filter made of them."""

import io
from pathlib import Path
from random import Random

from PIL import Image

from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Annotation
from vila2cli.world.draw import draw_picture
from vila2cli.world.sayings import alt_text
from vila2cli.world.scenes import draw_scene

NUM_SHARDS, NUM_SAMPLES = 4, 12
LOOP = "a red circle on a red circle on a red circle on a red circle on a red circle on"


NO_MODEL = ("filter.scores=[]", "filter.keep_share=1")


def picture(number: int, side: int = 160) -> Image.Image:
    image = draw_picture(draw_scene(Random(number), "pretrain"), Random(number)).convert("RGB")
    return image.resize((side, side), Image.Resampling.LANCZOS)


def encoded(image: Image.Image, kind: str = "JPEG", quality: int = 95) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def words(number: int) -> bytes:
    return alt_text(draw_scene(Random(number), "pretrain"), Random(number), wrong=0, boilerplate=0).encode()


REJECTED = {"bad-image": 1, "several-images": 1, "bad-json": 1}
NUM_IN = NUM_SHARDS * NUM_SAMPLES + 8


def annotations(out: Path) -> dict[str, Annotation]:
    shards = open_source([str(out)]).shards
    samples = (sample for shard in shards for sample in read_shard(shard, on_reject=lambda reject: None))
    found = {sample.key: sample.annotation("filter") for sample in samples}
    assert None not in found.values(), "every sample that can be read is decided on"
    return {key: annotation for key, annotation in found.items() if annotation is not None}


def tars(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.tar.gz"))}
