"""Conversations about drawn pictures, for tests of training."""

from random import Random

from vila2cli.shards.sample import EncodedImage, Sample, Turn
from vila2cli.world.draw import draw_picture, encode_jpeg
from vila2cli.world.sayings import caption, interview
from vila2cli.world.scenes import draw_scene


def conversations(num: int) -> list[Sample]:
    """Conversations of different lengths: every third without a picture, every fourth with two."""
    random = Random(5)
    made = []
    for i in range(num):
        scene = draw_scene(random, "sft")
        num_images = 0 if i % 3 == 0 else 2 if i % 4 == 0 else 1
        turns = [Turn("user", "<image>" * num_images + "Describe."), Turn("assistant", caption(scene))]
        turns += interview(scene, random, ["colour"] * (i % 4))
        images = tuple(EncodedImage(encode_jpeg(draw_picture(scene, random)), "jpg") for _ in range(num_images))
        made.append(Sample(key=str(i), images=images, meta={"messages": [turn.to_json() for turn in turns]}))
    return made
