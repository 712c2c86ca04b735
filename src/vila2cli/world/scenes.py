"""What is in a picture of the world: objects with size, colour, shape and place, and a written word."""

from dataclasses import dataclass
from random import Random
from typing import Any

from vila2cli.text.prompts import stable_hash

SIDE = 64
"""Side of a picture in pixels."""
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


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object in a quarter of the picture, near one of the quarter's corners; `box` in pixels."""

    size: str
    colour: str
    shape: str
    place: str
    corner: str
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Writing:
    """A word written in the picture; `box` in pixels."""

    word: str
    place: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """Two or three objects in different quarters and, in half of the scenes, a word in another."""

    objects: tuple[SceneObject, ...]
    writing: Writing | None

    @property
    def signature(self) -> str:
        """What is where, without the exact pixels."""
        objects = ";".join(f"{t.size},{t.colour},{t.shape},{t.place}" for t in self.objects)
        return f"{objects}|{self.writing.word},{self.writing.place}" if self.writing else objects

    def to_json(self) -> dict[str, Any]:
        """The ground truth as stored in a sample's metadata, boxes in the declared frame."""
        return {
            "objects": [
                {"size": t.size, "colour": t.colour, "shape": t.shape, "place": t.place, "box": frame(t.box)}
                for t in self.objects
            ],
            "text": {"word": w.word, "place": w.place, "box": frame(w.box)} if (w := self.writing) else None,
        }


def frame(box: tuple[int, int, int, int]) -> list[int]:
    """A box in pixels as integers 0..999."""
    return [round(value * 999 / SIDE) for value in box]


def draw_scene(random: Random, split: str, *, with_word: bool | None = None) -> Scene:
    """A random scene of a split; scenes of other splits are drawn again."""
    while True:
        scene = _any_scene(random, with_word)
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
    writing = _writing(random, places[3]) if has_word else None
    return Scene(tuple(objects), writing)


def _thing(random: Random, size: str, colour: str, shape: str, place: str) -> SceneObject:
    side = random.randint(23, 25) if size == "large" else random.randint(12, 14)
    corner = random.choice(PLACES)
    left, top = origin(place)
    room = SIDE // 2 - 1 - side
    x, y = (
        start + (random.randint(1, 3) if near else room - random.randint(0, 2))
        for start, near in ((left, corner.endswith("left")), (top, corner.startswith("top")))
    )
    return SceneObject(size, colour, shape, place, corner, (x, y, x + side, y + side))


def _writing(random: Random, place: str) -> Writing:
    word = "".join(random.choice(LETTERS) for _ in range(3))
    left, top = origin(place)
    x, y = left + random.randint(1, 3), top + random.randint(3, 14)
    return Writing(word, place, (x, y, x + 28, y + 13))


def origin(place: str) -> tuple[int, int]:
    """The left and top pixel of a quarter."""
    half = SIDE // 2
    return (half if place.endswith("right") else 0), (half if place.startswith("bottom") else 0)
