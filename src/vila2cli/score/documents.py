"""Text read from images: OCR, DocVQA's ANLS, ChartQA's relaxed accuracy, OCRBench's containment."""

from dataclasses import replace

from rapidfuzz.distance import Levenshtein

from vila2cli.errors import DataError
from vila2cli.score.grouping import category_label, category_metrics, means, tally
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray
from vila2cli.text.bare import bare

_ANLS_THRESHOLD = 0.5
_EDGES = " \t\n.,;:!?\"'`“”‘’"
_MAX_RELATIVE_ERROR = 0.05
_CASE_MATTERS = "HME100k"


def normalise(text: str) -> str:
    """Lower case, single spaces, without quotes, marks or punctuation around the whole."""
    return " ".join(bare(text).lower().split()).strip(_EDGES)


def anls(answer: str, truth: str) -> float:
    """Normalised Levenshtein similarity of two texts, cut to 0 below one half."""
    similarity = Levenshtein.normalized_similarity(answer, truth)
    return similarity if similarity >= _ANLS_THRESHOLD else 0.0


def score_ocr(answer: str, reference: Reference) -> Row:
    """The best value over the reference answers, for each of the three metrics."""
    truths = [truth for answer in reference.answers if (truth := normalise(answer))]
    if not truths:
        raise DataError("an OCR question needs at least one reference answer that is not empty")
    given = normalise(answer)
    return {
        "score": float(given in truths),
        "anls": max(anls(given, truth) for truth in truths),
        "contained": float(any(truth in given for truth in truths)),
    }


def score_anls(answer: str, reference: Reference) -> Row:
    """ANLS: the best normalised similarity to a reference answer, 0 below one half (ST-VQA, DocVQA)."""
    best = 1.0 - min(_distance(answer, truth) for truth in _truths(reference))
    return {"score": best if best >= _ANLS_THRESHOLD else 0.0}


def is_close(answer: str, truth: str) -> bool:
    """ChartQA's rule: numbers may be 5% off, "12%" is 0.12, other answers are equal but for case.

    A reference of 0 is compared as text, as nothing is a share of it.
    """
    given, wanted = _number(answer), _number(truth)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= _MAX_RELATIVE_ERROR
    return answer.lower() == truth.lower()


def score_chartqa(answer: str, reference: Reference) -> Row:
    """1 when the answer is close to a reference answer."""
    given = answer.strip()
    return {"score": float(any(is_close(given, truth) for truth in _truths(reference))), "unparsed": 0.0}


def score_ocrbench(answer: str, reference: Reference) -> Row:
    """1 when a reference answer is in the answer: lower-case, or for formulas without any space."""
    is_formula = reference.meta.get("dataset") == _CASE_MATTERS
    form = _joined if is_formula else _lower
    given = form(answer)
    is_right = any(form(truth) in given for truth in _truths(reference))
    return {"score": float(is_right), "unparsed": 0.0}


def ocrbench_metrics(totals: Columns) -> dict[str, FloatArray]:
    """The number of right answers, of 1000 in the full set, and the share by category."""
    shares = category_metrics(totals)
    del shares["unparsed_ratio"]
    return {**shares, "num_right": totals["score"] * 1.0}


def _truths(reference: Reference) -> tuple[str, ...]:
    if not reference.answers:
        raise DataError("the sample needs at least one reference answer")
    return reference.answers


def _distance(answer: str, truth: str) -> float:
    """Edits in lower case with single spaces, over the longer length with all spaces; 0 for two empty texts."""
    length = max(len(answer.upper()), len(truth.upper()))
    return Levenshtein.distance(_plain(answer), _plain(truth)) / length if length else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _lower(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _joined(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


OCR = Scorer(
    name="ocr",
    version="anls-2",
    headline="accuracy",
    score=score_ocr,
    metrics=means(accuracy="score", anls="anls", contained="contained"),
)
DOCVQA = Scorer(
    name="anls",
    version="icdar-2",
    headline="anls",
    score=score_anls,
    metrics=means(anls="score"),
    rule="DocVQA's evaluation server: threshold 0.5, at which a similarity still counts",
)
CHARTQA = Scorer(
    name="chartqa",
    version="relaxed-1",
    headline="accuracy",
    score=score_chartqa,
    metrics=category_metrics,
    labels=category_label,
    complete=tally("score"),
    rule="ChartQA's relaxed accuracy, 5%",
)
OCRBENCH = replace(
    CHARTQA,
    name="ocrbench",
    version="ocrbench-1",
    score=score_ocrbench,
    metrics=ocrbench_metrics,
    rule="OCRBench's containment",
)
