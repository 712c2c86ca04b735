"""What makes a specialist's answer not worth training on: boxes that are none, text that cannot be meant."""

import re
from collections.abc import Collection
from typing import Literal

from vila2cli.text.box_parsing import BARE, find_boxes, has_point
from vila2cli.text.printable import printable

Defect = Literal["bad-box", "box-outside", "no-box", "implausible-text"]

GRID = 999
MAX_WORD_CHARS = 60
"""The longest run without a space; longer ones are noise, or an address that nobody reads out."""
MIN_WRITTEN_SHARE = 0.5
"""Least share of letters, digits and spaces in an answer."""

_BRACKET = re.compile(r"\[[^\[\]]*\]?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_BOX = re.compile(r"\[\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3}\s*\]")
_PLACEHOLDER = "[xmin,ymin,xmax,ymax]"


def answer_defect(text: str, checks: Collection[str]) -> Defect | None:
    """The first rule that an answer breaks, None when it keeps all of `checks` (`specialists.NAME.checks`).

    A bracket with a digit in it, or the prompt's own `[xmin,ymin,xmax,ymax]`, is meant as a box. Boxes are
    in 0-999 of the image, so one with a number beyond that is outside of it. One in another model's notation
    (location tokens, `(x1,y1),(x2,y2)`, `bbox_2d`) is bad: it would be trained on as it stands.
    """
    meant = [found for found in _BRACKET.findall(text) if _NUMBER.search(found) or found == _PLACEHOLDER]
    if "boxes" in checks:
        for bracket in meant:
            if defect := _box_defect(bracket):
                return defect
        # A box in another notation, also around one of ours; four numbers alone may be a text that was read.
        others = {found.notation for found in find_boxes(_BOX.sub("", text))} - {BARE}
        if has_point(text) or others or any(found.notation[0] == "<" for found in find_boxes(text)):
            return "bad-box"
    if "some-box" in checks and not any(_box_defect(bracket) is None for bracket in meant):
        return "no-box"
    if "text" in checks and not _is_plausible(_BRACKET.sub("", text)):
        return "implausible-text"
    return None


def _box_defect(bracket: str) -> Defect | None:
    if not _BOX.fullmatch(bracket):
        return "bad-box"
    x1, y1, x2, y2 = (float(number) for number in _NUMBER.findall(bracket))
    if min(x1, y1, x2, y2) < 0 or max(x1, y1, x2, y2) > GRID:
        return "box-outside"
    return None if x1 < x2 and y1 < y2 else "bad-box"


def _is_plausible(text: str) -> bool:
    if printable(text, keep_newlines=True) != text:
        return False
    if any(len(word) > MAX_WORD_CHARS for word in text.split()) and text.isascii():
        return False
    bare = text.strip()
    written = sum(character.isalnum() or character.isspace() for character in bare)
    return not bare or written >= MIN_WRITTEN_SHARE * len(bare)
