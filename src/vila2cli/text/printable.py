"""Untrusted text for a terminal: captions and file names may hold control characters."""

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Joiners inside emoji and Indic words are format characters too, but harmless.
_HARMLESS = frozenset("\u200c\u200d")


def printable(text: str, *, keep_newlines: bool = False) -> str:
    r"""The text with every control, direction or half character written as an escape like `\x1b`.

    A caption printed through this cannot move the cursor, colour the screen or turn text around.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character, keep_newlines) for character in text)


def _shown(character: str, keep_newlines: bool) -> str:
    if character == "\n" and keep_newlines:
        return character
    if unicodedata.category(character) in _HIDDEN and character not in _HARMLESS:
        return character.encode("unicode_escape").decode("ascii")
    return character
