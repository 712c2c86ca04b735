"""Whether a text is clearly not in the requested language: by its script, then by py3langid's model.

Sentence by sentence, so that a text which falls into another language half-way is found too. What is too
short to tell passes. What stands in quotation marks is left out, for a caption may quote a sign in any
language, and so is a sign's text in another script behind a word such as "reads".
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff"
_HAN = "\u3005\u3400-\u4dbf\u4e00-\u9fff"
_KANA = "\u3040-\u30ff"
_HANGUL = "\uac00-\ud7af\u1100-\u11ff\u3130-\u318f"
_THAI = "\u0e00-\u0e7f"
_SCRIPTS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl"), _LATIN),
        "ru": "\u0400-\u04ff",
        "el": "\u0370-\u03ff\u1f00-\u1fff",
        "ar": "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff",
        "he": "\u0590-\u05ff\ufb1d-\ufb4f",
        "hi": "\u0900-\u097f",
        "th": _THAI,
        "zh": _HAN,
        "ja": _KANA + _HAN,
        "ko": _HANGUL,
    }
)
LANGUAGES = tuple(_SCRIPTS)
"""Codes of the languages that are told apart."""
_KIN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"en": ("pcm",), "ar": ("ary", "arz"), "zh": ("wuu", "yue"), "he": ("hbo",), "el": ("grc",)}
)
"""What py3langid tells from a language that is written alike: Nigerian Pidgin, spoken Arabic, Wu ..."""

_MIN_OWN_SCRIPT = 0.5
"""Least share of a text in its language's script ..."""
_MAX_FOREIGN = 0.2
"""... and the share of foreign sentences from which on it is not in its language."""
_UNSPACED_WEIGHT = 2.5
"""Letters of an alphabet that tell as much as one Chinese, Japanese or Korean character."""
_MIN_RUN = 8
"""Characters of another script in one run that quote no name any more."""
_MIN_WORDS = 4
_MIN_PLAIN_WORDS = 2
_MANY_WORDS = 6
_MIN_UNSPACED = 8
"""Words, of them without a capital, or characters without spaces from which on a language can be told."""
_UNLIKELY = 0.01
_UNLIKELY_OF_MANY = 0.05
"""Probabilities below which a text is in another language; English captions of 6 words and more have 0.08."""

_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NAME = re.compile(r"[A-Z]")
_WIDE = re.compile(f"[{_HAN}{_KANA}{_HANGUL}]")
_UNSPACED = re.compile(f"[{_HAN}{_KANA}{_THAI}]")
_QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|「[^」]*」|『[^』]*』|《[^》]*》|(?<!\w)['‘][^'’]*['’](?!\w)"
)
# Addresses and formulas are in no language. One begins where a word does: were it looked for at each letter,
# 100,000 letters without a space would take minutes.
_NO_WORDS = re.compile(r"(?:https?://|www\.)[!-~×·−λ]+|(?<![!-~×·−λ])[!-~×·−λ]*[@=/\\_\d][!-~×·−λ]*")
# Behind these a run of another script is the text in a picture.
_PRINTED = re.compile(
    r"\b(?:reads?|reading|says?|saying|text|words?|characters?|letters?|title|titled|labell?ed|label|written|named"
    r"|called|inscription|inscribed|name|sign|logo|spells?|caption)\b\s*[:：,]?\s*"
    rf"(?:(?!\s*[{_LATIN}])[\W\d]*[^\W\d_{_LATIN}]+)+",
    re.IGNORECASE,
)
# Behind these, in English, the rest of a sentence may be a title in any language.
_TITLED = re.compile(
    r"\b(?:titled|entitled|called|named|dubbed|labell?ed|inscribed|reads?|reading|says?|saying|spells?|lists?)\b[:,]?\s"
    r"[^\n.!?]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।॥؟۔])|\n+")
