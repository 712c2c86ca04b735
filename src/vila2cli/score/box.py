"""Boxes written as text: `[x1,y1,x2,y2]` in 0-999 (VILA^2 figure 3), and those of other models (RefCOCO).

An answer counts with one box, the first. One without area, such as with its corners swapped, overlaps nothing,
as in the official evaluations, and what sticks out of the image is part of a box: more or larger guesses gain
nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vila2cli.errors import DataError
from vila2cli.score.box_frames import (
    AUTO,
    BOX_FRAME,
    FRAMES,
    MANY,
    SQUARE,
    Numbers,
    inferred_frame,
    needs_size,
    to_pixels,
)
from vila2cli.score.grouping import means
from vila2cli.score.scorer import Account, Labels, Reference, Row, Scored, Scorer
from vila2cli.text.box_parsing import CORNERS, LIST, QWEN, Box, FoundBox, find_boxes, has_point

__all__ = ["BOX", "BOX_FRAME", "FRAMES", "REFCOCO", "Box", "iou", "parse_boxes"]

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_SIGNED = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_TRUTH = re.compile(rf"[\[(]{_SIGNED},{_SIGNED},{_SIGNED},{_SIGNED}[\])]")
_GRID = 999.0
_MOSTLY = 0.95
"""Share of answers from which on the frame that was stated is doubted."""


def parse_boxes(text: str) -> list[Box]:
    """All boxes in a text of this package's own, in order; a box without area or past 999 is none."""
    boxes = []
    for match in _BOX.finditer(text):
        x1, y1, x2, y2 = (float(number) for number in match.groups())
        if x1 < x2 <= _GRID and y1 < y2 <= _GRID:
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


@dataclass(frozen=True, slots=True)
class _Target:
    """What an answer's box is measured against: true boxes, the image's size where it is known, the frame.

    On the `grid` all is in 0-999, the truth too, and what lies outside is no box; else in pixels.
    """

    truths: tuple[Box, ...]
    size: tuple[float, float] | None
    frame: str
    is_grid: bool

    def place(self, stated: FoundBox, inferred: str) -> Box:
        """The box in the truth's own frame; `inferred` is the frame of numbers that nobody stated."""
        frame = stated.frame or (inferred if self.frame == AUTO else self.frame)
        if stated.frame or stated.is_ordered:
            frame = f"xyxy-{frame.partition('-')[2]}"
        width, height = self.size or (_GRID, _GRID)
        box = to_pixels(stated.box, frame, width, height)
        if not self.is_grid or self.size is None:
            return box
        return to_pixels(box, BOX_FRAME, _GRID * _GRID / width, _GRID * _GRID / height)

    def is_box(self, box: Box) -> bool:
        inside = not self.is_grid or (min(box) >= 0 and max(box) <= _GRID)
        return inside and box[0] < box[2] and box[1] < box[3]

    def row(self, text: str, inferred: str) -> Row:
        """The row of an answer: IoU with the nearest true box."""
        stated = find_boxes(text)
        if self.is_grid and self.frame == BOX_FRAME and (not stated or stated[0].notation == LIST):
            boxes = parse_boxes(text)
        else:
            boxes = [self.place(box, inferred) for box in stated]
        if self.is_grid:
            boxes = [box for box in boxes if self.is_box(box)]
        best = 0.0
        if boxes and self.is_box(boxes[0]):
            best = max(iou(boxes[0], truth) for truth in self.truths)
        return {"score": float(best >= 0.5), "iou": best, "unparsed": float(not boxes)}


def score(answer: str, reference: Reference) -> Row:
    """IoU of the answer's first box with the nearest reference box; 0 when there is none.

    Where the frame of plain numbers is not stated this takes it for 0-999; `settle` infers it from all answers.
    """
    return _grid_target(reference.answers, _grid_labels(reference)).row(answer, BOX_FRAME)


