"""Words of captions as Stanford's PTBTokenizer 3.4.1 cuts them, whose output caption scores are published on.

That is a Java program; `ptb_rules` says what it takes for a token. Here its tokens are written in lower case
and punctuation is left out, as coco-caption does: quotes, commas, dashes and sentence marks go; brackets stay,
as "-lrb-" and "-rrb-" (the list of what is left out has them in capitals). A caption is read with the start of
the next one behind it, as the program reads a file of captions: a lone letter at the end keeps its full stop or
not by what follows. Emoji and other signs that the program does not know are left out.
"""

import re
from collections.abc import Sequence
from functools import cache

from vila2cli.score.ptb_rules import Rule, rules

_LEFT_OUT = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_PLAIN = re.compile(r"([A-Za-z]{2,})(?= [A-Za-z]|, |\n)| (?=[A-Za-z])")
_CUT_IN_TWO = frozenset(("cannot", "gonna", "gotta", "lemme", "gimme", "wanna"))
_LOOK_AHEAD = 200
_LONG = 1000
"""No more characters are looked at for a token, so that a text without spaces takes no time squared."""
_LINE_ENDS = re.compile("[\r\n]")


def tokenise(caption: str, following: str = "") -> list[str]:
    """The words of a caption in order; `following` is the caption after it."""
    text = f"{_LINE_ENDS.sub(' ', caption)}\n{following[:_LOOK_AHEAD]}\n"
    place, words = 0, list[str]()
    while place < len(caption):
        plain = _PLAIN.match(text, place)  # most words are plain, and no rule takes more
        if plain is not None and (word := (plain[1] or "").lower()) not in _CUT_IN_TWO:
            place = plain.end()
            words += [word] if word else []
        else:
            place = _token(text, place, words)
    return words


def tokenise_all(captions: Sequence[str]) -> list[list[str]]:
    """The words of captions that stand one after the other."""
    return [tokenise(caption, after) for caption, after in zip(captions, [*captions[1:], ""], strict=True)]


def _token(text: str, place: int, words: list[str]) -> int:
    """Add the words of the token at a place, and return where it ends."""
    reach, found = place, None
    for pattern, rule in _rules_of(_kind(text[place])):
        match = pattern.match(text, place, place + _LONG)
        if match is not None and match.end() > reach:
            reach, found = match.end(), (match, rule)
    if found is None:
        return place + 1
    match, rule = found
    written = match[1] if rule.written is None else rule.written(match[1])
    words += [word for word in written.lower().split() if word not in _LEFT_OUT]
    return match.end(1) - rule.back


def _kind(character: str) -> str:
    """What of `Rule.starts` a character is."""
    return "L" if character.isalpha() else "D" if character.isdecimal() else "M"


@cache
def _rules_of(kind: str) -> tuple[tuple[re.Pattern[str], Rule], ...]:
    return tuple((re.compile(rule.pattern), rule) for rule in rules() if kind in rule.starts)
