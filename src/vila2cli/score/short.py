"""Short answers, normalised much as the VQA evaluation does, and matched exactly; GQA's stricter match."""

from vila2cli.errors import DataError
from vila2cli.score.normal_form import ARTICLES, NUMBERS, strip_punctuation
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio


def normalise(answer: str) -> str:
    """Lower case without articles, punctuation or apostrophes, number words as digits.

    Punctuation goes by the VQA rule. Where VQA restores the apostrophe of known contractions,
    apostrophes are dropped on both sides: "dont" still equals "don't".
    """
    cleaned = strip_punctuation(" ".join(answer.split()), max_periods=0).replace("'", "").replace("’", "")
    words = (NUMBERS.get(word, word) for word in cleaned.lower().split())
    return " ".join(word for word in words if word not in ARTICLES)


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
