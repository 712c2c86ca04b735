"""Short answers, normalised much as the VQA evaluation does, and matched exactly; GQA's stricter match."""

import re

from vila2cli.errors import DataError
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(digit) for digit, word in enumerate(_DIGITS)}


def normalise(answer: str) -> str:
    """Lower case without articles, punctuation or apostrophes, number words as digits.

    The VQA rule: a punctuation mark beside a space (or in a text with a comma between digits) is
    removed, any other becomes a space. Where VQA restores the apostrophe of known contractions,
    apostrophes are dropped on both sides: "dont" still equals "don't".
    """
    text = " ".join(answer.split())
    removes_all = _DIGIT_COMMA.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or removes_all else " ")
    cleaned = _PERIOD.sub("", cleaned).replace("'", "").replace("’", "").lower()
    words = (_NUMBERS.get(word, word) for word in cleaned.split())
    return " ".join(word for word in words if word not in _ARTICLES)


def score_exact(answer: str, reference: Reference) -> Row:
    """1 when the normalised answer equals any normalised reference answer."""
    return {"score": float(normalise(answer) in _accepted(reference))}


def score_gqa(answer: str, reference: Reference) -> Row:
    """1 when the lower-case answer without final full stops is the reference answer."""
    if len(reference.answers) != 1:
        raise DataError(f"a GQA question has one answer, not {list(reference.answers)}")
    return {"score": float(answer.rstrip(".").lower() == reference.answers[0])}


def accuracy(totals: Columns) -> dict[str, FloatArray]:
    """The mean score."""
    return {"accuracy": ratio(totals["score"], totals["n"])}


def _accepted(reference: Reference) -> list[str]:
    if not reference.answers:
        raise DataError("a short-answer question needs at least one reference answer")
    return [normalise(one) for one in reference.answers]


SHORT = Scorer(name="short", version="vqa-norm-1", headline="accuracy", score=score_exact, metrics=accuracy)
GQA = Scorer(
    name="gqa",
    version="exact-1",
    headline="accuracy",
    score=score_gqa,
    metrics=accuracy,
    rule="GQA's exact match, after LLaVA's convert_gqa_for_eval",
)