def score_refcoco(answer: str, reference: Reference) -> Row:
    """IoU of the answer's first box with the `box` of the sample's JSON, in pixels of its `width` and `height`.

    The frame of plain numbers is the task's or sample's `box_frame`, one of FRAMES; as long as nobody stated it
    this takes it for 0-999, and `settle` infers it from all answers.
    """
    return _pixel_target(_pixel_labels(reference)).row(answer, BOX_FRAME)


def _grid_labels(reference: Reference) -> Labels:
    frame = _frame(reference)
    labels = {"box_frame": frame}
    if any(name in reference.meta for name in ("width", "height")):
        return labels | {"size": _size(reference)}
    return labels


def _pixel_labels(reference: Reference) -> Labels:
    return {"box_frame": _frame(reference), "size": _size(reference), "box": str(reference.meta.get("box"))}


def _frame(reference: Reference) -> str:
    frame = reference.meta.get("box_frame", AUTO)
    if frame not in (*FRAMES, AUTO):
        raise DataError(f"RefCOCO's and other boxes need a 'box_frame' of {', '.join(FRAMES)}, or {AUTO}")
    return str(frame)


def _size(reference: Reference) -> str:
    sides = {name: reference.meta.get(name) for name in ("width", "height")}
    for name, side in sides.items():
        if not isinstance(side, int | float) or isinstance(side, bool) or not 0 < side < float("inf"):
            raise DataError(f"a RefCOCO sample needs its image's {name!r} in pixels in its JSON")
    return "x".join(f"{side:g}" for side in sides.values())


def _grid_target(answers: Iterable[str], labels: Mapping[str, str]) -> _Target:
    truths = tuple(box for text in answers for box in parse_boxes(text))
    if not truths:
        raise DataError(f"a grounding question needs an answer [x1,y1,x2,y2], not {list(answers)}")
    size, frame = _read_size(labels.get("size", "")), labels.get("box_frame", AUTO)
    if size is None and needs_size(frame):
        raise DataError(f"box_frame {frame} needs the image's 'width' and 'height' in the sample's JSON")
    return _Target(truths, size, frame, is_grid=True)


def _pixel_target(labels: Mapping[str, str]) -> _Target:
    match = _TRUTH.search(labels.get("box", ""))
    truth = None if match is None else tuple(float(number) for number in match.groups())
    if truth is None or not (truth[0] < truth[2] and truth[1] < truth[3]):
        raise DataError("a RefCOCO sample needs 'box' in pixels, with area")
    x1, y1, x2, y2 = truth
    return _Target(((x1, y1, x2, y2),), _read_size(labels.get("size", "")), labels["box_frame"], is_grid=False)


def _read_size(text: str) -> tuple[float, float] | None:
    width, _, height = text.partition("x")
    return (float(width), float(height)) if height else None


def _target_of(answer: Scored) -> _Target:
    if "box" in answer.labels:
        return _pixel_target(answer.labels)
    return _grid_target(answer.references, answer.labels)


def _first_box(text: str) -> FoundBox | None:
    return next(iter(find_boxes(text)), None)


def _plain(scored: Sequence[Scored], targets: Sequence[_Target]) -> list[tuple[str, Numbers]]:
    """The first boxes that are plain numbers and have an area, each with the frame that was stated for it."""
    boxes = []
    for answer, target in zip(scored, targets, strict=True):
        first = _first_box(answer.text)
        if first is None or first.frame or not (first.box[0] < first.box[2] and first.box[1] < first.box[3]):
            continue
        of = Numbers(first.box, target.size, first.notation in (QWEN, CORNERS), first.notation == QWEN)
        boxes.append((target.frame, of))
    return boxes


def settle(scored: Sequence[Scored]) -> list[Scored]:
    """The answers with their final rows: the frame of numbers that nobody stated is inferred from all of them.

    What an earlier version kept, without the truth beside it, stays as it scored it.
    """
    if not all("box" in answer.labels or answer.references for answer in scored):
        return list(scored)
    targets = [_target_of(answer) for answer in scored]
    inferred, _ = inferred_frame([numbers for frame, numbers in _plain(scored, targets) if frame == AUTO])
    return [
        replace(answer, row=target.row(answer.text, inferred))
        for answer, target in zip(scored, targets, strict=True)
    ]


