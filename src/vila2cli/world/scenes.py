"""What is in a picture of the world: objects with size, colour, shape and place, and a written word."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from vila2cli.text.prompts import stable_hash

SIDE = 64
"""Side of a picture in pixels."""
QUARTER = SIDE // 2
SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "cyan")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
PLACES = ("top left", "top right", "bottom left", "bottom right")
LETTERS = "ABCEHKLNORTX"
BOX_FRAME = "xyxy-999"
"""Boxes are xmin, ymin, xmax, ymax as integers 0..999 of the picture's width and height."""
VOCABULARY = {"size": SIZES, "colour": COLOURS, "shape": SHAPES, "place": PLACES}

BUCKETS = {
    "pretrain": range(45),
    "interleaved": range(45, 55),
    "sft": range(55, 65),
    "specialist": range(65, 80),
    "base": range(80, 84),
    "dev": range(84, 92),
    "eval": range(92, 100),
}
"""Percentiles of the scene hash that belong to each split: no scene can be in two of them."""


Size = tuple[int, int]
"""Width and height in pixels."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object in a quarter of the picture, near one of the quarter's corners; `box` in pixels."""

    size: str
    colour: str
    shape: str
    place: str
    corner: str
    box: Box

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Writing:
    """A word written in the picture; `box` in pixels."""

    word: str
    place: str
    box: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """Two or three objects in different quarters and, in half of the scenes, a word in another.

    `size` is the width and height in which the boxes are, which a page of fine print has otherwise.
    """

    objects: tuple[SceneObject, ...]
    writing: Writing | None
    size: Size = (SIDE, SIDE)

    @property
    def signature(self) -> str:
        """What is where, without the exact pixels."""
        objects = ";".join(f"{t.size},{t.colour},{t.shape},{t.place}" for t in self.objects)
        return f"{objects}|{self.writing.word},{self.writing.place}" if self.writing else objects

    def to_json(self) -> dict[str, Any]:
        """The ground truth as stored in a sample's metadata, boxes in the declared frame."""
        return {
            "objects": [
                {**{slot: getattr(t, slot) for slot in VOCABULARY}, "box": frame(t.box, self.size)}
                for t in self.objects
            ],
            "text": {"word": w.word, "place": w.place, "box": frame(w.box, self.size)}
            if (w := self.writing)
            else None,
        }


def frame(box: Box, size: Size = (SIDE, SIDE)) -> list[int]:
    """A box in pixels of a picture of a size as integers 0..999."""
    return [round(value * 999 / side) for value, side in zip(box, (*size, *size), strict=True)]


def draw_scene(random: Random, split: str, *, with_word: bool | None = None) -> Scene:
    """A random scene of a split; scenes of other splits are drawn again."""
    return of_split(split, lambda: _any_scene(random, with_word))


def of_split(split: str, draw: Callable[[], Scene]) -> Scene:
    """The first scene drawn that belongs to a split."""
    while True:
        scene = draw()
        if stable_hash("scene", scene.signature) % 100 in BUCKETS[split]:
            return scene


def _any_scene(random: Random, with_word: bool | None) -> Scene:
    places = random.sample(PLACES, 4)
    num_objects = random.choice((2, 3))
    names = random.sample([(c, s) for c in COLOURS for s in SHAPES], num_objects)
    objects = [
        _thing(random, random.choice(SIZES), colour, shape, place)
        for (colour, shape), place in zip(names, places, strict=False)
    ]
    objects.sort(key=lambda thing: PLACES.index(thing.place))
    has_word = random.random() < 0.5 if with_word is None else with_word
    writing = put_word(random, places[3], origin(places[3])) if has_word else None
    return Scene(tuple(objects), writing)


def _thing(random: Random, size: str, colour: str, shape: str, place: str) -> SceneObject:
    corner, box = put_object(random, size, origin(place))
    return SceneObject(size, colour, shape, place, corner, box)


def put_object(random: Random, size: str, start: tuple[int, int]) -> tuple[str, Box]:
    """A corner of the quarter that starts at a pixel, and the box of an object near it."""
    side = random.randint(23, 25) if size == "large" else random.randint(12, 14)
    corner = random.choice(PLACES)
    room = QUARTER - 1 - side
    x, y = (
        first + (random.randint(1, 3) if near else room - random.randint(0, 2))
        for first, near in zip(start, (corner.endswith("left"), corner.startswith("top")), strict=True)
    )
    return corner, (x, y, x + side, y + side)


def put_word(random: Random, place: str, start: tuple[int, int]) -> Writing:
    """A random word in the quarter that starts at a pixel."""
    word = "".join(random.choice(LETTERS) for _ in range(3))
    x, y = start[0] + random.randint(1, 3), start[1] + random.randint(3, 14)
    return Writing(word, place, (x, y, x + 28, y + 13))


def origin(place: str) -> tuple[int, int]:
    """The left and top pixel of a quarter."""
    return (QUARTER if place.endswith("right") else 0), (QUARTER if place.startswith("bottom") else 0)
