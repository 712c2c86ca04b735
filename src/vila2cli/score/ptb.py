"""Words of captions, cut much as the Penn Treebank tokeniser cuts them.

Caption scores are published on the output of Stanford's PTBTokenizer, a Java program, with its punctuation
tokens left out. This is a small stand-in for it: lower case, clitics apart ("do n't", "dog 's"), quotes and
sentence marks left out, hyphens, inner full stops and those of abbreviations kept. Brackets become "-lrb-" and
"-rrb-" and stay, as they do in published scores: the list of what is left out has them in capitals. It is the
same on all 24,800 captions of Abstract-50S and on all but 13 of 9,947 sentences of ImageInWords; fractions, web
addresses and rare abbreviations may be cut elsewhere.
"""

import re

_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "--", "—": "--"})
_BRACKETS = str.maketrans(
    {"(": " -lrb- ", ")": " -rrb- ", "[": " -lsb- ", "]": " -rsb- ", "{": " -lcb- ", "}": " -rcb- "}
)
_NEGATION = re.compile(r"(?<=\w)(n't)\b", re.IGNORECASE)
_CLITIC = re.compile(r"(?<=\w)('(?:s|m|d|re|ve|ll))\b", re.IGNORECASE)
_JOINED = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b", re.IGNORECASE)
_TOKEN = re.compile(
    r"""-[lr][rsc]b- | n't\b | '(?:s|m|d|re|ve|ll)\b | '?\bn'(?=\s) | (?:[a-z]\.){2,} | (?-i:\b[A-Z])\.(?!\w)
    | \b(?:mr|mrs|ms|dr|st|mt|jr|sr|co|inc|ltd|corp|bros|vs|etc|prof)\.(?!\w) | \bno\.(?=\s*\d)
    | [\w.+-]+@\w[\w-]*(?:\.\w+)+ | (?-i:[A-Z]+(?:&[A-Z]+)+) | \b(?:o'clock|c'mon|[dl]'\w{2,})
    | \d+(?:[.,:]\d+)+(?:-\w+)* | \w+(?:[-./]\w+)* | [$%&#/*+|~=<>^@©®°]""",
    re.VERBOSE | re.IGNORECASE,
)


def tokenise(caption: str) -> list[str]:
    """The words of a caption in order, in lower case and without punctuation."""
    text = caption.translate(_QUOTES).translate(_BRACKETS)
    text = _NEGATION.sub(r" \1", text)
    text = _CLITIC.sub(r" \1", text)
    text = _JOINED.sub(lambda match: " ".join(part for part in match.groups() if part), text)
    return [token.lower() for token in _TOKEN.findall(text)]