def account(scored: Sequence[Scored]) -> Account:
    """The notations and frames of the boxes, how many answers have none, and why the figure may be wrong."""
    targets = [_target_of(answer) for answer in scored]
    firsts = [_first_box(answer.text) for answer in scored]
    notations = Counter(first.notation for first in firsts if first is not None)
    plain = _plain(scored, targets)
    open_numbers = [numbers for frame, numbers in plain if frame == AUTO]
    stated = Counter(frame for frame, _ in plain if frame != AUTO)
    inferred, why = inferred_frame(open_numbers)
    num_unparsed = int(sum(answer.row["unparsed"] for answer in scored))
    num_points = sum(
        has_point(answer.text) and first is None for answer, first in zip(scored, firsts, strict=True)
    )
    doubts = [_contradiction(frame, [of for name, of in plain if name == frame]) for frame in stated]
    if open_numbers:
        doubts.append(
            f"nobody stated the frame of {len(open_numbers)} boxes of plain numbers; they are taken for "
            f"{inferred} ({why}): state it as eval.box_frame"
        )
    if num_unparsed:
        points = f", {num_points} of them a point" if num_points else ""
        doubts.append(f"{num_unparsed} of {len(scored)} answers hold no box that can be read{points}")
    frames = dict(stated) | ({inferred: len(open_numbers)} if open_numbers else {})
    figures: dict[str, Any] = {
        "notations": dict(notations.most_common()),
        "frames_of_plain_numbers": frames,
        "frame_from": "the numbers" if open_numbers else "box_frame" if stated else "the notation",
        "num_unparsed": num_unparsed,
        "num_points": num_points,
    }
    return Account("boxes", figures, tuple(doubt for doubt in doubts if doubt))


def _contradiction(frame: str, numbers: Sequence[Numbers]) -> str:
    """Why the frame that was stated is likely not that of the numbers; empty where it may be."""
    unit = frame.partition("-")[2]
    small = sum(max(map(abs, of.box)) <= 1 for of in numbers)
    if unit not in ("1", SQUARE) and small > (1 - _MOSTLY) * len(numbers):
        return (
            f"{small} of {len(numbers)} boxes lie within 0-1, so they are not in the task's box_frame; "
            "give xyxy-1 or xyxy-1-square"
        )
    if not frame.startswith("xyxy"):
        return ""
    inferred = inferred_frame(numbers)[0]
    same = {"1000": "999", SQUARE: "1"}
    is_other = same.get(unit, unit) != same.get(inferred.partition("-")[2], inferred.partition("-")[2])
    if is_other and (len(numbers) >= MANY or _outside(unit, numbers) > (1 - _MOSTLY) * len(numbers)):
        return (
            f"the boxes are stated to be in {frame}, and look as if they were in {inferred}; see eval.box_frame"
        )
    return ""


def _outside(unit: str, numbers: Sequence[Numbers]) -> int:
    """How many boxes reach past the far edges of a frame with fixed ones."""
    if unit not in ("1", "100", "999", "1000", "1024"):
        return 0
    return sum(max(of.box) > (1000 if unit == "999" else float(unit)) for of in numbers)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


BOX = Scorer(
    name="box",
    version="xyxy-999-2",
    headline="iou_at_50",
    score=score,
    metrics=means(iou_at_50="score", mean_iou="iou", unparsed_ratio="unparsed"),
    labels=_grid_labels,
    keeps_references=True,
    settle=settle,
    account=account,
)
REFCOCO = replace(
    BOX,
    name="refcoco",
    version="iou-4",
    score=score_refcoco,
    labels=_pixel_labels,
    keeps_references=False,
    rule="RefCOCO's accuracy at IoU 0.5",
)
