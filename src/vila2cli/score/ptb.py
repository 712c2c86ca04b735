"""Words of captions, cut as Stanford's PTBTokenizer cuts them for coco-caption.

Caption scores are published on the output of that Java program (version 3.4.1, lines kept apart, lower case),
with its punctuation tokens left out. This module was made by running the program on lists of words and on texts
with every kind of punctuation and looking at its output, and from nothing else; it needs no Java.

At each place every pattern that can start there is tried, and the longest match is the next token. Some
patterns count text that they only look at ("do" before "n't"). The captions are read as one text with one
caption a line, because the last word of a line may depend on the next line: "B." keeps its full stop unless a
sentence such as "The other ..." follows.

Its words are the program's on all texts of COCO, SugarCrepe, Abstract-50S, ImageInWords, POPE and TextVQA that
were tried and on a book's captions. Known to differ, none of it usual in captions: soft hyphens beside digits
or signs, marks beside digits, digits of other scripts beside full stops, letters younger than Unicode 6, a
clitic run together with the next word ("Ph.D.I'mfoo"), parts of addresses and compounds of more than 80
characters, and the last text of all where "'ve", "'re", "'ll" or a file name such as "4.jpg" ends it.
"""

from collections.abc import Iterable, Iterator, Sequence

from vila2cli.score.ptb_patterns import Rule, rules

# Left out of scores, as coco-caption leaves them out. Its list has brackets in capitals, so those stay.
_PUNCTUATION = frozenset(['"', "''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SIGNS = {"¢": "cents", "£": "#", "¤": "$", "€": "$", "₠": "$", "\x80": "$"}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_QUOTES = str.maketrans(dict.fromkeys("‘‹‛\x91", "`") | dict.fromkeys("’›\x92", "'"))
_QUOTES |= str.maketrans(dict.fromkeys("“«\x93", "``") | dict.fromkeys("”»\x94", "''"))
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'"}
_ENTITIES |= {"&mdash;": "--", "&ndash;": "--", "&nbsp;": ""}
_RENAMED = _BRACKETS | _SIGNS | _FRACTIONS | _ENTITIES
# Words that are two tokens when they stand alone, with the length of the first.
_TWO_IN_ONE = {"cannot": 3, "gonna": 3, "wanna": 3, "gotta": 3, "gimme": 3, "lemme": 3}
_SOFT_HYPHEN = "\xad"


def tokenise(caption: str) -> list[str]:
    """The words of a caption in lower case and without punctuation."""
    return tokenise_all([caption])[0]


def tokenise_all(captions: Sequence[str]) -> list[list[str]]:
    """The words of each of the captions, read one after the other."""
    lines = [" ".join(caption.splitlines()) for caption in captions]
    text = "\n".join(lines)
    words = []
    start = 0
    for line in lines:
        words.append(list(_words(_tokens(text, start, start + len(line)))))
        start += len(line) + 1
    return words


def _words(tokens: Iterable[str]) -> Iterator[str]:
    """Words as a score counts them: a token that holds spaces, such as "1 1/2", is several."""
    for token in tokens:
        if token not in _PUNCTUATION:
            yield from token.split()


def _tokens(text: str, start: int, end: int) -> Iterator[str]:
    """The tokens of text[start:end], which is one line of the text."""
    table = rules()
    while start < end:
        if text[start].isspace():
            start += 1
            continue
        plain = table.plain.match(text, start)
        if plain and plain.group().lower() not in _TWO_IN_ONE:
            yield plain.group().lower()
            start = plain.end()
            continue
        token, kind = _longest(table.starting_with(text[start]), text, start)
        yield from _written(token, kind, text[start + len(token) : start + len(token) + 1])
        start += len(token)


def _longest(candidates: Iterable[Rule], text: str, start: int) -> tuple[str, str]:
    """The token at `start` and the kind of the rule that found it; what no rule knows is a sign by itself."""
    best, token, kind = 0, text[start], "sign"
    for rule in candidates:
        match = rule.pattern.match(text, start)
        if match and match.end() - start > best:
            best, token, kind = match.end() - start, match["token"], rule.kind
    return token, kind


def _written(token: str, kind: str, after: str) -> Iterator[str]:
    """The token as the program prints it; nothing for a character that it drops."""
    low = token.lower()
    if kind == "sign":
        if low in _RENAMED:
            yield _RENAMED[low]
        elif rules().is_sign(token):
            yield low
    elif kind == "clitic":
        yield low.replace("’", "'").replace("‘", "`").replace("&apos;", "'")
    elif kind == "quotes":
        yield low.translate(_QUOTES)
    elif kind == "pair":
        yield low.replace("&amp;", "&")
    elif kind == "mark":
        return
    elif kind == "brackets":
        yield low.replace("(", "-lrb-").replace(")", "-rrb-")
    elif low in _TWO_IN_ONE and after not in ("'", "’"):
        yield low[: _TWO_IN_ONE[low]]
        yield low[_TWO_IN_ONE[low] :]
    else:
        yield low.replace(_SOFT_HYPHEN, "")
