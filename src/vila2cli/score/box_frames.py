"""The frame of the numbers of a box: stated, fixed by its notation, or inferred from all answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vila2cli.text.box_parsing import Box

BOX_FRAME = "xyxy-999"
"""The frame of this package's own boxes in text: left, top, right, bottom, each 0-999 (VILA^2 figure 3)."""
AUTO = "auto"
"""The frame of numbers that nobody stated."""
PIXEL, SQUARE = "pixel", "1-square"
_FAR = {"999": 999.0, "1000": 1000.0, "1024": 1024.0, "100": 100.0, "1": 1.0, SQUARE: 1.0, PIXEL: 0.0}
FRAMES = tuple(f"{order}-{unit}" for order in ("xyxy", "yxyx", "xywh") for unit in _FAR)
"""The frames that answers may be in: the order of the numbers, and what the far edge of the image is called.

In 1-square the edge is that of the square around the image, the shorter side centred in it: LLaVA-1.5 and
Shikra pad their images so, and are asked for boxes of what they see.
"""
ENOUGH, MANY = 5, 20
"""From how many boxes on they tell pixels, thousandths and hundredths apart where all of these are possible,
and from how many on a frame that was stated is doubted by that."""
_MOSTLY = 0.95
_CLEARLY = 1.2
_SPARE = 1.02
"""By how much a box may stick out of its image in its own frame."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A box as plain numbers, and width and height of its image in pixels (None where they are not known)."""

    box: Box
    size: tuple[float, float] | None
    is_thousandths: bool = False
    is_pixels: bool = False

    @property
    def far(self) -> tuple[float, float]:
        """The furthest number to the right and down."""
        return max(self.box[0], self.box[2]), max(self.box[1], self.box[3])


def inferred_frame(boxes: Sequence[Numbers]) -> tuple[str, str]:
    """The frame of plain numbers, left, top, right, bottom, and why; one for all answers of a model.

    Numbers within 0-1 are shares. Otherwise the frames are possible in which 95% of the boxes lie within
    their images. Of several it is, from five boxes on, the one whose far edges they come nearest to, if they
    come a fifth nearer than in the usual one; this is 0-999, or pixels for Qwen's `bbox_2d`.
    """
    possible = {unit: _reach(boxes, unit) for unit in ("1", "100", "999", PIXEL)}
    possible = {unit: reach for unit, reach in possible.items() if reach > 0}
    if "1" in possible:
        return "xyxy-1", "within 0-1"
    by_notation = sum(box.is_pixels for box in boxes) * 2 > len(boxes)
    usual = PIXEL if by_notation and PIXEL in possible else "999"
    if not possible:
        return _thousandths(boxes), "in no frame that is known"
    if usual not in possible:
        usual = max(possible, key=lambda unit: possible[unit])
        return _named(usual, boxes), "in no other frame do the boxes lie within their images"
    best = max(possible, key=lambda unit: possible[unit])
    if len(boxes) >= ENOUGH and possible[best] >= _CLEARLY * possible[usual]:
        return _named(best, boxes), "its far edges are the ones that the boxes come near"
    if len(possible) == 1:
        return _named(usual, boxes), "in no other frame do the boxes lie within their images"
    return _named(usual, boxes), "the usual one of several that are possible"


def _reach(boxes: Sequence[Numbers], unit: str) -> float:
    """How near the boxes come to the far edges of a frame, 1 for some that touch; 0 where they lie outside."""
    if unit == PIXEL and any(box.size is None for box in boxes):
        return 0.0
    edge = 1000.0 if unit == "999" else _FAR[unit]
    reaches = []
    for box in boxes:
        width, height = box.size if unit == PIXEL and box.size is not None else (edge, edge)
        reaches.append(max(box.far[0] / width, box.far[1] / height))
    spare = _SPARE if unit == PIXEL else 1.0
    if not reaches or sum(reach <= spare for reach in reaches) < _MOSTLY * len(reaches):
        return 0.0
    return min(1.0, float(np.quantile(reaches, 0.9)))


def _named(unit: str, boxes: Sequence[Numbers]) -> str:
    return _thousandths(boxes) if unit == "999" else f"xyxy-{unit}"


def _thousandths(boxes: Sequence[Numbers]) -> str:
    """0-1000 where a number is 1000, or most are in a notation of Qwen's, which has that; else 0-999."""
    qwen = sum(box.is_thousandths for box in boxes) * 2 > len(boxes)
    return "xyxy-1000" if qwen or any(999 < max(box.far) <= 1000 for box in boxes) else BOX_FRAME


def needs_size(frame: str) -> bool:
    """Whether a frame can be left only with the image's width and height."""
    return frame.endswith((PIXEL, SQUARE))


def to_pixels(box: Box, frame: str, width: float, height: float) -> Box:
    """A box of one of FRAMES as left, top, right, bottom in pixels of the image."""
    order, _, unit = frame.partition("-")
    a, b, c, d = box
    if order == "yxyx":
        a, b, c, d = b, a, d, c
    elif order == "xywh":
        c, d = a + c, b + d
    far = _FAR[unit]
    if unit == SQUARE:
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        return a * side - left, b * side - top, c * side - left, d * side - top
    x, y = (width / far, height / far) if far else (1.0, 1.0)
    return a * x, b * y, c * x, d * y
