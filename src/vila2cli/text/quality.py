"""Checks of generated captions: cut off, repeating, refusing, empty. Pure functions of the text."""

import itertools
import re
from dataclasses import dataclass
from typing import Literal

Defect = Literal["empty", "truncated", "repetition", "refusal"]

MIN_LOOP_WORDS = 8
"""A block of words that follows itself counts as a loop from this many words on ..."""
MIN_LOOP_REPEATS = 3
"""... and from this many copies on; also how often one sentence may not occur."""
MAX_BLOCK_WORDS = 24

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
    r"|as an? (?:ai|language model|artificial)|unfortunately,? i\b)",
    re.I,
)


@dataclass(frozen=True, slots=True)
class CheckedCaption:
    """A caption to keep (`defect` None, `was_cut` when its loose end was removed), or why it is none."""

    text: str
    defect: Defect | None = None
    was_cut: bool = False


def check_caption(text: str, *, reached_limit: bool) -> CheckedCaption:
    """Judge one generated caption; `reached_limit` says that generation ended at max_new_tokens.

    A caption that reached the limit is cut back to its last full sentence. The paper describes no
    filter of recaptions (VILA^2 section 2.1); these four defects are generation gone wrong, not style.
    """
    text = text.strip()
    if num_words(text) == 0:
        return CheckedCaption(text, "empty")
    if repeats_itself(text):
        return CheckedCaption(text, "repetition")
    if refuses(text):
        return CheckedCaption(text, "refusal")
    if not reached_limit:
        return CheckedCaption(text)
    whole = cut_to_sentence(text)
    if not whole:
        return CheckedCaption(text, "truncated")
    return CheckedCaption(whole, was_cut=whole != text)


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
