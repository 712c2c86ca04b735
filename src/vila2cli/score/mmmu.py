"""MMMU: options and open answers as its own evaluation parses them.

Where no option can be read MMMU draws one at random. Here such an answer is wrong and counted as unparsed
(`mmmu`), or drawn as MMMU does but from a seed of its own, and counted all the same (`mmmu-random`).
"""

import re
from dataclasses import replace
from hashlib import sha256
from random import Random

from vila2cli.errors import DataError
from vila2cli.score.choice import choices_of
from vila2cli.score.grouping import category_label, category_metrics, tally
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

_EDGES = (",", ".", "!", "?", ";", ":", "'")
_MIN_WORDS_FOR_TEXT = 6
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
_SEED = 42


def parse_option(answer: str, choices: dict[str, str]) -> str | None:
    """The option named last: as "(B)", else as " B ", else, in more than five words, by its text."""
    text = answer
    for mark in _EDGES:
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} "):
        if option := _last_named(text, {letter: form.format(letter) for letter in choices}):
            return option
    if len(text.split()) < _MIN_WORDS_FOR_TEXT:
        return None
    return _last_named(text.lower(), {letter: choice.lower() for letter, choice in choices.items()})


def _last_named(text: str, forms: dict[str, str]) -> str | None:
    """The option whose form comes last in a text, the first of equals; None where there is none."""
    places = {letter: place for letter, form in forms.items() if (place := text.rfind(form)) >= 0}
    return max(places, key=lambda letter: places[letter]) if places else None


def parse_open(answer: str) -> list[str | float]:
    """What an open answer may mean: the tails after "is", "answer", "=" and such, and their numbers."""
    tails = _key_tails(answer)
    numbers = [number for tail in tails for number in _numbers(tail)]
    return list(dict.fromkeys(value for text in (*tails, *numbers) for value in normalise(text)))


def normalise(text: str) -> list[str | float]:
    """A number rounded to two places, else the lower-case text; a single letter only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
    return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def is_open_right(meanings: list[str | float], answers: tuple[str, ...]) -> bool:
    """Whether a number equals an answer, or a text contains one."""
    truths = [value for answer in answers for value in normalise(answer)]
    texts = [truth for truth in truths if isinstance(truth, str)]
    return any(
        any(truth in meaning for truth in texts) if isinstance(meaning, str) else meaning in truths
        for meaning in meanings
    )


def score(answer: str, reference: Reference) -> Row:
    """1 for the right option or a right open answer; `unparsed` marks answers without a known option."""
    if not reference.answers:
        raise DataError("an MMMU question needs an answer")
    if "choices" not in reference.meta:
        right = is_open_right(parse_open(answer), reference.answers)
        return {"score": float(right), "unparsed": 0.0, "drawn_right": 0.0}
    choices = choices_of(reference)
    letter = parse_option(answer, choices)
    drawn = _draw(answer, reference, choices) if letter is None else ""
    return {
        "score": float(letter in reference.answers),
        "unparsed": float(letter is None),
        "drawn_right": float(drawn in reference.answers),
    }


def score_random(answer: str, reference: Reference) -> Row:
    """The same, with an option drawn by seed where none was read."""
    row = score(answer, reference)
    return {**row, "score": row["score"] + row["drawn_right"]}


def metrics(totals: Columns) -> dict[str, FloatArray]:
    """Accuracy over all and by category, the share not read, and the share that a draw would add."""
    return {**category_metrics(totals), "drawn_right_ratio": ratio(totals["drawn_right"], totals["n"])}


def _draw(answer: str, reference: Reference, choices: dict[str, str]) -> str:
    name = "\x1f".join((str(_SEED), str(reference.meta.get("question_id", "")), answer, *choices.values()))
    return Random(int.from_bytes(sha256(name.encode()).digest()[:8])).choice(list(choices))


def _key_tails(answer: str) -> list[str]:
    """Of each line the shortest text after a word that announces an answer; all of it where there is none."""
    text = answer.strip().strip(".").lower()
    lines = text.split("\n")  # MMMU splits at full stops before capitals, too, but it has lower-cased the text
    tails = []
    for index, line in enumerate(lines):
        keys = (*_KEYS, "=") if index == len(lines) - 1 else _KEYS
        tails_of_line = [line.split(key)[-1].strip() for key in keys if key in line]
        tail = _shortest(tails_of_line)
        if tail and tail not in {":", ",", ".", "!", "?", ";", "'"}:
            tails.append(tail)
    return tails or [text]


def _shortest(tails: list[str]) -> str:
    """The shortest, the first of equals; one that is empty is passed over by what comes after it."""
    best = ""
    for tail in tails:
        if not best or len(tail) < len(best):
            best = tail
    return best


def _numbers(text: str) -> list[str]:
    return [*_WITH_COMMAS.findall(text), *_SCIENTIFIC.findall(text), *_SIMPLE.findall(text)]


MMMU = Scorer(
    name="mmmu",
    version="eval-utils-1",
    headline="accuracy",
    score=score,
    metrics=metrics,
    labels=category_label,
    complete=tally("score"),
    rule="MMMU's eval_utils",
    unread="counted as wrong, where MMMU draws an option at random (scorer 'mmmu-random')",
)
MMMU_RANDOM = replace(
    MMMU,
    name="mmmu-random",
    score=score_random,
    rule="MMMU's eval_utils; an option is drawn where none is read",
    unread="given an option drawn by question and answer, not in the order of the file as MMMU's are",
)
