"""The verdict in words, and paired differences from prediction layers."""

from collections.abc import Callable
from typing import Any

import pytest

from vila2cli.report.json_reader import JsonReader
from vila2cli.report.paired import Change, Comparison, compare_rounds, verdict
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, Figure, read_results
from vila2cli.report.run_folder import read_run

GAIN, EVEN, LOSS = (Change(Figure(v, v - 0.02, v + 0.02)) for v in (0.1, 0.0, -0.1))


def comparison(number: int, precision: Change, qa_mean: Change = EVEN) -> Comparison:
    return Comparison(f"round {number - 1}", f"round {number}", {PRECISION: precision, QA_MEAN: qa_mean})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([], "Whether another round helps cannot be said yet"),
        ([GAIN], "Not saturated: round 1"),
        ([GAIN, GAIN, EVEN], "Saturated after round 2: round 3 is not"),
        ([GAIN, EVEN, EVEN], "Saturated after round 1: no later round is"),
        ([GAIN, EVEN, GAIN], "Not saturated: round 3"),
        ([EVEN, LOSS], "No round is clearly better"),
    ],
)
def test_verdict(changes: list[Change], sentence: str) -> None:
    comparisons = [comparison(number, change) for number, change in enumerate(changes, 1)]
    assert verdict(comparisons)[0].startswith(sentence)


def test_final_does_not_count_as_a_round() -> None:
    final = Comparison("round 1", "final", {PRECISION: GAIN})
    assert verdict([comparison(1, EVEN), final])[0].startswith("No round is clearly better")
    assert (
        verdict([comparison(1, EVEN), final])[-1]
        == "Final against round 1: better in caption precision (+10.0 points)."
    )


def test_sentence_names_gains_losses_and_what_is_open() -> None:
    one = Comparison("round 0", "round 1", {PRECISION: GAIN, RECALL: LOSS, QA_MEAN: EVEN})
    assert verdict([one])[1] == (
        "Round 1 against round 0: better in caption precision (+10.0 points), "
        "worse in caption recall (−10.0 points), not clearly different in QA mean."
    )


def test_differences_are_those_of_the_metrics(make_run: Callable[..., Any]) -> None:
    run = make_run(1)
    reader = JsonReader(run.run_dir)
    record = read_run(run.run_dir, reader)
    results = read_results(record)
    (found,) = compare_rounds(record, results, reader, num_bootstrap=200, seed=0)
    for name in (PRECISION, RECALL, QA_MEAN, "world-ocr"):
        before, after = (result.measure(name) for result in results)
        change = found.changes[name].figure
        assert before is not None
        assert after is not None
        assert change.low is not None
        assert change.high is not None
        assert change.value == pytest.approx(after.value - before.value)
        assert change.low <= change.value <= change.high
    assert found.changes[PRECISION].verdict == "gain"


def test_tasks_of_another_version_are_not_compared(make_run: Callable[..., Any]) -> None:
    run = make_run(1)
    metrics = run.run_dir / "round1" / "eval" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"version": "1"', '"version": "2"'))
    reader = JsonReader(run.run_dir)
    record = read_run(run.run_dir, reader)
    (found,) = compare_rounds(record, read_results(record), reader, num_bootstrap=50, seed=0)
    assert found.changes == {}
