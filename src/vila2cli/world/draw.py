"""Scenes to pictures: Pillow drawing at four times the size, then down-sampling and pixel noise."""

import math
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vila2cli.image import to_jpeg
from vila2cli.world.scenes import Scene, SceneObject, Size, Writing

SCALE = 4
RGB = {
    "red": (215, 30, 35),
    "green": (30, 150, 55),
    "blue": (35, 70, 205),
    "yellow": (235, 205, 20),
    "purple": (140, 45, 165),
    "orange": (240, 130, 20),
    "black": (25, 25, 25),
    "cyan": (40, 190, 205),
}


def draw_picture(scene: Scene, random: Random, size: Size | None = None) -> Image.Image:
    """The scene as an RGB picture of `size`, its own by default, on a light background with noise."""
    shade = random.randint(222, 252)
    background = tuple(min(255, max(0, shade + random.randint(-4, 4))) for _ in range(3))
    canvas = Image.new("RGB", (scene.size[0] * SCALE, scene.size[1] * SCALE), background)
    pen = ImageDraw.Draw(canvas)
    for thing in scene.objects:
        _draw_thing(pen, thing)
    if scene.writing:
        _draw_word(pen, scene.writing)
    pixels = np.asarray(canvas.resize(size or scene.size, Image.Resampling.BOX), dtype=np.int16)
    noise = np.random.default_rng(random.getrandbits(32)).integers(-6, 7, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def encode_jpeg(image: Image.Image) -> bytes:
    return to_jpeg(image, quality=92, subsampling=0)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: SceneObject) -> None:
    x1, y1, x2, y2 = (value * SCALE for value in thing.box)
    width, height = x2 - x1, y2 - y1
    colour = RGB[thing.colour]
    if thing.shape == "circle":
        pen.ellipse((x1, y1, x2, y2), fill=colour)
        return
    points = [(x1 + px * width, y1 + py * height) for px, py in _outline(thing.shape)]
    pen.polygon(points, fill=colour)


@cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Corner points in the unit square."""
    a, b = 0.32, 0.68
    if shape == "star":
        points = []
        for i in range(10):
            radius = 0.5 if i % 2 == 0 else 0.2
            angle = math.pi * i / 5 - math.pi / 2
            points.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
        return tuple(points)
    cross = ((a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a))
    outlines = {
        "square": ((0, 0), (1, 0), (1, 1), (0, 1)),
        "triangle": ((0.5, 0), (1, 1), (0, 1)),
        "diamond": ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),
        "cross": cross,
    }
    return outlines[shape]


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=15 * SCALE)


def _draw_word(pen: ImageDraw.ImageDraw, writing: Writing) -> None:
    """Letters in three equal columns of the word's box, black."""
    x1, y1, x2, y2 = (value * SCALE for value in writing.box)
    column = (x2 - x1) / 3
    for i, letter in enumerate(writing.word):
        centre = (x1 + (i + 0.5) * column, (y1 + y2) / 2)
        pen.text(centre, letter, font=_font(), fill=(20, 20, 20), anchor="mm", stroke_width=1)
