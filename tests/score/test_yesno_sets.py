"""POPE, MME, HallusionBench and statements, worked by hand."""

import pytest

from vila2cli.score.scorer import Reference, Scored
from vila2cli.score.stats import columns_of
from vila2cli.score.yesno import (
    HALLUSION,
    MME,
    POPE,
    TRUTH,
    hallusion_label,
    mme_label,
    says_yes,
)


def totals_of(scorer, scored):
    return {name: column.sum() for name, column in columns_of(scorer.rows(scored)).items()}


def metrics_of(scorer, scored):
    return {name: float(value) for name, value in scorer.metrics(totals_of(scorer, scored)).items()}


def scored(scorer, answer, truth, **meta):
    reference = Reference(answers=(truth,), meta=meta)
    return Scored(scorer.score(answer, reference), scorer.labels(reference) if scorer.labels else {})


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("no,", False),
        ("There is not a cat", False),
        ("Yes. No other", True),
        ("NO", True),
        ("No\n", True),
        ("no\nyes", True),
        ("", True),
    ],
)
def test_pope_cuts_words_at_spaces_alone(answer, yes):
    assert says_yes(answer, " ") is yes


def test_pope_metrics():
    rows = [("Yes", "yes")] * 3 + [("No", "yes")] + [("Yes", "no")] * 2 + [("No", "no")] * 4
    found = metrics_of(POPE, [scored(POPE, answer, truth) for answer, truth in rows])
    assert found["accuracy"] == 0.7
    assert (found["precision"], found["recall"]) == (0.6, 0.75)
    assert found["f1"] == pytest.approx(2 * 0.6 * 0.75 / 1.35)
    assert found["yes_ratio"] == 0.5


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("Yes, it is", "yes"),
        ("No.", "no"),
        ("Not", "no"),
        ("I say yes", "other"),
        (" Yes", "yes"),
        ("", "other"),
    ],
)
def test_mme_reads_the_first_four_letters(answer, label):
    assert mme_label(answer) == label


def test_mme_points_are_accuracy_plus_pairs_per_subtask():
    found = metrics_of(
        MME,
        [
            scored(MME, "Yes", "Yes", category="count", image="1"),
            scored(MME, "No", "No", category="count", image="1"),
            scored(MME, "Yes", "Yes", category="count", image="2"),
            scored(MME, "Yes", "No", category="count", image="2"),
            scored(MME, "Yes", "Yes", category="OCR", image="1"),
            scored(MME, "what?", "No", category="OCR", image="1"),
            scored(MME, "no", "No", category="code_reasoning", image="1"),
            scored(MME, "yes", "Yes", category="code_reasoning", image="1"),
        ],
    )
    assert (found["points:count"], found["points:OCR"]) == (125.0, 50.0)
    assert (found["perception"], found["cognition"]) == (175.0, 200.0)
    assert found["other_ratio"] == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Yes.", "yes"),
        ("no, it is", "no"),
        ("yes and no", "unknown"),
        ("nothing", "unknown"),
        ("no: x", "unknown"),
    ],
)
def test_hallusion_labels(answer, label):
    assert hallusion_label(answer) == label


def test_hallusion_accuracies_by_figure_and_question():
    def one(answer, truth, figure, question, category="VD"):
        where = {"subcategory": "illusion", "set_id": "0"}
        return scored(
            HALLUSION, answer, truth, category=category, figure_id=figure, question_id=question, **where
        )

    found = metrics_of(
        HALLUSION,
        [
            one("yes", "yes", "0", "0"),
            one("no", "yes", "0", "1"),
            one("yes", "yes", "1", "0"),
            one("yes", "yes", "1", "1"),
            one("yes", "yes", "0", "0", category="VS"),
        ],
    )
    assert (found["aAcc"], found["fAcc"]) == (0.8, 0.5)
    assert found["qAcc"] == pytest.approx(2 / 3)
    assert found["mean"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)


@pytest.mark.parametrize(
    ("category", "figure", "right"), [("VS", "0", 1), ("VS", "1", 0), ("VD", "0", 0), ("VD", "1", 0)]
)
def test_without_a_figure_not_to_know_is_right(category, figure, right):
    where = {"subcategory": "map", "set_id": "1", "question_id": "0"}
    row = scored(HALLUSION, "I am not sure", "no", category=category, figure_id=figure, **where).row
    assert (row["score"], row["unparsed"]) == (right, 1)
    assert scored(HALLUSION, "Yes", "no", category=category, figure_id=figure, **where).row["score"] == 0


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("True", "true", 1),
        ("It is false.", "true", 0),
        ("no", "false", 1),
        ("yes", "true", 1),
        ("hm", "false", 0),
    ],
)
def test_statements(answer, truth, right):
    assert TRUTH.score(answer, Reference(answers=(truth,)))["score"] == right
