"""The fine print of the embedded world: wide and tall pages of one small object and one word.

A page has from 128 to 512 pixels a side. Seen in tiles as large as the base tower's picture, what is on it has
the size that the tower knows; seen as one such picture, a letter is two to four pixels wide.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from vila2cli.settings import WorldSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.sample import Turn
from vila2cli.text.prompts import PROMPTS
from vila2cli.world import sayings
from vila2cli.world.scenes import (
    COLOURS,
    PLACES,
    QUARTER,
    SHAPES,
    Scene,
    SceneObject,
    Size,
    draw_scene,
    of_split,
    put_object,
    put_word,
)
from vila2cli.world.write import Members, WorldWritten, messages, picture_members, write_folders

CELLS = ((4, 4), (5, 4), (6, 4), (7, 4), (8, 4), (5, 2), (6, 2), (7, 2))
"""Columns and rows of a wide page, each as large as a quarter of the world's other pictures and with one thing
at most, so that what is as large as in those lies as it does there."""
LEAST, MOST = 128, 512
"""Pixels a side."""
MOST_CELL = 72
"""Pixels a side of the largest cell."""

CLIPPINGS, WORDS = 0.8, 0.8
"""Share of clippings among the pictures for pretraining, and of those with a word among them."""
QUESTIONS: dict[str, Callable[[Scene, Random], sayings.Question]] = {
    "ocr": sayings.ask_ocr,
    "colour": sayings.about_one("What colour is the object?", "colour"),
    "shape": sayings.about_one("What shape is the object?", "shape"),
    "existence": sayings.ask_existence,
}
"""What is asked of a page needs one look at it: a model this small hardly learns which of several is meant."""
CONVERSATIONS = (("ocr", "colour", "shape"), ("ocr", *["existence"] * 3), ("caption",))
"""What is asked beside each other, so that no answer can be told from another one or its question."""
_DECIDING = ("seed", "num_pretrain", "num_sft", "num_specialist", "num_dev", "num_eval", "samples_per_shard")


def write_fine_print(recipe: Recipe, out: Path) -> WorldWritten:
    """Write pages for every stage under `out`, as many as `write_world` writes scenes.

    The same seed and sizes give the same bytes, and no page is in two splits. Raises RecipeError when the
    folder holds what was made with other settings.
    """
    world = recipe.world
    settings = {name: value for name, value in world.deciding().items() if name in _DECIDING}
    inputs = {"stage": "world fine-print", "settings": settings}
    return write_folders(dict(_folders(world)), out, world, inputs, ("fine-print", QUESTIONS))


def _folders(world: WorldSettings) -> Iterator[tuple[str, tuple[int, Callable[[Random], Members]]]]:
    yield "pretrain", (world.num_pretrain, _captioned)
    yield "sft", (world.num_sft, _instructing)
    yield "specialist-ocr", (world.num_specialist, _specialist)
    for split, num in (("dev", world.num_dev), ("eval", world.num_eval)):
        for task in QUESTIONS:
            yield f"{split}/{task}", (num, partial(_asking, task=task, split=split))


def draw_page(random: Random, split: str, *, with_word: bool = True) -> Scene:
    """A random page of a split: a small object and, `with_word`, a word, in cells of their own."""
    return of_split(split, lambda: _any_page(random, with_word))


def _any_page(random: Random, with_word: bool) -> Scene:
    cells = random.choice(CELLS)
    columns, rows = cells if random.random() < 0.5 else cells[::-1]
    size = (columns * QUARTER, rows * QUARTER)
    both = random.sample(range(columns * rows), 2)
    start, last = ((cell % columns * QUARTER, cell // columns * QUARTER) for cell in both)
    corner, box = put_object(random, "small", start)
    colour, shape = random.choice(COLOURS), random.choice(SHAPES)
    thing = SceneObject("small", colour, shape, _place(start, size), corner, box)
    return Scene((thing,), put_word(random, _place(last, size), last) if with_word else None, size)


def _place(start: tuple[int, int], size: Size) -> str:
    """The quarter of the page that the middle of a cell is in."""
    is_right, is_low = (2 * at + QUARTER >= side for at, side in zip(start, size, strict=True))
    return PLACES[2 * is_low + is_right]


def page_size(page: Scene, random: Random) -> Size:
    """How many pixels a page is drawn with, as many a side for each of its cells."""
    columns, rows = (side // QUARTER for side in page.size)
    least = max(QUARTER, math.ceil(LEAST / min(columns, rows)))
    cell = random.randint(least, min(MOST_CELL, MOST // max(columns, rows)))
    return columns * cell, rows * cell


def caption(page: Scene) -> str:
    """What is on the page, every statement of it true."""
    text = f"The image shows {sayings.article(page.objects[0].name)}."
    return f'{text} The word "{page.writing.word}" is written.' if page.writing else text


def _captioned(random: Random) -> Members:
    """A clipping as large as the tower's picture with a conversation, or a page with a true caption.

    From clippings a new projector learns what the tower says sooner than from pages, and with fewer tokens.
    """
    if random.random() < CLIPPINGS:
        scene = draw_scene(random, "pretrain", with_word=random.random() < WORDS)
        turns = [Turn("user", "Take notes."), Turn("assistant", sayings.notes(scene, random))]
        return picture_members(scene, random, messages(turns + sayings.interview(scene, random, ["ocr"])))
    page = draw_page(random, "pretrain")
    meta = {"url": f"fine-print:{page.signature}"}
    return picture_members(page, random, meta, caption(page), page_size(page, random))


def _instructing(random: Random) -> Members:
    """A page with some questions about it, in any order, or with a long caption asked for."""
    page, skills = draw_page(random, "sft"), random.choice(CONVERSATIONS)
    return _conversing(page, random, _interview(page, random, random.sample(skills, len(skills))))


def _specialist(random: Random) -> Members:
    """A page with the OCR specialist's long answer and its question, in a few cases without a word."""
    page = draw_page(random, "specialist", with_word=random.random() < 0.85)
    prompt = random.choice([text for name, text in PROMPTS.items() if name.startswith("ocr-v")])
    turns = [Turn("user", prompt), Turn("assistant", sayings.specialist_answer(page, "ocr"))]
    return _conversing(page, random, turns + _interview(page, random, ["ocr"]))


def _conversing(page: Scene, random: Random, turns: list[Turn]) -> Members:
    return picture_members(page, random, messages(turns), size=page_size(page, random))


def _interview(page: Scene, random: Random, skills: list[str]) -> list[Turn]:
    turns = []
    for skill in skills:
        asked = random.choice(sayings.LONG_PROMPTS), caption(page)
        question, answer = asked if skill == "caption" else QUESTIONS[skill](page, random)
        turns += [Turn("user", question), Turn("assistant", answer)]
    return turns


def _asking(random: Random, task: str, split: str) -> Members:
    """A page with a question of an evaluation task and its answer; the tasks of a split share their pages."""
    page = draw_page(random, split)
    size = page_size(page, random)
    image_random, ask = Random(random.getrandbits(64)), Random(f"{task} {random.random()}")
    question, answer = QUESTIONS[task](page, ask)
    meta = {"question": question, "answers": [answer], "skill": task}
    return picture_members(page, image_random, meta, size=size)