_SCRIPT_OF = {language: re.compile(f"[{letters}]") for language, letters in _SCRIPTS.items()}


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence outside of quotation marks: its letters, and how likely each language is, {} if too short."""

    letters: str
    runs: tuple[str, ...]
    likely: Mapping[str, float]
    unlikely: float

    @property
    def weight(self) -> float:
        return _weight(self.letters)


def is_in_language(text: str, language: str) -> bool:
    """False when the text is clearly in another language; texts too short to tell pass."""
    pieces = _pieces(text)
    if _may_be(pieces, language):
        return True
    return language == "en" and _TITLED.search(text) is not None and _may_be(_pieces(text, titled=False), "en")


def possible_languages(text: str) -> list[str]:
    """The languages that a text may be in, by `is_in_language`."""
    pieces = _pieces(text)
    return [language for language in LANGUAGES if _may_be(pieces, language)]


def _pieces(text: str, *, titled: bool = True) -> list[_Piece]:
    """The whole text, and its sentences where there are several; their ends only if `titled`."""
    unquoted = _PRINTED.sub(" ", _NO_WORDS.sub(" ", _QUOTED.sub(" ", text)))
    if not titled:
        unquoted = _TITLED.sub(" ", unquoted)
    sentences = [sentence for sentence in _SENTENCE_END.split(unquoted) if _LETTER.search(sentence)]
    return [_piece(unquoted), *map(_piece, sentences if len(sentences) > 1 else ())]


def _piece(text: str) -> _Piece:
    words = _WORD.findall(text)
    letters = "".join(_LETTER.findall(text))
    num_unspaced = len(_UNSPACED.findall(letters))
    is_named = not text.isupper() and sum(word[0].lower() == word[0] for word in words) < _MIN_PLAIN_WORDS
    is_long = (len(words) >= _MANY_WORDS and not is_named) or num_unspaced >= _MIN_UNSPACED
    if not is_long and (is_named or len(words) < _MIN_WORDS):
        return _Piece(letters, tuple(words), {}, 0.0)
    unlikely = _UNLIKELY_OF_MANY if is_long else _UNLIKELY
    return _Piece(letters, tuple(words), dict(_identifier().rank(text)), unlikely)


def _may_be(pieces: Sequence[_Piece], language: str) -> bool:
    whole, *sentences = pieces
    if not whole.letters:
        return True
    own = _weight("".join(_SCRIPT_OF[language].findall(whole.letters)))
    if own < _MIN_OWN_SCRIPT * whole.weight or _is_other(whole, language):
        return False
    foreign = sum(_foreign_weight(sentence, language) for sentence in sentences or [whole])
    return foreign < _MAX_FOREIGN * whole.weight


def _foreign_weight(piece: _Piece, language: str) -> float:
    """How much of a sentence is in another language: all of it, or its long runs of another script."""
    others = "".join(_foreign_runs(piece, language))
    if _is_other(piece, language) or _weight(others) > _MIN_OWN_SCRIPT * piece.weight:
        return piece.weight
    return _weight(others)


def _foreign_runs(piece: _Piece, language: str) -> Iterator[str]:
    """Words of another script, but for the names of brands and places, which are written as at home."""
    for run in piece.runs:
        if _NAME.match(run):
            continue
        other = _SCRIPT_OF[language].sub("", run)
        if len(other) >= (2 if piece.weight <= 2 * _weight(other) else _MIN_RUN):
            yield other


def _is_other(piece: _Piece, language: str) -> bool:
    """Whether a piece long enough to tell is in another language by its letters' order."""
    if not piece.likely:
        return False
    return sum(piece.likely.get(name, 0.0) for name in (language, *_KIN.get(language, ()))) < piece.unlikely


def _weight(letters: str) -> float:
    return len(letters) + (_UNSPACED_WEIGHT - 1) * len(_WIDE.findall(letters))


@functools.cache
def _identifier() -> Any:
    """py3langid's model of 140 languages, loaded when first needed: it takes a second."""
    from py3langid.langid import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
        MODEL_FILE,
        LanguageIdentifier,
    )

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
