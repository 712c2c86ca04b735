"""Paired differences from prediction layers."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from vila2cli.evaluation.comparing import compare_headlines
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.paired import RoundComparison, compare_rounds
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, read_results
from vila2cli.report.run_folder import read_run


def compared(run: Any, num_bootstrap: int = 200) -> RoundComparison:
    """Round 1 against round 0."""
    reader = JsonReader(run.run_dir)
    record = read_run(run.run_dir, reader)
    (found,) = compare_rounds(record, read_results(record), reader, num_bootstrap=num_bootstrap, seed=0)
    assert reader.damaged == []
    return found


def edit_task(run: Any, group: str, name: str, **values: Any) -> None:
    path = run.run_dir / group / "eval" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["tasks"][name] |= values
    path.write_text(json.dumps(metrics))


def test_differences_are_those_of_the_metrics(make_run: Callable[..., Any]) -> None:
    run = make_run(1)
    reader = JsonReader(run.run_dir)
    record = read_run(run.run_dir, reader)
    results = read_results(record)
    (found,) = compare_rounds(record, results, reader, num_bootstrap=200, seed=0)
    for name in (PRECISION, RECALL, QA_MEAN, "world-ocr"):
        before, after = (result.measure(name) for result in results)
        change = found.changes[name]
        assert before is not None
        assert after is not None
        assert change.low is not None
        assert change.high is not None
        assert change.value == pytest.approx(after.value - before.value)
        assert change.low <= change.value <= change.high
    assert found.changes[PRECISION].verdict == "gain"


@pytest.mark.parametrize("num_questions", [40, 120])
def test_intervals_are_those_of_a_comparison_of_evals(make_run: Callable[..., Any], num_questions: int) -> None:
    """The report and `vila2 eval compare` say the same of the same answers, of few images and of many."""
    run = make_run(1, num_questions=num_questions)
    changes = compared(run).changes
    evals = [run.run_dir / group / "eval" for group in ("round0", "round1")]
    for one in compare_headlines(*evals, num_bootstrap=200, seed=0):
        figure = changes[one.task]
        assert (figure.value, figure.low, figure.high) == (one.difference, one.low, one.high)


def test_a_mean_over_few_images_has_a_cautious_interval(make_run: Callable[..., Any]) -> None:
    """Where both rounds get everything right there is room for a difference that 8 images do not show."""
    run = make_run(-1, num_questions=8)
    for group in ("round0", "round1"):
        run.write_eval(group, 1.0)
    (run.run_dir / "round1" / "recaption").mkdir()
    changes = compared(run).changes
    for name in (PRECISION, RECALL, QA_MEAN, "world-ocr"):
        figure = changes[name]
        assert figure.value == 0.0
        assert figure.high is not None
        assert figure.high > 0.02


def test_a_few_samples_are_no_gain(make_run: Callable[..., Any]) -> None:
    """3 answers, all wrong and then all right: neither the task nor the mean, nor a colour, says better."""
    run = make_run(-1, num_questions=3)
    run.write_eval("round0", -1.0)
    run.write_eval("round1", 1.0)
    (run.run_dir / "round1" / "recaption").mkdir()
    changes = compared(run).changes
    assert changes["world-ocr"].value == 1.0
    assert {changes[name].verdict for name in (PRECISION, RECALL, "world-ocr")} == {"few"}
    assert changes[QA_MEAN].num_samples == 3, "of each of its tasks"
    assert changes[QA_MEAN].verdict == "few"


@pytest.mark.parametrize(
    "other", [{"version": "2"}, {"scorer_version": "x"}, {"question": "Why?"}, {"judge": {"model": "another"}}]
)
def test_what_was_asked_or_scored_otherwise_is_not_compared(
    make_run: Callable[..., Any], other: dict[str, Any]
) -> None:
    run = make_run(1)
    edit_task(run, "round1", "world-ocr", **other)
    changes = compared(run, 50).changes
    assert "world-colour" in changes
    assert "world-ocr" not in changes
    assert QA_MEAN not in changes


def test_a_task_that_does_not_name_its_prompt_has_the_usual_one(make_run: Callable[..., Any]) -> None:
    run = make_run(1)
    edit_task(run, "round1", "world-ocr", prompt="{question}")
    assert QA_MEAN in compared(run, 50).changes


def test_other_questions_about_the_same_pictures_are_not_compared(make_run: Callable[..., Any]) -> None:
    run = make_run(0)
    run.write_eval("round1", 0.7, asked="one")
    (run.run_dir / "round1" / "recaption").mkdir()
    assert QA_MEAN in compared(run, 50).changes  # round 0 did not record what it asked
    run.write_eval("round0", 0.5, asked="other")
    assert compared(run, 50).changes == {}


def test_a_task_without_a_share_is_not_in_the_mean(make_run: Callable[..., Any]) -> None:
    """As in eval: the mean is of shares alone, so a task that another tool scored does not take it away."""
    run = make_run(1)
    value = compared(run, 50).changes[QA_MEAN].value
    for group in ("round0", "round1"):
        path = run.run_dir / group / "eval" / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["tasks"]["lmms:mme"] = {"metrics": {"score": 1400.0}, "headline": "score", "scorer": "lmms"}
        path.write_text(json.dumps(metrics))
    assert compared(run, 50).changes[QA_MEAN].value == value
