"""Shards with good and broken samples, and what captioning made of them."""

import io
import json
from collections import Counter
from pathlib import Path

from tiny_vlm import picture
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.shards.sample import Annotation, Reject

NUM_SHARDS, NUM_SAMPLES = 5, 12
BROKEN = {"bad-image": 2, "no-image": 1, "several-images": 1, "bad-json": 1}
"""What shard 000001 holds besides its good samples, by the reason under which each is counted."""


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    picture(number).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_broken(tar: TarWriter) -> None:
    tar.write_sample("cut-off", {"jpg": jpeg(1)[:-400]})
    tar.write_sample("no-picture", {"jpg": b"GIF89a or so"})
    tar.write_sample("only-text", {"txt": b"hello"})
    tar.write_sample("two", {"0.jpg": jpeg(1), "1.jpg": jpeg(2)})
    tar.write_sample("json", {"jpg": jpeg(3), "json": b"{"})


def settings(*sets: str) -> Recipe:
    """Without second attempts, which take most of the time, unless they are asked for."""
    always = ["recaption.engine=hf", "recaption.max_new_tokens=48", "recaption.batch_size=8"]
    always += ["recaption.retry_temperatures=[]", "recaption.max_reject_rate=1.0"]
    return load_recipe(None, [*always, *sets])


def captions(out: Path) -> dict[str, Annotation]:
    rejects: list[Reject] = []
    source = open_source([str(out)])
    samples = (sample for shard in source.shards for sample in read_shard(shard, on_reject=rejects.append))
    found = {sample.key: sample.annotation("recaption") for sample in samples}
    return {key: annotation for key, annotation in found.items() if annotation is not None}


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar.gz"))}


def stats(out: Path, group: str) -> Counter[str]:
    """A group of the figures of all shards, added up."""
    return sum((Counter(json.loads(path.read_text())[group]) for path in out.glob("*.stats.json")), Counter())


LONG = 'prompts={mine = "{alt_text} Describe it."}'
