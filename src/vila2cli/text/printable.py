"""Untrusted text for a terminal: captions and file names may hold control characters."""

import unicodedata
from collections.abc import Sequence

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_MARKS = ("Mn", "Me")
# Joiners inside emoji and Indic words are format characters too, but harmless.
_HARMLESS = frozenset("\u200c\u200d")
MAX_LINE = 4_000
"""Characters of one line, a page or so of a terminal."""
MAX_MARKS = 8
"""Accents and joiners on one letter; more than any script stacks would cover the lines around it."""


def printable(text: str, *, keep_newlines: bool = False) -> str:
    r"""The text with every control, direction or half character written as an escape like `\x1b`.

    A caption printed through this cannot move the cursor, colour the screen, turn text around or bury
    what stands above it under accents.
    """
    if text.isascii() and text.isprintable():
        return text
    parts = []
    num_marks = 0
    for character in text:
        category = unicodedata.category(character)
        is_mark = category in _MARKS or character in _HARMLESS
        num_marks = num_marks + 1 if is_mark else 0
        is_hidden = category in _HIDDEN and not is_mark and not (character == "\n" and keep_newlines)
        if is_hidden or num_marks > MAX_MARKS:
            character = character.encode("unicode_escape").decode("ascii")
        parts.append(character)
    return "".join(parts)


def shortened(text: str, limit: int) -> str:
    """The first `limit` characters, and how many more there are."""
    left_out = len(text) - limit
    return text if left_out <= 0 else f"{text[:limit]} … ({left_out:,} more characters)"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]


def printable_line(text: str) -> str:
    """One line for a terminal or a log, whatever is in it and however long it is."""
    return shortened(printable(text), MAX_LINE)
