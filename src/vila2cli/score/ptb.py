"""Words of captions, cut much as the Penn Treebank tokeniser cuts them.

Caption scores are published on the output of Stanford's PTBTokenizer, a Java program, with its punctuation
tokens left out. This is a small stand-in for it: lower case, clitics apart ("do n't", "dog 's"), quotes,
brackets and sentence marks left out, hyphens and inner full stops kept. It is the same on captions of plain
words; dates, web addresses, fractions and abbreviations may be cut elsewhere.
"""

import re

_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "--", "—": "--"})
_NEGATION = re.compile(r"(?<=\w)(n't)\b")
_CLITIC = re.compile(r"(?<=\w)('(?:s|m|d|re|ve|ll))\b")
_JOINED = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b")
_TOKEN = re.compile(
    r"""n't\b | '(?:s|m|d|re|ve|ll)\b | (?:[a-z]\.){2,} | \d+(?:[.,:]\d+)+ | \$ | % | & | \#
    | \w+(?:[-./]\w+)* """,
    re.VERBOSE,
)


def tokenise(caption: str) -> list[str]:
    """The words of a caption in order, without punctuation."""
    text = caption.lower().translate(_QUOTES)
    text = _NEGATION.sub(r" \1", text)
    text = _CLITIC.sub(r" \1", text)
    text = _JOINED.sub(lambda match: " ".join(part for part in match.groups() if part), text)
    return _TOKEN.findall(text)
