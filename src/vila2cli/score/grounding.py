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


SQUARE = "xyxy-1-square"
FRAMES = {"xyxy-999": 999.0, "xyxy-1000": 1000.0, "xyxy-1": 1.0, SQUARE: 1.0, "xyxy-pixel": 0.0}
"""The coordinate frames that answers may be in, and what the far edge of the image is called there.

In xyxy-1-square the edge is that of the square around the image, the shorter side centred in it: LLaVA-1.5
pads its images so, and is asked for boxes of what it sees.
"""

_SIGNED = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_ANY_BOX = re.compile(rf"[\[(]{_SIGNED},{_SIGNED},{_SIGNED},{_SIGNED}[\])]")
_MOSTLY = 0.95
"""Share of answers inside 0-1 from which on a frame of larger numbers is doubted."""


def first_box(text: str) -> Box | None:
    """The first four numbers in brackets."""
    if (match := _ANY_BOX.search(text)) is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    return x1, y1, x2, y2


def to_pixels(box: Box, frame: str, width: float, height: float) -> Box:
    """A box of one of FRAMES in pixels of the image."""
    far = FRAMES[frame]
    if frame == SQUARE:
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        x1, y1, x2, y2 = (edge * side for edge in box)
        return x1 - left, y1 - top, x2 - left, y2 - top
    x, y = (width / far, height / far) if far else (1.0, 1.0)
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def score_refcoco(answer: str, reference: Reference) -> Row:
    """IoU with the `box` of the sample's JSON, in pixels of its `width` and `height`.

    The frame of the answer is the task's or sample's `box_frame`, one of FRAMES: it is stated, never guessed.
    `too_small` says that the numbers are of 0-1 where the frame has larger ones.
    """
    width, height = (_positive(reference, name) for name in ("width", "height"))
    truth = first_box(str(reference.meta.get("box")))
    frame = reference.meta.get("box_frame", BOX_FRAME)
    if truth is None or not _has_area(truth) or frame not in FRAMES:
        raise DataError(f"a RefCOCO sample needs 'box' in pixels and a 'box_frame' of {', '.join(FRAMES)}")
    raw = first_box(answer)
    given = None if raw is None or not _has_area(raw) else to_pixels(raw, str(frame), width, height)
    best = 0.0 if given is None else iou(given, truth)
    return {
        "score": float(best >= 0.5),
        "iou": best,
        "unparsed": float(given is None),
        "too_small": float(raw is not None and max(raw) <= 1 and FRAMES[frame] != 1),
    }


def doubt_frame(totals: Columns) -> str:
    """Why the frame that was stated is likely not that of the answers; empty where it may be."""
    parsed, too_small = float((totals["n"] - totals["unparsed"]).sum()), float(totals["too_small"].sum())
    if not too_small or too_small < _MOSTLY * parsed:
        return ""
    return (
        f"{too_small:.0f} of {parsed:.0f} boxes lie within 0-1, so they are not in the task's box_frame; "
        "give xyxy-1 or xyxy-1-square"
    )


def _has_area(box: Box) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def _positive(reference: Reference, name: str) -> float:
    value = reference.meta.get(name)
    if not isinstance(value, int | float) or value <= 0:
        raise DataError(f"a RefCOCO sample needs its image's {name!r} in pixels in its JSON")
    return float(value)


REFCOCO = Scorer(
    name="refcoco",
    version="iou-2",
    headline="iou_at_50",
    score=score_refcoco,
    metrics=metrics,
    rule="RefCOCO's accuracy at IoU 0.5",
    doubt=doubt_frame,
)
