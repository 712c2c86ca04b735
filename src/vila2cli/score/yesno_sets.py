"""Yes/no benchmarks with rules of their own: POPE, MME, HallusionBench; statements that are true or not."""

import re
from collections.abc import Sequence

from vila2cli.errors import DataError
from vila2cli.score import yesno
from vila2cli.score.grouping import (
    add_categories,
    add_groups,
    by_category,
    category_label,
    category_metrics,
    fill,
    group_name,
    text_of,
)
from vila2cli.score.normal_form import strip_punctuation
from vila2cli.score.scorer import Labels, Reference, Row, Scored, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

_WORD = re.compile(r"[a-z]+")
_TRUE, _FALSE = frozenset(("true", "yes")), frozenset(("false", "no"))

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
"""The subtasks of MME, by the names of its folders."""


def score_pope(answer: str, reference: Reference) -> Row:
    """Counts for accuracy, precision, recall, F1 and yes-ratio of one answer, its words cut at spaces alone."""
    return yesno.row(answer, reference, yesno.says_yes(answer, " "))


def mme_label(answer: str) -> str:
    """MME: yes or no where the answer is it, or its first four letters hold it; else other."""
    text = answer.lower()
    if text in ("yes", "no"):
        return text
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def score_mme(answer: str, reference: Reference) -> Row:
    """1 when the label is right; "other" never is."""
    label = mme_label(answer)
    return {"score": float(label == yesno.truth(reference)), "other": float(label == "other")}


def mme_labels(reference: Reference) -> Labels:
    """The image, whose two questions count together, in its subtask."""
    category = text_of(reference, "category")
    if not category:
        raise DataError("an MME question needs its subtask as 'category' in its JSON")
    return {"category": category, "image": f"{category}/{group_name(reference, 'image')}"}


def complete_mme(scored: Sequence[Scored]) -> list[Row]:
    """Rows with questions and images counted in their subtask."""
    rows = [dict(one.row) for one in scored]
    add_categories(scored, rows)
    add_groups(scored, rows, "image", right="both", count="images", suffix="category")
    return fill(rows)


def mme_metrics(totals: Columns) -> dict[str, FloatArray]:
    """100 times accuracy plus accuracy+ for each subtask, and their sums for perception and cognition."""
    points = {
        name: 100 * (_share(totals, "right", "num", name) + _share(totals, "both", "images", name))
        for name in (column.removeprefix("num:") for column in totals if column.startswith("num:"))
    }
    nothing = totals["score"] * 0.0
    return {
        "perception": sum((points[name] for name in PERCEPTION if name in points), nothing),
        "cognition": sum((points[name] for name in COGNITION if name in points), nothing),
        "accuracy": ratio(totals["score"], totals["n"]),
        "accuracy_plus": ratio(_sum(totals, "both:"), _sum(totals, "images:")),
        "other_ratio": ratio(totals["other"], totals["n"]),
        **{f"points:{name}": value for name, value in points.items()},
    }


def mme_top(metric: str, totals: Columns) -> float:
    """200 points a subtask; the others are shares."""
    subtasks = {"perception": PERCEPTION, "cognition": COGNITION}.get(metric)
    if subtasks is not None:
        return 200.0 * sum(f"num:{name}" in totals for name in subtasks)
    return 200.0 if metric.startswith("points:") else 1.0


def hallusion_label(answer: str) -> str:
    """Yes or no where the words hold the one and not the other; else unknown (VLMEvalKit)."""
    words = strip_punctuation(answer.lower()).split()
    is_yes, is_no = "yes" in words, "no" in words
    return "unknown" if is_yes == is_no else "yes" if is_yes else "no"


def score_hallusion(answer: str, reference: Reference) -> Row:
    """1 when the label is right, or unknown where no figure is shown to know it from (VS, figure 0)."""
    label = hallusion_label(answer)
    is_unknown = label == "unknown"
    right = label == yesno.truth(reference) or (is_unknown and not _has_figure(reference))
    return {"score": float(right), "unparsed": float(is_unknown)}


def hallusion_labels(reference: Reference) -> Labels:
    """The figure and the question of a sample, and the set in which both lie.

    A question without a figure is in none, as in HallusionBench's own code.
    """
    where = ("category", "subcategory", "set_id")
    labels = {
        "set": group_name(reference, *where),
        "question": group_name(reference, *where, "question_id"),
    }
    if _has_figure(reference):
        labels["figure"] = group_name(reference, *where, "figure_id")
    return labels


def _has_figure(reference: Reference) -> bool:
    return (text_of(reference, "category"), text_of(reference, "figure_id")) != ("VS", "0")


def complete_hallusion(scored: Sequence[Scored]) -> list[Row]:
    """Rows with every figure and every question counted once."""
    rows = [dict(one.row) for one in scored]
    add_groups(scored, rows, "figure", right="figure_right", count="figures")
    add_groups(scored, rows, "question", right="question_right", count="questions")
    return fill(rows)


def hallusion_metrics(totals: Columns) -> dict[str, FloatArray]:
    """aAcc over answers, fAcc over figures, qAcc over questions, and their mean."""
    shares = {
        "aAcc": ratio(totals["score"], totals["n"]),
        "fAcc": ratio(totals["figure_right"], totals["figures"]),
        "qAcc": ratio(totals["question_right"], totals["questions"]),
    }
    mean = sum(shares.values(), totals["score"] * 0.0) / len(shares)
    return {"mean": mean, **shares, "unparsed_ratio": ratio(totals["unparsed"], totals["n"])}


def score_truth(answer: str, reference: Reference) -> Row:
    """A statement about an image: the first of true, yes, false and no in the answer decides."""
    truth = reference.answers[0].strip().lower() if len(reference.answers) == 1 else ""
    if truth not in _TRUE | _FALSE:
        raise DataError(f"a statement needs one answer, true or false, not {list(reference.answers)}")
    said = next((word for word in _WORD.findall(answer.lower()) if word in _TRUE | _FALSE), "")
    return {"score": float(bool(said) and (said in _TRUE) == (truth in _TRUE)), "unparsed": float(not said)}


def _share(totals: Columns, right: str, count: str, name: str) -> FloatArray:
    return ratio(totals[f"{right}:{name}"], totals[f"{count}:{name}"])


def _sum(totals: Columns, prefix: str) -> FloatArray:
    return sum((value for name, value in totals.items() if name.startswith(prefix)), totals["score"] * 0.0)


POPE = Scorer(
    name="pope",
    version="pope-2",
    headline="f1",
    score=score_pope,
    metrics=yesno.metrics,
    rule="LLaVA's eval_pope",
)
MME = Scorer(
    name="mme",
    version="mme-1",
    headline="perception",
    score=score_mme,
    metrics=mme_metrics,
    labels=mme_labels,
    complete=complete_mme,
    unit="image",
    is_share=False,
    tops=mme_top,
    rule="MME's calculation.py",
)
HALLUSION = Scorer(
    name="hallusionbench",
    version="hallusion-2",
    headline="mean",
    score=score_hallusion,
    metrics=hallusion_metrics,
    labels=hallusion_labels,
    complete=complete_hallusion,
    unit="set",
    rule="HallusionBench's accuracies with VLMEvalKit's yes/no rule",
    deviation="HallusionBench's own code has GPT-4 judge each answer",
)
TRUTH = Scorer(
    name="truth",
    version="truth-1",
    headline="accuracy",
    score=score_truth,
    metrics=category_metrics,
    labels=category_label,
    complete=by_category,
    rule="accuracy of true/false, as VSR and NLVR report",
    deviation="VSR and NLVR have no rule for generated answers; here the first of true, yes, false, no",
)
