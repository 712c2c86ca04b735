"""The verdict in words, at its edges."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from vila2cli.report.figures import Figure
from vila2cli.report.paired import RoundComparison
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, RoundResult, TaskResult
from vila2cli.report.saturation import verdict

GAIN, EVEN, LOSS = (Figure(v, v - 0.02, v + 0.02) for v in (0.1, 0.0, -0.1))


TOUCHING = Figure(0.02, 0.0, 0.04)


def comparison(number: int, precision: Figure | None, qa_mean: Figure = EVEN) -> RoundComparison:
    """Round `number` against the one before it; None where the two cannot be compared in a main measure."""
    changes = {"another task": GAIN} if precision is None else {PRECISION: precision, QA_MEAN: qa_mean}
    return RoundComparison(f"round {number - 1}", f"round {number}", changes)


def rounds(evaluated: Sequence[bool]) -> list[RoundResult]:
    task = TaskResult("ocr", "accuracy", {}, 40, "ocr")
    return [RoundResult(f"round {n}", {"ocr": task} if done else {}) for n, done in enumerate(evaluated)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([], "Whether another round helps cannot be said yet"),
        ([GAIN], "Not saturated: round 1"),
        ([GAIN, GAIN, EVEN], "Saturated after round 2: round 3 is not"),
        ([GAIN, EVEN, EVEN], "Saturated after round 1: no later round is"),
        ([GAIN, EVEN, GAIN], "Not saturated: round 3"),
        (
            [EVEN, LOSS],
            "No round is clearly better than the one before it in any main measure: stop. Round 2 is worse",
        ),
        ([LOSS], "No round is clearly better"),
        ([GAIN, TOUCHING], "Saturated after round 1: round 2 is not"),
        ([GAIN, None], "Whether another round helps cannot be said: round 1 and round 2 share no main measure"),
        ([None, GAIN], "Not saturated: round 2"),
        ([GAIN, None, EVEN], "Saturated after round 2 at the latest: round 3 is not"),
        ([None, EVEN, EVEN], "Saturated after round 1 at the latest: no later round is"),
    ],
)
def test_verdict(changes: list[Figure | None], sentence: str) -> None:
    comparisons = [comparison(number, change) for number, change in enumerate(changes, 1)]
    assert verdict(comparisons)[0].startswith(sentence)


FEW = Figure(0.6, 0.2, 1.0, num_samples=19)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([FEW], "Whether another round helps cannot be said: too few samples to tell (19 in caption precision"),
        ([GAIN, FEW], "Whether another round helps cannot be said: too few samples to tell (19 in"),
        (
            [FEW, EVEN],
            "Saturated after round 1 at the latest: round 2 is not clearly better than the round before",
        ),
        ([replace(FEW, num_samples=20)], "Not saturated: round 1"),
    ],
)
def test_too_few_samples_tell_nothing(changes: list[Figure], sentence: str) -> None:
    """However far apart two rounds are, as 3 samples all wrong and then all right."""
    found = [
        RoundComparison(f"round {number - 1}", f"round {number}", {PRECISION: change})
        for number, change in enumerate(changes, 1)
    ]
    said = verdict(found)
    assert said[0].startswith(sentence)
    if changes[0] is FEW:
        assert "too few samples to tell in caption precision (19)" in said[1]


def test_final_does_not_count_as_a_round() -> None:
    final = RoundComparison("round 1", "final", {PRECISION: GAIN})
    assert verdict([comparison(1, EVEN), final])[0].startswith("No round is clearly better")
    assert (
        verdict([comparison(1, EVEN), final])[-1]
        == "Final against round 1: better in caption precision (+10.0 points)."
    )


def test_sentence_names_gains_losses_and_what_is_open() -> None:
    one = RoundComparison("round 0", "round 1", {PRECISION: GAIN, RECALL: LOSS, QA_MEAN: EVEN})
    assert verdict([one])[1] == (
        "Round 1 against round 0: better in caption precision (+10.0 points), "
        "worse in caption recall (−10.0 points), not clearly different in QA mean."
    )


def test_a_gain_that_is_paid_for_says_so() -> None:
    one = RoundComparison("round 0", "round 1", {PRECISION: GAIN, RECALL: LOSS, QA_MEAN: EVEN})
    assert verdict([one], recipe_flags="--recipe my.toml")[0] == (
        "Not saturated: round 1 is still better than round 0 in caption precision, but worse in caption "
        "recall and not clearly different in QA mean. Run round 2: vila2 run round2 --recipe my.toml"
    )


def test_a_single_task_that_is_clearly_worse_is_named_beside_the_mean() -> None:
    changes = {PRECISION: GAIN, QA_MEAN: EVEN, "size": Figure(-0.022, -0.04, -0.006), "ocr": EVEN}
    said = verdict([RoundComparison("round 2", "round 3", changes)], recipe_flags="--recipe my.toml")
    assert said[0] == (
        "Not saturated: round 3 is still better than round 2 in caption precision, but worse in size (−2.2) "
        "and not clearly different in QA mean. Run round 4: vila2 run round4 --recipe my.toml"
    )
    assert "worse in size (−2.2), not clearly different in QA mean." in said[1]
    changes[PRECISION] = EVEN
    assert verdict([RoundComparison("round 2", "round 3", changes)])[0].endswith(
        "Round 3 is worse in size (−2.2)."
    )


def wide(value: float, half_width: float, num_samples: int | None = 20) -> Figure:
    return Figure(value, value - half_width, value + half_width, num_samples)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # Half a width of 8 points is 4 times what tells a gain of 2, which takes 16 times the samples.
        (wide(0.01, 0.08), "could hide in the interval of QA mean (+1.0, −7.0 to +9.0 points). More questions"),
        (wide(0.01, 0.08), "about 320 in place of 20."),
        (wide(0.01, 0.08, None), "about 16 times as many."),
        (wide(0.0, 0.019), "in any main measure: stop."),
        (wide(-0.05, 0.06), "in any main measure: stop."),
        (wide(0.03, 0.029), "Not saturated"),
    ],
)
def test_a_round_is_called_useless_only_where_a_gain_would_have_shown(change: Figure, said: str) -> None:
    found = verdict([RoundComparison("round 0", "round 1", {PRECISION: EVEN, QA_MEAN: change})])[0]
    assert said in found
    assert ("stop" in found) == ("stop" in said)


def test_a_wide_interval_before_the_last_round_leaves_open_where_it_was_saturated() -> None:
    found = [
        RoundComparison(f"round {n}", f"round {n + 1}", {QA_MEAN: one})
        for n, one in enumerate((GAIN, wide(0.0, 0.1), EVEN))
    ]
    assert verdict(found)[0] == (
        "Saturated after round 2 at the latest: round 3 is not clearly better than the round before it in QA "
        "mean, so stop there. Round 2 has too few samples to tell it from round 1."
    )


def test_a_verdict_names_only_what_was_measured_and_says_to_stop() -> None:
    """There is no caption task here, and the last round is worse."""
    found = [
        RoundComparison(f"round {n}", f"round {n + 1}", {QA_MEAN: one}) for n, one in enumerate((GAIN, LOSS))
    ]
    assert verdict(found)[0] == (
        "Saturated after round 1: round 2 is not clearly better than the round before it in QA mean, so stop "
        "there. Round 2 is worse in QA mean."
    )


@pytest.mark.parametrize(
    ("evaluated", "said"),
    [([], ""), ([False, False], ""), ([True], ""), ([True, False], " Not evaluated: round 1.")],
)
def test_with_one_round_or_none_nothing_can_be_said(evaluated: list[bool], said: str) -> None:
    cannot = "Whether another round helps cannot be said yet: that takes two evaluated rounds."
    assert verdict([], rounds(evaluated)) == [f"{cannot}{said}"]


def test_rounds_that_are_not_evaluated_are_named() -> None:
    """Round 3 is compared with round 1, the one evaluated before it."""
    found = [comparison(1, GAIN), RoundComparison("round 1", "round 3", {PRECISION: EVEN})]
    said = verdict(found, rounds([True, True, False, True, False]))
    assert said[0].startswith("Saturated after round 1: round 3 is not")
    assert said[0].endswith("Not evaluated: round 2 and round 4.")
    assert said[-1].startswith("Round 3 against round 1:")
