"""What the bases are pretrained on: conversations about scenes given in words, and labelled pictures.

The LLM learns to read: sixteen words tell what is where, and it describes them, answers questions
and compares captions. The tower learns to see: at each of sixteen places it must tell the word that
belongs there. Neither meets the other; joining them is what `vila2 pretrain` does.
"""

from random import Random

import numpy as np
from numpy.typing import NDArray

from vila2cli.image import decode_image
from vila2cli.shards.sample import Turn
from vila2cli.text.prompts import PROMPTS, QUESTIONS
from vila2cli.world import sayings
from vila2cli.world.draw import draw_picture, encode_jpeg
from vila2cli.world.scenes import COLOURS, LETTERS, SHAPES, SIDE, SIZES, Scene, draw_scene

LAYOUT_WORDS = (
    *SIZES,
    *COLOURS,
    *SHAPES,
    *LETTERS,
    *sayings.MARKS.values(),
    *sayings.THING_MARKS.values(),
    ".",
)

EARLY_KINDS = {"names": 70, "describe": 15, "specialist": 10, "web": 5}
KINDS = {"notes": 14, "describe": 14, "specialist": 10, "web": 8, "ask": 38, "compare": 16}
"""Per cent of each kind of conversation: first what teaches looking up, later every kind."""
NUM_QUESTIONS = {"ask": 8, "describe": 3, "specialist": 2}
"""Questions in a conversation, in an early one none."""
READING_SKILLS = {
    "existence": 3,
    "colour": 2,
    "shape": 2,
    "size": 2,
    "count": 2,
    "place": 3,
    "spatial": 3,
    "ocr": 4,
    "grounding": 2,
}
"""How often each skill is asked about."""


def reading_turns(random: Random, *, is_early: bool = False) -> list[Turn]:
    """A text-only conversation about a scene given as sixteen words instead of as a picture.

    Notes, a description or a specialist's answer, followed by questions unless `is_early`; a web
    caption without being asked; questions alone; or comparisons of captions and of sentences.
    """
    scene = draw_scene(random, "base")
    words = " ".join(sayings.layout(scene))
    shares = EARLY_KINDS if is_early else KINDS
    kind = random.choices(tuple(shares), tuple(shares.values()))[0]
    turns = _opening(kind, scene, random)
    if not is_early and kind in NUM_QUESTIONS:
        skills = random.choices(tuple(READING_SKILLS), tuple(READING_SKILLS.values()), k=NUM_QUESTIONS[kind])
        turns += sayings.interview(scene, random, skills)
    return [Turn("user", f"layout [ {words} ]\n{turns[0].text}".rstrip()), *turns[1:]]


def _opening(kind: str, scene: Scene, random: Random) -> list[Turn]:
    if kind in ("names", "notes"):
        text = sayings.notes(scene, random, only_names=kind == "names")
        return [Turn("user", "Take notes."), Turn("assistant", text)]
    if kind == "describe":
        return sayings.describe(scene, random, (4, 4, 1))
    if kind == "specialist":
        name = random.choice(tuple(QUESTIONS))
        answer = sayings.specialist_answer(scene, name)
        return [Turn("user", random.choice(QUESTIONS[name])), Turn("assistant", answer)]
    if kind == "web":
        text = sayings.alt_text(scene, random, wrong=0.0, boilerplate=0.15)
        return [Turn("user", ""), Turn("assistant", text)]
    if kind == "compare" and random.random() < 0.5:
        return [turn for _ in range(4) for turn in sayings.sentence_comparison(scene, random)]
    return sayings.comparison(scene, random) if kind == "compare" else []


def tokenizer_texts(random: Random) -> list[str]:
    """Text of every kind the world holds, for the tokenizer's vocabulary."""
    texts = ["user\n", "assistant\n", "system\n"] * 100
    for _ in range(3000):
        scene = draw_scene(random, "base")
        texts += [turn.text for turn in reading_turns(random)]
        texts += [sayings.alt_text(scene, random, wrong=0.2, boilerplate=0.2)]
        for name in ("spatial", "grounding", "ocr"):
            texts.append(sayings.specialist_answer(scene, name))
            texts += [turn.text for turn in sayings.interview(scene, random, [name])]
        texts += list(PROMPTS.values()) if random.random() < 0.01 else []
    return texts


def labelled_pictures(random: Random, num: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw `num` (N) pictures, as JPEG gives them back, and the word at each of their 16 places.

    Returns pixels N x 3 x SIDE x SIDE in -1..1 and labels N x 16, indices into LAYOUT_WORDS.
    """
    pixels = np.empty((num, 3, SIDE, SIDE), dtype=np.float32)
    labels = np.empty((num, 16), dtype=np.int64)
    for i in range(num):
        scene = draw_scene(random, "base")
        image = decode_image(encode_jpeg(draw_picture(scene, random)))
        pixels[i] = (np.asarray(image, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)
        labels[i] = [LAYOUT_WORDS.index(word) for word in sayings.layout(scene)]
    return pixels, labels
