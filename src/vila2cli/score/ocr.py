"""Text read from an image: exact match, ANLS (DocVQA) and containment (OCRBench)."""

from rapidfuzz.distance import Levenshtein

from vila2cli.errors import DataError
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

_ANLS_THRESHOLD = 0.5
_EDGES = " \t\n.,;:!?\"'`“”‘’"


def normalise(text: str) -> str:
    """Lower case, single spaces, without quotes or punctuation around the whole."""
    return " ".join(text.lower().split()).strip(_EDGES)


def anls(answer: str, truth: str) -> float:
    """Normalised Levenshtein similarity of two texts, cut to 0 below one half."""
    similarity = Levenshtein.normalized_similarity(answer, truth)
    return similarity if similarity >= _ANLS_THRESHOLD else 0.0


def score(answer: str, reference: Reference) -> Row:
    """The best value over the reference answers, for each of the three metrics."""
    truths = [truth for one in reference.answers if (truth := normalise(one))]
    if not truths:
        raise DataError("an OCR question needs at least one reference answer that is not empty")
    given = normalise(answer)
    return {
        "score": float(given in truths),
        "anls": max(anls(given, truth) for truth in truths),
        "contained": float(any(truth in given for truth in truths)),
    }


def metrics(totals: Columns) -> dict[str, FloatArray]:
    """Exact accuracy, mean ANLS, and the share of answers that contain a reference answer."""
    return {
        "accuracy": ratio(totals["score"], totals["n"]),
        "anls": ratio(totals["anls"], totals["n"]),
        "contained": ratio(totals["contained"], totals["n"]),
    }


OCR = Scorer(name="ocr", version="anls-1", headline="accuracy", score=score, metrics=metrics)
