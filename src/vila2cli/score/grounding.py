"""Boxes written as text, `[x1,y1,x2,y2]` in 0-999 of the image's width and height (VILA^2 figure 3)."""

import re

from vila2cli.errors import DataError
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

Box = tuple[float, float, float, float]
BOX_FRAME = "xyxy-999"
"""The one coordinate frame of boxes in text: left, top, right, bottom, each 0-999."""

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def parse_boxes(text: str) -> list[Box]:
    """All boxes in a text, in order; a box without area or past 999 is none."""
    boxes = []
    for match in _BOX.finditer(text):
        x1, y1, x2, y2 = (float(number) for number in match.groups())
        if x1 < x2 <= 999 and y1 < y2 <= 999:
            boxes.append((x1, y1, x2, y2))
    return boxes


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes with area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    return intersection / (_area(first) + _area(second) - intersection)


def score(answer: str, reference: Reference) -> Row:
    """IoU of the first box of the answer with the nearest reference box; 0 when there is none."""
    truths = [box for text in reference.answers for box in parse_boxes(text)]
    if not truths:
        raise DataError(f"a grounding question needs an answer [x1,y1,x2,y2], not {list(reference.answers)}")
    boxes = parse_boxes(answer)
    best = max(iou(boxes[0], truth) for truth in truths) if boxes else 0.0
    return {"score": float(best >= 0.5), "iou": best, "unparsed": float(not boxes)}


def metrics(totals: Columns) -> dict[str, FloatArray]:
    """Share of boxes with IoU of at least 0.5, mean IoU, share of answers without a box."""
    return {
        "iou_at_50": ratio(totals["score"], totals["n"]),
        "mean_iou": ratio(totals["iou"], totals["n"]),
        "unparsed_ratio": ratio(totals["unparsed"], totals["n"]),
    }


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


BOX = Scorer(name="box", version="xyxy-999-1", headline="iou_at_50", score=score, metrics=metrics)


FRAMES = {"xyxy-999": 999.0, "xyxy-1000": 1000.0, "xyxy-1": 1.0, "xyxy-pixel": 0.0}
"""The coordinate frames that answers may be in, and what the far edge of the image is called there."""

_SIGNED = r"\s*(-?\d+(?:\.\d+)?)\s*"
_ANY_BOX = re.compile(rf"[\[(]{_SIGNED},{_SIGNED},{_SIGNED},{_SIGNED}[\])]")


def first_box(text: str, scale: tuple[float, float] = (1.0, 1.0)) -> Box | None:
    """The first four numbers in brackets, times the scale of x and y; None without area."""
    if (match := _ANY_BOX.search(text)) is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    box = (x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1])
    return box if box[0] < box[2] and box[1] < box[3] else None


def score_refcoco(answer: str, reference: Reference) -> Row:
    """IoU with the `box` of the sample's JSON, in pixels of its `width` and `height`.

    The frame of the answer is the sample's `box_frame`, one of FRAMES: it is stated, never guessed.
    """
    width, height = (_positive(reference, name) for name in ("width", "height"))
    truth = first_box(str(reference.meta.get("box")))
    frame = reference.meta.get("box_frame", BOX_FRAME)
    if truth is None or frame not in FRAMES:
        raise DataError(f"a RefCOCO sample needs 'box' in pixels and a 'box_frame' of {', '.join(FRAMES)}")
    far = FRAMES[frame]
    given = first_box(answer, (width / far, height / far) if far else (1.0, 1.0))
    best = 0.0 if given is None else iou(given, truth)
    return {"score": float(best >= 0.5), "iou": best, "unparsed": float(given is None)}


def _positive(reference: Reference, name: str) -> float:
    value = reference.meta.get(name)
    if not isinstance(value, int | float) or value <= 0:
        raise DataError(f"a RefCOCO sample needs its image's {name!r} in pixels in its JSON")
    return float(value)


REFCOCO = Scorer(
    name="refcoco",
    version="iou-1",
    headline="iou_at_50",
    score=score_refcoco,
    metrics=metrics,
    rule="RefCOCO's accuracy at IoU 0.5",
)
