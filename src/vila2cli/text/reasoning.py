"""The answer in what a model wrote: without the reasoning before it, and without the marks around it.

Models mark reasoning in many ways; `_OPENS`, `_CLOSES` and `_ANSWERS` list those that are published. Where
reasoning is marked, the answer is the text after its last closing mark. An opening mark may be missing, as
many chat templates write it themselves. A closing mark that never came means that generation ended inside the
reasoning, so there is no answer.

A mark only counts where it can be meant as one, so that a caption may quote it: never in quotation marks or
code, and one that reads like plain XML only where a text begins with it or its partner is missing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAMES = (
    r"(?:seed:|mm:|ifm\||longcat_)?(?:think(?:ing)?(?:_fast|_faster|_process)?|thoughts?(?:_process)?|reason(?:ing)?(?:_process)?"
    r"|rationale|inner_(?:thoughts?|monologue)|antthinking|reflection|scratchpad|analysis|chain_of_thought)(?::[0-9a-f]{4,16})?"
)
_ANSWER_NAMES = r"(?:final_?)?(?:answer|response|output|solution|conclusion)"

# Qwen, DeepSeek, GLM, InternVL, Skywork, Seed, MiniMax, Hunyuan, EXAONE, Keye ...; Sky-T1; Kimi-VL; Magistral;
# Cohere; Gemma 4; gpt-oss, also with its special tokens lost; Kimi K3; Inkling; Muse; Granite 3.2; Apriel;
# MedGemma; s1.
_OPENS = rf"""
    (?P<open_tag><\|?\s*{_NAMES}\s*\|?>|\[(?:think|thinking|reasoning)\])
    |(?P<open><\|begin_of_thought\|>|◁think▷|<\|START_THINKING\|>|<\|channel>(?:thought\b)?
        |(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>
        |<\|open\|>\s*think\s*<\|sep\|>|<\|content_thinking\|>|to=self<\|message\|>
        |<unused94>(?:thought\b)?|<\|im_start\|>think\b)
    |(?P<open_words>\A(?:(?-i:analysis(?=[A-Z"'“*\d]))|Here(?:['’]s|\ is)\ my\ thought\ process:
        |Here\ are\ my\ reasoning\ steps:))
"""
_CLOSES = rf"""
    (?P<close_tag><\|?\s*/\s*\|?{_NAMES}\s*\|?>|\[/(?:think|thinking|reasoning)\])
    |(?P<close><\|end_of_thought\|>|◁/think▷|<\|END_THINKING\|>|<channel\|>|<unused95>
        |<\|close\|>\s*think\s*<\|sep\|>)
"""
_ANSWERS = rf"""
    (?P<answer_tag><\s*{_ANSWER_NAMES}\s*>)
    |(?P<answer><\|begin_of_solution\|>|<\|START_(?:RESPONSE|TEXT)\|>|<\|content_text\|>
        |(?:<\|start\|>assistant)?<\|channel\|>final[^<]*<\|message\|>|to=user<\|message\|>
        |<\|im_start\|>answer\b
        |<\|open\|>\s*response\s*<\|sep\|>|\[BEGIN\ FINAL\ RESPONSE\])
    |(?P<answer_words>assistantfinal|Here(?:['’]s|\ is)\ my\ response:)
"""
_MARK = re.compile(f"{_OPENS}|{_CLOSES}|{_ANSWERS}", re.VERBOSE | re.IGNORECASE)
_MAY_HOLD_MARKS = re.compile(r"[<\[◁]|to=user|assistant|^\s*(?:here|analysis|thought|final|#)", re.IGNORECASE)
# What ends an answer, or is left of the special tokens behind it.
_TURN_END = r"""<\|(?:end|return|im_end|endoftext|end_of_text|end_of_sentence|eot_id|eot|eom|user)\|>|<turn\|>
    |<end_of_turn>|<end_of_utterance>|<｜end▁of▁sentence｜>|<eos>|</s>"""
_ANSWER_END = re.compile(
    rf"""\s*(?:<\s*/\s*{_ANSWER_NAMES}\s*>|<\|(?:end_of_solution|END_(?:RESPONSE|TEXT)|end_message|eom|eot)\|>
    |{_TURN_END}
    |<\|close\|>\s*response\s*<\|sep\|>|\[END\ FINAL\ RESPONSE\])""",
    re.VERBOSE | re.IGNORECASE,
)
_LAST_END = re.compile(rf"(?:\s*(?:{_TURN_END}))+\s*\Z", re.VERBOSE)
# What may stand before the opening mark: the role, an agreement, a token that opens the turn.
_LEAD_IN = re.compile(
    r"[\s\ufeff\u200b]*(?:<[|｜][^<>|｜]{1,30}[|｜]>\s*)*(?:assistant\b:?)?\s*"
    r"(?:(?:sure|okay|ok|certainly|of course)\b[^<\n]{0,40})?\s*",
    re.IGNORECASE,
)
# Pairs around the whole answer or its last words.
_WRAPPED = re.compile(
    rf"<\s*(?P<name>{_ANSWER_NAMES}|caption|description)\s*>(?P<tag>(?:(?!<\s*(?P=name)\s*>).)*?)<\s*/\s*(?P=name)\s*>"
    r"|<\|begin_of_box\|>(?P<box>(?:(?!<\|begin_of_box\|>).)*?)<\|end_of_box\|>"
    r"|\$*\\boxed\{(?:\\\w+\{)?(?P<tex>[^{}]*)\}?\}\$*",
    re.IGNORECASE | re.DOTALL,
)
_UNCLOSED = re.compile(
    rf"<\s*(?:{_ANSWER_NAMES}|caption|description)\s*>\s*|<\|begin_of_box\|>\s*", re.IGNORECASE
)
_BOX_MARKS = re.compile(r"<\|(?:begin|end)_of_box\|>")
_LEADS_TO_ANSWER = re.compile(
    r"(?:\A|\n|[.!?:=>*]|\b(?:is|are|answer|option|so|thus|therefore|hence))\s*\**\s*\Z", re.I
)
_CONCLUDES = re.compile(r"(?:\b(?:answer|conclusion|thus|therefore|hence)\b|\bso,)[^\n]*\Z", re.IGNORECASE)
# Mulberry's and QVQ's headings and others in words, and LLaVA-CoT's stages before its conclusion.
_HEADED = re.compile(
    r"\A[\s#*]*(?:image description|rationales?|let['’]s think|(?:my )?(?:reasoning|thinking|thought)s?"
    r"(?: process)?)\b(?:[^\n]{0,40}?[:.*]|(?<=[a-z])\s*\n)",
    re.IGNORECASE,
)
_FINAL_HEADING = re.compile(
    r"^(?:\#+\s*(?:the )?final answer(?: is)?\s*:?|\*\*(?:the )?final answer(?: is)?\s*:?\*\*\s*:?"
    r"|[#* \t]*(?:(?:final )?(?:answer|caption|response)|conclusion)\**\s*:\**"
    r"|\#+[ \t]*(?:final )?(?:answer|response|caption|conclusion)[ \t]*$)",
    re.IGNORECASE | re.MULTILINE,
)
_BOLD_FINAL = re.compile(r"\*\*(?:the )?final answer", re.IGNORECASE)
_STAGES = re.compile(
    r"\A\s*<(?:SUMMARY|CAPTION|REASONING)>(?=.*<(?:CAPTION|REASONING|CONCLUSION)>)", re.I | re.S
)
_SUMMARY = re.compile(r"\A\s*<SUMMARY>", re.IGNORECASE)
# What is left of a channel's name without its special tokens (gpt-oss, Gemma 4).
_FINAL_LABEL = re.compile(r"\A(?:assistant)?final(?=[A-Z\"“*\d])|\Athought\n")
# How reasoning begins that nothing marks, as its template opened it and it was cut off before its end.
_THINKS_ALOUD = re.compile(
    r"\s*(?:(?:okay|ok|alright|all right|hmm+|wait|so|well|right|got it|first)\b[\s,.!…]*)*"
    r"(?:let(?:['’]s| me| us) (?:see|think|look|start|begin|analy[sz]e|examine|check|consider|figure|try)\b"
    r"|(?:i|we) (?:need to|should|have to|must)\b|(?:the|this) user\b|i['’]m (?:asked|given)\b)",
    re.IGNORECASE,
)
_QUOTES = (('"', '"'), ("“", "”"), ("«", "»"), ("„", "“"), ("「", "」"), ("`", "`"))
_PROMPT_END = 200
_TRIES = 10
"""Marks of an answer, the last ones, that may be where it begins."""
_LINE, _WORDS = 1000, 40
"""Characters on each side of a mark in which quotation marks, and before it in which a word, may quote it."""
_FENCE = "```"
_TAG = re.compile(r"</?[a-z]\w*[^<>\n]*>", re.IGNORECASE)
# What a caption says before a mark that is printed in the picture.
_NAMED = re.compile(
    r"\b(?:reads?|reading|says?|saying|shows?|showing|tags?|text|words?|written|string|tokens?|named|called|labell?ed"
    r"|contains?|containing|html|xml)(?:\s*:\s*|\s+)\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered. `has_reasoning`: there was reasoning before it, or marks around it.

    `is_cut`: generation ended inside the reasoning, and `text` is empty.
    """

    text: str
    has_reasoning: bool = False
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class _Mark:
    kind: str  # open, close or answer
    style: str  # tag reads like plain XML, words like a sentence; "" can be nothing but a mark
    start: int
    end: int


def answer_of(text: str, *, reached_limit: bool = False) -> Answer:
    """The answer in a generated text; `reached_limit` tells that generation ended at max_new_tokens."""
    bare = text.strip()
    start = _answer_start(bare) if _MAY_HOLD_MARKS.search(bare) else 0
    if start is None:
        return Answer("", has_reasoning=True, is_cut=True)
    rest = _without_ends(bare[start:]) if start else _without_turn_end(bare)
    heading = _final_heading(rest)
    rest = _unwrapped(rest[heading:].strip(), is_answer=start + heading > 0)
    return Answer(rest, has_reasoning=rest != bare, is_cut=reached_limit and not rest and start > 0)


def thinks_aloud(text: str) -> bool:
    """Whether a text begins as reasoning does, in words alone."""
    return _THINKS_ALOUD.match(text) is not None


def opens_reasoning(prompt: str) -> str:
    """The mark of reasoning that a rendered prompt ends with, "" when it ends with none."""
    *_, last = [None, *_MARK.finditer(prompt[-_PROMPT_END:])]
    is_open = last is not None and str(last.lastgroup).partition("_")[0] == "open"
    return str(last[0]) if last and is_open and prompt.rstrip().endswith(last[0].rstrip()) else ""


def is_mark(token: str) -> bool:
    """Whether a special token is a mark of reasoning or part of one, to be kept when ids become text."""
    return _MARK.fullmatch(token) is not None or token in _PARTS or _BOX_MARKS.fullmatch(token) is not None


_PARTS = frozenset(
    (
        *("<|channel|>", "<|message|>", "<|start|>", "<|channel>", "<channel|>", "<|open|>", "<|close|>"),
        *("<|sep|>", "<|eom|>", "<|end_message|>", "<|end_of_solution|>", "<|END_RESPONSE|>", "<|END_TEXT|>"),
    )
)


def _answer_start(text: str) -> int | None:
    """Where the answer begins behind marked reasoning: 0 for no reasoning, None where it never ended."""
    marks = list(_marks(text))
    if _SUMMARY.match(text) or _STAGES.match(text):  # LLaVA-CoT
        ends = [mark.end for mark in marks if mark.kind == "answer"]
        return ends[-1] if ends else None
    label = _FINAL_LABEL.match(text)
    if not marks:
        return label.end() if label else 0
    begins = marks[0].kind == "open" and _LEAD_IN.fullmatch(text, 0, marks[0].start) is not None
    return _end_of_reasoning(text, marks, begins=begins)


def _end_of_reasoning(text: str, marks: list[_Mark], *, begins: bool) -> int | None:
    """As `_answer_start`; `begins` tells that the text opens with reasoning."""
    is_open = begins or any(mark.kind == "open" and not mark.style for mark in marks)
    closes = [mark for mark in marks if mark.kind == "close"]
    first = next((mark.kind for mark in marks if mark.kind != "answer"), "")
    strong = [mark for mark in marks if mark.kind == "answer" and not mark.style]
    weak = [mark for mark in marks if mark.kind == "answer" and mark.style][-_TRIES:]
    # A first mark that closes ends what a template opened.
    if closes and (begins or not closes[-1].style or first == "close" or _is_block(text, marks)):
        end = closes[-1].end
        reopened = next((mark for mark in marks if mark.kind == "open" and mark.start >= end), None)
        if reopened is not None and not text[end : reopened.start].strip():
            return None
        return next((mark.end for mark in reversed(strong) if mark.start >= end), end)
    if strong:
        return strong[-1].end
    if is_open and (held := [mark for mark in weak if _holds_answer(text, mark)]):
        return held[-1].end
    return None if is_open else 0


def _holds_answer(text: str, mark: _Mark) -> bool:
    """Whether the text behind an answer's mark is an answer to its end, and no mention of the mark."""
    rest = _without_ends(text[mark.end :])
    own_line = not text[: mark.start].rpartition("\n")[2].strip()
    return bool(rest) and (own_line or mark.style == "words" or text[mark.end :].strip() != rest)


def _is_block(text: str, marks: list[_Mark]) -> bool:
    """Whether reasoning stands on lines of its own behind some other text, and an answer behind it."""
    first = next(mark for mark in marks if mark.kind != "answer")
    last = next(mark for mark in reversed(marks) if mark.kind == "close")
    before, after = text[: first.start], text[last.end :].strip()
    own_line = not before.rpartition("\n")[2].strip()
    return first.kind == "open" and own_line and bool(after) and not _TAG.search(before)


def _marks(text: str) -> Iterator[_Mark]:
    is_open = False
    for match in _MARK.finditer(text):
        kind, _, style = str(match.lastgroup).partition("_")
        if not _is_quoted(text, match.start(), match.end(), is_due=is_open and kind == "close"):
            is_open = kind == "open"
            yield _Mark(kind, style, match.start(), match.end())


def _is_quoted(text: str, start: int, end: int, *, is_due: bool = False) -> bool:
    """Whether a mark stands inside quotation marks that open and close on its line, or in a block of code.

    One that `is_due`, as it closes what is open, may stand behind any word.
    """
    if _FENCE in text and text.count(_FENCE, 0, start) % 2 and text.count(_FENCE, end) % 2:
        return True
    line = text[max(0, start - _LINE) : start].rpartition("\n")[2]
    rest = text[end : end + _LINE].partition("\n")[0]
    if (line[-1:] and line[-1:] == rest[:1] and line[-1] in "'’") or (
        not is_due and _NAMED.search(line[-_WORDS:])
    ):
        return True
    return any(_is_inside(line, rest, *pair) for pair in _QUOTES)


def _is_inside(line: str, rest: str, opening: str, closing: str) -> bool:
    if opening == closing:
        return line.count(opening) % 2 == 1 and rest.count(opening) % 2 == 1
    return line.rfind(opening) > line.rfind(closing) and closing in rest


def _without_ends(text: str) -> str:
    if end := _ANSWER_END.search(text):
        inside = text[: end.start()]
        rest = _ANSWER_END.sub("", text[end.start() :])
        # Only what is last: an answer may hold a tag of its own.
        pair = rf"<\s*{re.escape(end[0].strip().strip('</ >'))}\s*>"
        if not rest.strip() and not re.search(pair, inside, re.IGNORECASE):
            return inside.strip()
    return text.strip()


def _without_turn_end(text: str) -> str:
    """A text without the special tokens that end a turn, where it does not name them."""
    end = _LAST_END.search(text) if text.endswith(">") else None
    return text if end is None or _NAMED.search(text[: end.start()] + " ") else text[: end.start()]


def _final_heading(text: str) -> int:
    """Where the answer begins below a heading that announces it; 0 without one."""
    found = [match for match in _FINAL_HEADING.finditer(text) if text[match.end() :].strip()]
    if not found or not (_HEADED.match(text) or _BOLD_FINAL.match(found[-1][0])):
        return 0
    return found[-1].end()


def _unwrapped(text: str, *, is_answer: bool) -> str:
    """The inside of a pair of marks around the answer, or around its last words behind some lead to it.

    `is_answer` tells that reasoning went before, so that what stands before the pair is more of it.
    """
    found = list(_WRAPPED.finditer(text))
    last = found[-1] if found else None
    if last is None or _is_quoted(text, last.start(), last.end()):
        cut = _UNCLOSED.match(text) if is_answer or text.startswith("<answer>") else None
        return text[cut.end() :].strip() if cut else _BOX_MARKS.sub("", text).strip()
    inside = (last["tag"] or last["box"] or last["tex"] or "").strip()
    is_last = not text[last.end() :].strip(" \t\n.*$\\]")
    before = text[: last.start()]
    if is_last and (not before.strip(" \n*$\\[") or _ends_in(before, last, is_answer=is_answer)):
        return _unwrapped(inside, is_answer=True)
    return _BOX_MARKS.sub("", text).strip()


def _ends_in(before: str, pair: "re.Match[str]", *, is_answer: bool) -> bool:
    """Whether the answer is the inside of a pair that ends a text which goes on before it."""
    if pair["tex"] is not None:
        return bool(_CONCLUDES.search(before) or _HEADED.match(before) or thinks_aloud(before))
    if (pair["name"] or "").lower() in ("caption", "description"):
        return is_answer
    return is_answer or _LEADS_TO_ANSWER.search(before) is not None
