"""Checks of generated captions, pure functions of the text: what is wrong with one, or what to keep of it."""

import itertools
import re
from dataclasses import dataclass
from typing import Literal

from vila2cli.text.language import is_in_language

Defect = Literal[
    "empty",
    "truncated",
    "repetition",
    "refusal",
    "boilerplate",
    "wrong-language",
    "too-short",
    "too-long",
]

MIN_LOOP_WORDS = 8
"""A block of words that follows itself counts as a loop from this many words on ..."""
MIN_LOOP_REPEATS = 3
"""... and from this many copies on; also how often one sentence may not occur."""
MAX_BLOCK_WORDS = 24
MIN_ECHO_WORDS = 5
"""A caption that opens with as many words of its own instruction repeats it."""

# Languages written without spaces count one character as one word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['’.,-][^\W{_UNSPACED}]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[”’」』）]*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Z]|mr|mrs|ms|dr|st|no|vs|e\.g|i\.e|etc|approx|fig|jr|sr|inc|co)\.$", re.I
)
_STUTTER = re.compile(r"(\S{1,8}?)\1{15,}")
_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m sorry|sorry,|i apologi[sz]e|i (?:cannot|can['’]?t|am unable to|am not able to|can not)\b"
    r"|as an? (?:ai|(?:large )?language model|artificial intelligence)\b|unfortunately,? i\b)",
    re.I,
)
# "Sure! Here is a detailed description of the image:" and "Caption:" before the caption itself ...
_PREFACE = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|absolutely|okay)\b[^\w\n]*)?"
    r"(?:(?:here(?:['’]s| is| are)|below is|the following is)\b[^.:\n]{0,100}?"
    r"\b(?:(?:captions?|descriptions?|summary|sentence)\b[^.:\n]{0,60}|(?:image|picture|photo)\s*):"
    r"|(?:new sentence|merged sentence|caption|description|answer)\s*:)\s*",
    re.I,
)
_AGREEMENT = re.compile(r"^\s*(?:sure|certainly|of course|absolutely)\s*[!.,:]\s*", re.I)
# ... and an offer to go on behind it, as sentences of their own.
_CLOSING = re.compile(
    r"(?:(?:^|(?<=[.!?\n]))\s*(?:please )?(?:let me know if|feel free to|i hope this"
    r"|if you (?:have|need|would like|want) |is there anything else|would you like me)"
    r"[^.!?\n\"”»]*[.!?]*)+\s*$",
    re.I,
)
# What a model writes that was shown no picture, or that fills in a form.
_NO_CAPTION = re.compile(
    r"<\|?/?(?:im_start|im_end|endoftext|begin_of_text|eot_id|image|img|s|pad|unk)\|?>"
    r"|\[(?:insert|your|description of|image of|caption)\b[^\]]*\]"
    # Of the picture itself, not what is written in it: at the start, outside of quotation marks.
    r"|^\s*(?:(?:it (?:seems|looks|appears)(?: like| that)?|there (?:is|was)|i see(?: that)?)\s+)*"
    r"(?:(?:no|without an?) image (?:is |was |has been )?(?:provided|attached|available|given|uploaded|visible)"
    r"|(?:the |this )?image (?:is |was |could )?(?:not|un)[ -]?(?:be )?(?:available|found|provided|loaded))"
    r"\b(?! (?:page|error|icon|message|sign|text))"
    r"|\b(?:please|you|to) provide (?:me with )?(?:the|an|your) image\b|\blorem ipsum dolor\b",
    re.I,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """What a caption has to be besides whole: its language ("" for any) and words (0 for no limit)."""

    language: str = ""
    min_words: int = 0
    max_words: int = 0


@dataclass(frozen=True, slots=True)
class CheckedCaption:
    """A caption to keep (`defect` None), or why it is none.

    `was_cut` says that its loose end was removed, `was_stripped` that a preface or closing was.
    """

    text: str
    defect: Defect | None = None
    was_cut: bool = False
    was_stripped: bool = False


def check_caption(
    text: str, *, reached_limit: bool, standard: Standard | None = None, prompt: str = ""
) -> CheckedCaption:
    """Judge one generated caption; `reached_limit` says that generation ended at max_new_tokens.

    A caption that reached the limit is cut back to its last full sentence. `prompt` is how a
    repetition of its instruction opens (`shortest_echo`). The paper describes no filter of recaptions
    (VILA^2 section 2.1); these defects are generation gone wrong, not style.
    """
    bare = strip_wrapping(text)
    was_stripped = bare != text.strip()
    defect = _defect(bare, prompt)
    if defect is not None:
        return CheckedCaption(bare, defect, was_stripped=was_stripped)
    whole = cut_to_sentence(bare) if reached_limit else bare
    if not whole:
        return CheckedCaption(bare, "truncated", was_stripped=was_stripped)
    defect = _below(whole, standard or Standard())
    return CheckedCaption(whole, defect, was_cut=whole != bare, was_stripped=was_stripped)


def _defect(text: str, prompt: str) -> Defect | None:
    if num_words(text) == 0:
        return "empty"
    if repeats_itself(text):
        return "repetition"
    if refuses(text):
        return "refusal"
    return "boilerplate" if is_boilerplate(text, prompt) else None


def _below(text: str, standard: Standard) -> Defect | None:
    count = num_words(text)
    if count < standard.min_words:
        return "too-short"
    if standard.max_words and count > standard.max_words:
        return "too-long"
    if standard.language and not is_in_language(text, standard.language):
        return "wrong-language"
    return None


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
    ends = _sentence_ends(text)
    return text[: ends[-1]].strip() if ends else ""


def _sentence_ends(text: str) -> list[int]:
    return [
        m.end()
        for m in _SENTENCE_END.finditer(text)
        if not _ABBREVIATION.search(text[max(0, m.start() - 8) : m.end()])
    ]


def strip_wrapping(text: str) -> str:
    """The caption without what an assistant says around it: "Sure! Here is ...:", "Let me know if ..."."""
    text = _PREFACE.sub("", text, count=1)
    text = _AGREEMENT.sub("", text, count=1)
    return _CLOSING.sub("", text).strip()


def repeats_itself(text: str) -> bool:
    """Whether generation fell into a loop: a block of words after itself, or one sentence again and again."""
    if _STUTTER.search(text):
        return True
    if _longest_loop(words(text)) >= MIN_LOOP_WORDS:
        return True
    counts: dict[tuple[str, ...], int] = {}
    for sentence in sentences(text):
        key = tuple(words(sentence))
        counts[key] = counts.get(key, 0) + 1
    return any(count >= MIN_LOOP_REPEATS and len(key) >= 3 for key, count in counts.items())


def _longest_loop(tokens: list[str]) -> int:
    """Words in the longest run made of at least MIN_LOOP_REPEATS copies of one block."""
    longest = 0
    for period in range(1, min(MAX_BLOCK_WORDS, len(tokens) // MIN_LOOP_REPEATS) + 1):
        run = 0
        for index in range(period, len(tokens)):
            run = run + 1 if tokens[index] == tokens[index - period] else 0
            if run >= period * (MIN_LOOP_REPEATS - 1):
                longest = max(longest, run + period)
    return longest


def refuses(text: str) -> bool:
    """Whether the text opens by declining to answer."""
    return _REFUSAL.match(text) is not None


def shortest_echo(template: str, filled: str) -> str:
    """How a caption opens that repeats its prompt: with the first words of an instruction, or all of it.

    All of it where the first sentence is short or has a slot, as a caption may well open like that.
    """
    first = next(iter(sentences(template)), "")
    opening = words(first)[:MIN_ECHO_WORDS]
    return filled if "{" in first or len(opening) < MIN_ECHO_WORDS else " ".join(opening)


def is_boilerplate(text: str, prompt: str = "") -> bool:
    """Whether the text is a form, a chat token or a complaint about the picture, or repeats its instruction."""
    if _NO_CAPTION.search(text):
        return True
    asked = words(prompt)
    return len(asked) >= MIN_ECHO_WORDS and words(text)[: len(asked)] == asked
