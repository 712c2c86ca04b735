"""What the normal forms of short answers have in common: VQAEval's tables, and its rule for punctuation."""

import re

ARTICLES = frozenset(("a", "an", "the"))
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(digit) for digit, word in enumerate(_DIGITS)}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
# The official pattern says "not after a digit" in a way that never holds, and its flag is taken for a count.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32


def strip_punctuation(text: str, *, max_periods: int = _MAX_PERIODS) -> str:
    """The text without punctuation, by VQAEval's rule, which removes 32 full stops at most; 0 is for all.

    A mark beside a space anywhere in the text is removed, another becomes a space; where a comma stands
    between digits all marks are removed. Apostrophes and colons stay.
    """
    cleaned = text
    removes_all = _DIGIT_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or removes_all else " ")
    return _PERIOD.sub("", cleaned, count=max_periods)
