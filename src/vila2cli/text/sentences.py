"""A text in pieces that an encoder with a short context takes whole."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from vila2cli.text.words import sentences

_CLAUSE_END = re.compile(r"[,;:，、；：]\s*|\s[-–—]+\s")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Pieces:
    """The sentences of a text; `num_split` of them were too long and are there in several pieces."""

    texts: tuple[str, ...]
    num_split: int


def sentence_pieces(text: str, fits: Callable[[str], bool]) -> Pieces:
    """The sentences of a text line by line, those that do not fit split further; nothing of it is lost.

    A sentence is split behind the last clause that fits, else between words, else between characters.
    """
    texts: list[str] = []
    num_split = 0
    for sentence in (sentence for line in text.splitlines() for sentence in sentences(line)):
        parts = _split(sentence, fits)
        num_split += len(parts) > 1
        texts += parts
    return Pieces(tuple(texts), num_split)


def _split(sentence: str, fits: Callable[[str], bool]) -> list[str]:
    parts: list[str] = []
    rest = sentence
    while not fits(rest) and len(rest) > 1:
        end = _good_end(rest, _longest(rest, fits))
        parts.append(rest[:end].strip())
        rest = rest[end:].strip()
    return [part for part in [*parts, rest] if part]


def _longest(text: str, fits: Callable[[str], bool]) -> int:
    """The most characters from the start that fit, at least one."""
    low, high = 1, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
    return low


def _good_end(text: str, longest: int) -> int:
    """The last end of a clause, else of a word, among the first characters; all of them if there is none."""
    for pattern in (_CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(text) if match.end() <= longest]
        if ends and ends[-1] < len(text):
            return ends[-1]
    return longest
