"""Checks of generated captions, pure functions of the text: what is wrong with one, or what to keep of it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from vila2cli.text.language import is_in_language
from vila2cli.text.lead_ins import strip_wrapping
from vila2cli.text.reasoning import answer_of, thinks_aloud
from vila2cli.text.refusals import refuses
from vila2cli.text.words import cut_to_sentence, num_words, sentences, words

Flaw = Literal["empty", "truncated", "reasoning", "repetition", "refusal", "boilerplate"]
Misfit = Literal["wrong-language", "too-short", "too-long"]
Defect = Flaw | Misfit

MIN_LOOP_WORDS = 8
"""A block of words that follows itself counts as a loop from this many words on ..."""
MIN_LOOP_REPEATS = 3
"""... and from this many copies on; also how often one sentence may not occur, ..."""
MIN_REPEATED_SHARE = 0.15
"""... where the words of its further copies are this share of the text: several panels have some in common."""
MAX_BLOCK_WORDS = 24
MIN_ECHO_WORDS = 5
"""A caption that opens with as many words of its own instruction repeats it."""

MAX_RULE_CHARS = 300
"""A rule of a table, a form's line or a row of dots is no loop up to this length ..."""
MIN_OPEN_RULE = 30
"""... but one from this length on is, where it is what generation ended with at its limit."""
MAX_CELLS = 40
MAX_ROWS = 10
"""Equal cells of a row, and equal rows, that a table or form may have."""

_STUTTER = re.compile(r"(\S{1,8}?)\1{15,}")
_RULE_CHARS = r"-_=.·•*~#+:|/\\^…—–‗\u2500-\u259f"
_RULE = re.compile(rf"[{_RULE_CHARS}](?:[ \t]*[{_RULE_CHARS}]){{2,}}")
_RULES = re.compile(rf"[{_RULE_CHARS}](?:\s*[{_RULE_CHARS}])*")
_CELL_END = re.compile(r"[|│┃\t]")
_HTML_ROW = re.compile(r"\s*<tr\b[^>]*>((?:(?!</?tr\b).)*)(?:</tr>)?\s*", re.IGNORECASE | re.DOTALL)
_HTML_CELL = re.compile(r"</?t[dh]\b[^>]*>(?:\s*<t[dh]\b[^>]*>)?", re.I)
_TEX_ROW_END = re.compile(r"\\\\\s*|(?=\\end\{)")
_BOX = re.compile(r"[☐☑☒□■○●◯]|\[[ xX]?\]")
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

    `was_cut`: its loose end was removed; `was_stripped`: something around it was, as a preface;
    `has_reasoning`: reasoning was among that.
    """

    text: str
    defect: Defect | None = None
    was_cut: bool = False
    was_stripped: bool = False
    has_reasoning: bool = False


def check_caption(
    text: str,
    *,
    reached_limit: bool,
    standard: Standard | None = None,
    prompt: str = "",
    find: Callable[[str], str] = strip_wrapping,
) -> CheckedCaption:
    """Judge one generated caption; `reached_limit` tells that generation ended at max_new_tokens.

    Reasoning before a caption is left out, and one that was cut off has none behind it. A caption that reached
    the limit is cut back to its last full sentence. `prompt` is how a repetition of its instruction opens
    (`shortest_echo`), and `find` finds the caption in the answer. The paper describes no filter of recaptions
    (VILA^2 section 2.1); these defects are generation gone wrong, not style.
    """
    answer = answer_of(text, reached_limit=reached_limit)
    if answer.is_cut or (reached_limit and thinks_aloud(text) and not answer.has_reasoning):
        return CheckedCaption(text.strip(), "reasoning", has_reasoning=True)
    bare = find(answer.text)
    reached_limit = reached_limit and (find is strip_wrapping or answer.text.rstrip().endswith(bare))
    how = {"was_stripped": bare != text.strip(), "has_reasoning": answer.has_reasoning}
    defect = _defect(bare, prompt)
    if reached_limit and defect is None and _ends_in_rule(bare):
        defect = "repetition"
    if defect is not None:
        return CheckedCaption(bare, defect, **how)
    whole = cut_to_sentence(bare) if reached_limit else bare
    if num_words(whole) == 0:
        return CheckedCaption(bare, "truncated", **how)
    defect = _below(whole, standard or Standard())
    return CheckedCaption(whole, defect, was_cut=whole != bare, **how)


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


def repeats_itself(text: str) -> bool:
    """Whether generation fell into a loop: a block of words after itself, or one sentence again and again."""
    if any(len("".join(rule.split())) > MAX_RULE_CHARS for rule in _RULES.findall(text)):
        return True
    prose = _RULE.sub(" ", _without_equal_cells(text))
    if _STUTTER.search(prose) or _longest_loop(words(prose)) >= MIN_LOOP_WORDS:
        return True
    keys = [tuple(words(sentence)) for sentence in sentences(prose)]
    counts = {key: keys.count(key) for key in set(keys) if len(key) >= 3}
    repeated = sum(len(key) * (n - 1) for key, n in counts.items() if n >= MIN_LOOP_REPEATS)
    return repeated > MIN_REPEATED_SHARE * sum(map(len, keys))


def _without_equal_cells(text: str) -> str:
    """The text with equal neighbours in a row of a table, and equal rows of a table or form, there once."""
    plain = _HTML_ROW.sub(lambda row: _stroked(_HTML_CELL.split(row[1]), row[0]), text)
    if "&" in plain and "\\\\" in plain:
        plain = "".join(_stroked(row.split("&"), row) for row in _TEX_ROW_END.split(plain))
    lines = (_row(line) for line in plain.split("\n"))
    kept = []
    for line, copies in groupby(lines):
        num = len(list(copies))
        is_row = any(pattern.search(line) for pattern in (_CELL_END, _BOX, _RULE))
        kept += [line] * (1 if num <= MAX_ROWS and is_row else num)
    return "\n".join(kept)


def _stroked(cells: list[str], row: str) -> str:
    """A row of HTML's or LaTeX's as a line with strokes between its cells; one that is no row stays."""
    return f"\n{' | '.join(map(str.strip, cells))}" if 3 <= len(cells) <= MAX_CELLS else row


def _row(line: str) -> str:
    cells = [cell.strip() for cell in _CELL_END.split(line)]
    if not 3 <= len(cells) <= MAX_CELLS:
        return line
    return " | ".join(cell for cell, _ in groupby(cells))


def _ends_in_rule(text: str) -> bool:
    *_, last = [None, *_RULES.finditer(text)]
    return last is not None and last.end() == len(text.rstrip()) and len(last[0]) >= MIN_OPEN_RULE


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
