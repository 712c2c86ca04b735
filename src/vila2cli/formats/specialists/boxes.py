"""One frame for every box: xmin, ymin, xmax, ymax, integers 0-999 of the upright picture (VILA^2 figure 3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vila2cli.errors import DataError
from vila2cli.text.box_parsing import Box

Unit = Literal["pixel", "unit", "999"]
Form = Literal["xyxy", "xywh", "cxcywh"]

GRID = 999
MIN_INSIDE = 0.9
"""Share of a box that has to be inside the picture; what sticks out of it by less is cut off."""
_ROUNDING = 1e-9
"""What a division of pixels may leave behind the comma: exactly the largest area is not over it."""
_SAME_SHAPE = 0.02
"""By how much two sizes of one picture may differ in aspect ratio, after rounding to pixels."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How boxes are written: `unit` of the numbers, `form` of the four, `size` of the picture they are on.

    `size` is width and height in pixels where the annotation states them, else the picture's own. It
    also tells whether the boxes were drawn on the picture as it lies in the file or as its EXIF
    orientation turns it; where it cannot tell (a square, a half turn) they are on the turned one, which
    is what every viewer shows.
    """

    unit: Unit
    form: Form
    size: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str, size: tuple[float, float] | None = None) -> "Frame":
        """Read `pixel-xywh`, `unit-xyxy`, `999-xyxy` ...; raises DataError naming those there are."""
        unit, _, form = text.partition("-")
        if unit not in ("pixel", "unit", "999") or form not in ("xyxy", "xywh", "cxcywh"):
            raise DataError(
                f"{text!r} is no box frame; it is pixel, unit or 999, a dash, and xyxy, xywh or cxcywh"
            )
        return cls(unit, form, size)  # type: ignore[arg-type]


def grid_box(
    box: Sequence[float], frame: Frame, stored: tuple[int, int], orientation: int = 1, *, max_area: float = 1.0
) -> tuple[int, int, int, int] | str:
    """The box in 0-999 xyxy of the upright picture, or in one word why there is none.

    `stored` is the size in pixels as the file's header states it, `orientation` its EXIF tag. A box may
    cover `max_area` of the picture and no more; it is measured before it is rounded to the grid.
    """
    size = frame.size or _upright(stored, orientation)
    where = seen_from(size, stored, orientation)
    if where is None:
        return "size-mismatch"
    fractions = _fractions(box, frame, size)
    if fractions is None:
        return "not-a-box"
    inside = _cut(fractions)
    if inside is None:
        return "outside"
    if (inside[2] - inside[0]) * (inside[3] - inside[1]) > max_area + _ROUNDING:
        return "too-large"
    x1, y1, x2, y2 = _turn(inside, orientation if where == "stored" else 1)
    on_grid = round(x1 * GRID), round(y1 * GRID), round(x2 * GRID), round(y2 * GRID)
    return on_grid if on_grid[0] < on_grid[2] and on_grid[1] < on_grid[3] else "too-small"


def seen_from(
    size: tuple[float, float], stored: tuple[int, int], orientation: int
) -> Literal["stored", "upright"] | None:
    """Whether boxes on a picture of this size are on the file's pixels or on the upright picture; None if on
    neither, because the shape is another."""
    if _same_shape(size, _upright(stored, orientation)):
        return "upright"
    return "stored" if _same_shape(size, stored) else None


def box_text(box: Sequence[float]) -> str:
    """A box as the paper writes it: `[xmin,ymin,xmax,ymax]` with three digits each (VILA^2 figure 5)."""
    return "[" + ",".join(f"{int(value):03d}" for value in box) + "]"


def _upright(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (stored[1], stored[0]) if orientation >= 5 else stored


def _same_shape(size: tuple[float, float], other: tuple[float, float]) -> bool:
    if min(*size, *other) <= 0:
        return False
    return abs(math.log((size[0] / size[1]) / (other[0] / other[1]))) <= _SAME_SHAPE + 1 / min(*size, *other)


def _fractions(box: Sequence[float], frame: Frame, size: tuple[float, float]) -> Box | None:
    """Corners as shares of width and height; None for what is no box with area."""
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        return None
    a, b, c, d = box
    if frame.form == "xywh":
        c, d = a + c, b + d
    elif frame.form == "cxcywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if frame.unit == "pixel":
        width, height = size
    else:
        width = height = 1.0 if frame.unit == "unit" else float(GRID)
    return (a / width, b / height, c / width, d / height) if a < c and b < d else None


def _cut(box: Box) -> Box | None:
    """The part of a box that is inside the picture, None when that is too little of it."""
    x1, y1, x2, y2 = (min(1.0, max(0.0, value)) for value in box)
    share = (x2 - x1) * (y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))
    return (x1, y1, x2, y2) if share >= MIN_INSIDE else None


def _turn(box: Box, orientation: int) -> Box:
    """A box on the stored picture as it lies on the upright one."""
    x1, y1, x2, y2 = box
    turned = {
        1: (x1, y1, x2, y2),
        2: (1 - x2, y1, 1 - x1, y2),
        3: (1 - x2, 1 - y2, 1 - x1, 1 - y1),
        4: (x1, 1 - y2, x2, 1 - y1),
        5: (y1, x1, y2, x2),
        6: (1 - y2, x1, 1 - y1, x2),
        7: (1 - y2, 1 - x2, 1 - y1, 1 - x1),
        8: (y1, 1 - x2, y2, 1 - x1),
    }
    return turned[orientation]
