"""Whether a text is clearly not in the language asked for: its script, and the function words of Latin ones.

Coarse on purpose: it catches a model that falls into another language, and passes what it cannot
tell. What stands in quotation marks is left out, for a caption may quote a sign in any language.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


FUNCTION_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "en": _set(
            "a an the this that these those there here it its is are was were be been being has have had of "
            "in on at to from by with without and or but as for into onto over under near between behind "
            "beside above below around through across against along while which who whose where when what "
            "both each other another some any all no not very also than then so such can may one he she his "
            "her they their them him we our you your i my"
        ),
        "de": _set(
            "der die das den dem des ein eine einen einem einer eines und oder aber ist sind war waren mit "
            "ohne auf aus bei von vom zu zum zur im am unter über neben vor hinter zwischen nicht auch sich "
            "wird werden hat haben es er sie ihr sein seine als wie"
        ),
        "fr": _set(
            "le la les un une des du de et ou est sont avec sans dans sur sous par pour pas ne qui que il "
            "elle ils elles son sa ses leur leurs au aux ce cette ces à en entre devant derrière"
        ),
        "es": _set(
            "el la los las un una unos unas y o es son está están con sin en sobre bajo de del al por para no "
            "que se su sus hay este esta entre detrás delante muy"
        ),
        "it": _set(
            "il lo la i gli le un uno una e o è sono con senza in su sotto di del della dei delle al alla nel "
            "nella per non che si suo sua c'è questo questa tra dietro davanti"
        ),
        "pt": _set(
            "o a os as um uma uns umas e ou é são está estão com sem em no na nos nas sobre sob de do da dos "
            "das ao por para não que se seu sua há este esta entre atrás"
        ),
        "nl": _set(
            "de het een en of is zijn was waren met zonder op in uit bij van naar onder boven naast voor "
            "achter tussen niet ook die dat deze dit er haar wordt worden heeft hebben aan"
        ),
    }
)
_SCRIPTS = MappingProxyType(
    {
        "ru": "\u0400-\u04ff",
        "el": "\u0370-\u03ff\u1f00-\u1fff",
        "ar": "\u0600-\u06ff\u0750-\u077f",
        "he": "\u0590-\u05ff",
        "hi": "\u0900-\u097f",
        "th": "\u0e00-\u0e7f",
        "zh": "\u3400-\u4dbf\u4e00-\u9fff",
        "ja": "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff",
        "ko": "\uac00-\ud7af\u1100-\u11ff",
    }
)
_LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_KANA = re.compile("[\u3040-\u30ff]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(rf"[{_LATIN}]+(?:['’][{_LATIN}]+)?")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|「[^」]*」|(?<!\w)'[^']*'(?!\w)")
_MIN_WORDS = 20
"""A text this long with no function word of its language is not in it."""


LANGUAGES = (*FUNCTION_WORDS, *_SCRIPTS)
"""Codes of the languages that are told apart."""
_SCRIPT_OF = {language: re.compile(f"[{_SCRIPTS.get(language, _LATIN)}]") for language in LANGUAGES}


@dataclass(frozen=True, slots=True)
class _Words:
    """The letters and words of a text outside of quotation marks; `counts` are function words by language."""

    letters: str
    num_words: int
    counts: Mapping[str, int]


def is_in_language(text: str, language: str) -> bool:
    """False when the text is clearly in another language; texts too short to tell pass."""
    return _may_be(_read(text), language)


def possible_languages(text: str) -> list[str]:
    """The languages that `is_in_language` says a text is in."""
    found = _read(text)
    return [language for language in LANGUAGES if _may_be(found, language)]


def _read(text: str) -> _Words:
    unquoted = _QUOTED.sub(" ", text)
    found = [word.lower().replace("’", "'") for word in _WORD.findall(unquoted)]
    counts = {name: sum(word in known for word in found) for name, known in FUNCTION_WORDS.items()}
    return _Words("".join(_LETTER.findall(unquoted)), len(found), counts)


def _may_be(found: _Words, language: str) -> bool:
    num_letters = len(found.letters)
    if not num_letters:
        return True
    if len(_SCRIPT_OF[language].findall(found.letters)) < 0.5 * num_letters:
        return False
    if language in ("zh", "ja"):
        has_kana = len(_KANA.findall(found.letters)) >= 0.1 * num_letters
        return has_kana == (language == "ja") or num_letters < _MIN_WORDS
    return language not in FUNCTION_WORDS or _has_its_words(found, language)


def _has_its_words(found: _Words, language: str) -> bool:
    own = found.counts[language]
    other = max(count for name, count in found.counts.items() if name != language)
    if own == 0:
        return other < 2 and found.num_words < _MIN_WORDS
    return other <= 1.25 * own
