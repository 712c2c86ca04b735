"""A picture with the boxes of a built sample drawn on it, to see whether they land on the objects."""

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vila2cli.formats.specialists.boxes import GRID
from vila2cli.text.printable import printable

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")
MIN_SIDE = 640
"""Smaller pictures are enlarged, so that the names can be read."""
MAX_LABEL_CHARS = 40


def draw_boxes(image: Image.Image, meta: Mapping[str, Any]) -> bytes:
    """A PNG of the upright picture with each of `meta["objects"]`, a name and a box in 0-999."""
    scale = max(1, -(-MIN_SIDE // max(image.size)))
    canvas = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for number, thing in enumerate(meta["objects"]):
        colour = COLOURS[number % len(COLOURS)]
        x1, x2 = (thing["box"][i] * canvas.width / GRID for i in (0, 2))
        y1, y2 = (thing["box"][i] * canvas.height / GRID for i in (1, 3))
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        label = printable(str(thing.get("text") or thing["category"]))[:MAX_LABEL_CHARS]
        at = (x1 + 2, max(0, y1 - 16))
        pen.rectangle(pen.textbbox(at, label, font=font), fill=colour)
        pen.text(at, label, fill="white", font=font)
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()
