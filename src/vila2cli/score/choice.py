"""Multiple choice: the option's letter, read by ScienceQA's rule; an answer without one is wrong."""

import re

from vila2cli.errors import DataError
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

_LETTER_FIRST = re.compile(r"\(?([A-Z])(?:\)?[.:)]?|[.:)]\s.*)", re.DOTALL)
_SENTENCE = re.compile(r"[Tt]he answer is \(?([A-Z])\b")


def parse_letter(answer: str) -> str | None:
    """The letter of "X", "X.", "(X)", "X. text" or one "The answer is X"; None otherwise."""
    text = answer.strip()
    if first := _LETTER_FIRST.fullmatch(text):
        return first[1]
    stated = _SENTENCE.findall(text)
    return stated[0] if len(stated) == 1 else None


def score(answer: str, reference: Reference) -> Row:
    """1 when the letter read from the answer is the reference letter."""
    truth = reference.answers[0].strip() if len(reference.answers) == 1 else ""
    if not re.fullmatch("[A-Z]", truth):
        raise DataError(f"a multiple-choice question needs one answer A-Z, not {list(reference.answers)}")
    letter = parse_letter(answer)
    return {"score": float(letter == truth), "unparsed": float(letter is None)}


def metrics(totals: Columns) -> dict[str, FloatArray]:
    """Accuracy, and the share of answers no letter could be read from."""
    return {
        "accuracy": ratio(totals["score"], totals["n"]),
        "unparsed_ratio": ratio(totals["unparsed"], totals["n"]),
    }


CHOICE = Scorer(name="choice", version="letter-1", headline="accuracy", score=score, metrics=metrics)
