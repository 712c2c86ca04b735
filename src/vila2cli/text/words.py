"""A text's words and sentences, in the scripts that captions are written in."""

import itertools
import re
import unicodedata

# Languages written without spaces count one character as one word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f"
_MARKS_END = 0x1D00
"""Accents, and the vowel signs of Indic scripts, which are part of a word, stand below."""


def _marks() -> str:
    """The combining marks as the inside of a character class, and the joiners that Indic words hold."""
    codes = (code for code in range(0x0300, _MARKS_END) if not 0x0E00 <= code < 0x0E80)
    found = [code for code in codes if unicodedata.category(chr(code))[0] == "M"]
    groups = itertools.groupby(enumerate(found), key=lambda pair: pair[1] - pair[0])
    runs = [[code for _, code in group] for _, group in groups]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs) + "\u200c\u200d"


_LETTER = rf"(?:[^\W{_UNSPACED}]|[{_marks()}])"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{_LETTER}*(?:['’.,-]{_LETTER}+)*")
_GREEK = "\u0370-\u03ff\u1f00-\u1fff"
_CLOSERS = "[\"'”’»)\\]」』）】*]*"
_SENTENCE_END = re.compile(
    rf"[.!?…]+{_CLOSERS}(?=\s|$)"
    # Wherever they stand: the marks of Chinese and Japanese, Devanagari, Arabic and Urdu, Armenian, Ethiopic,
    # Burmese, Khmer and Tibetan. Greek asks with a semicolon.
    rf"|(?:[。！？｡।॥؟۔։።፧፨။៕។།]|．(?!\d)|(?<=[{_GREEK}])[;\u037e](?=\s|$))[。！？।॥؟۔]*{_CLOSERS}"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Z]|mr|mrs|ms|dr|st|no|vs|e\.g|i\.e|etc|approx|fig|jr|sr|inc|co"
    r"|mt|ft|ave|blvd|rd|prof|gen|capt|sgt|rev|ltd|corp|dept|u\.s|a\.m|p\.m)\.$",
    re.I,
)
# Thai and Lao mark no end of a sentence but by a space.
_SPACED = re.compile(r"(?<=[\u0e00-\u0eff])\s+")


def words(text: str) -> list[str]:
    """The words in order, lower-cased, without punctuation; one character each in unspaced scripts."""
    return _WORD.findall(text.lower())


def num_words(text: str) -> int:
    return len(words(text))


def sentences(text: str) -> list[str]:
    """The text cut behind each sentence end; the last piece may be unfinished."""
    ends = [0, *_sentence_ends(text), len(text)]
    pieces = (text[start:end].strip() for start, end in itertools.pairwise(ends))
    return [piece for piece in pieces if piece]


def cut_to_sentence(text: str) -> str:
    """The text up to its last full sentence, "" when it has none; abbreviations end no sentence."""
    ends = _sentence_ends(text) or [match.start() for match in _SPACED.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def _sentence_ends(text: str) -> list[int]:
    return [
        m.end()
        for m in _SENTENCE_END.finditer(text)
        if not _ABBREVIATION.search(text[max(0, m.start() - 8) : m.end()])
    ]
