"""What the bases are pretrained on: conversations about scenes given in words, and labelled pictures.

The LLM learns to read: sixteen words say what is where, and it describes them, answers questions
and compares captions. The tower learns to see: at each of sixteen places it must tell the word that
belongs there. Neither meets the other; joining them is what `vila2 pretrain` does.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from vila2cli.image import decode_image
from vila2cli.sample import Turn
from vila2cli.text.prompts import PROMPTS
from vila2cli.world import language
from vila2cli.world.draw import draw_picture, encode_jpeg
from vila2cli.world.scenes import COLOURS, LETTERS, PLACES, SHAPES, SIDE, SIZES, draw_scene

LAYOUT_WORDS = (*SIZES, *COLOURS, *SHAPES, *LETTERS, *language.MARKS.values(), ".")
READING_SKILLS = ("existence", "colour", "shape", "size", "count", "place", "ocr")
"""What the base LLM has read questions about; relations and boxes it has to learn later."""


def reading_turns(random: Random) -> list[Turn]:
    """A text-only conversation about a scene given as sixteen words instead of as a picture.

    Repeating the words (from which looking things up emerges), questions, a description with
    questions, a web caption without being asked, or a comparison of two captions.
    """
    scene = draw_scene(random, "base")
    words = " ".join(language.layout(scene))
    kind = random.choices(("repeat", "ask", "describe", "web", "compare"), (15, 30, 30, 12, 13))[0]
    turns: list[Turn] = []
    if kind == "repeat":
        turns = [Turn("user", "Read the layout."), Turn("assistant", words)]
    elif kind == "describe":
        turns = language.describe(scene, random, (4, 4, 1))
    elif kind == "web":
        text = language.alt_text(scene, random, wrong=0.0, boilerplate=0.15)
        turns = [Turn("user", ""), Turn("assistant", text)]
    elif kind == "compare":
        turns = language.comparison(scene, random)
    if kind in ("repeat", "ask", "describe"):
        skills = random.sample(READING_SKILLS, 6 if kind == "ask" else 2)
        turns += language.interview(scene, random, skills)
    return [Turn("user", f"layout [ {words} ]\n{turns[0].text}".rstrip()), *turns[1:]]


def tokenizer_texts(random: Random) -> list[str]:
    """Text of every kind the world holds, for the tokenizer's vocabulary."""
    texts = ["user\n", "assistant\n", "system\n"] * 100
    for _ in range(3000):
        scene = draw_scene(random, "base")
        texts += [turn.text for turn in reading_turns(random)]
        texts += [language.alt_text(scene, random, wrong=0.2, boilerplate=0.2)]
        for name in ("spatial", "grounding", "ocr"):
            texts.append(language.specialist_answer(scene, name))
            texts += [turn.text for turn in language.interview(scene, random, [name])]
        texts += list(PROMPTS.values()) if random.random() < 0.01 else []
    return texts


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """N pictures (N x 3 x SIDE x SIDE in -1..1), the word at each of 16 places, and the quarters' boxes.

    `labels` index LAYOUT_WORDS (N x 16); `boxes` are N x 4 x 4 as shares of the side, nan for none.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]


def labelled_pictures(random: Random, num: int) -> LabelledPictures:
    """Draw `num` pictures, as JPEG gives them back, with what is to be seen in them."""
    pictures = LabelledPictures(
        np.empty((num, 3, SIDE, SIDE), dtype=np.float32),
        np.empty((num, 16), dtype=np.int64),
        np.full((num, len(PLACES), 4), np.nan, dtype=np.float32),
    )
    for i in range(num):
        scene = draw_scene(random, "base")
        image = decode_image(encode_jpeg(draw_picture(scene, random)))
        pictures.pixels[i] = (np.asarray(image, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)
        pictures.labels[i] = [LAYOUT_WORDS.index(word) for word in language.layout(scene)]
        for thing in scene.things:
            pictures.boxes[i, PLACES.index(thing.place)] = np.array(thing.box) / SIDE
    return pictures
