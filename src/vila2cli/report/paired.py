"""Does another round help? Paired differences on the same evaluation samples, and a verdict in words."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, Figure, RoundResult, TaskResult
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.wording import join_words, points
from vila2cli.score import find_scorer
from vila2cli.score.compare import differences
from vila2cli.score.stats import Estimate, mean_of

MAIN_MEASURES = (PRECISION, RECALL, QA_MEAN)
MEASURE_NAMES = {QA_MEAN: "QA mean"}


@dataclass(frozen=True, slots=True)
class Change:
    """The difference of one measure between two rounds, after minus before."""

    figure: Figure

    @property
    def verdict(self) -> str:
        """`gain` or `loss` where the interval leaves out zero, else `even`."""
        low, high = self.figure.low or 0.0, self.figure.high or 0.0
        return "gain" if low > 0 else "loss" if high < 0 else "even"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes from one row of the results to the next."""

    before: str
    after: str
    changes: Mapping[str, Change]


def compare_rounds(
    run: RunRecord, results: Sequence[RoundResult], reader: JsonReader, *, num_bootstrap: int, seed: int
) -> list[Comparison]:
    """Compare each evaluated round with the one before it, and the final model with its controls, by sample."""
    evaluated = [result for result in results if result.tasks and run.stage(result.group, "eval")]
    loop = [result for result in evaluated if not result.is_control]
    final = [result for result in evaluated if result.group == "final"]
    controls = [(result, final[0]) for result in evaluated if result.is_control and final]
    return [
        compare_two(run, before, after, reader, num_bootstrap=num_bootstrap, seed=seed)
        for before, after in [*itertools.pairwise(loop), *controls]
    ]


def compare_two(
    run: RunRecord,
    before: RoundResult,
    after: RoundResult,
    reader: JsonReader,
    *,
    num_bootstrap: int,
    seed: int,
) -> Comparison:
    """Compare two rows sample by sample; there are no changes where one of them has no evaluation."""
    stages = run.stage(before.group, "eval"), run.stage(after.group, "eval")
    estimates: dict[str, Estimate] = {}
    if stages[0] is None or stages[1] is None:
        return Comparison(before.group, after.group, {})
    first_dir, second_dir = stages[0].folder, stages[1].folder
    for name, task in after.tasks.items():
        if name in before.tasks and before.tasks[name].protocol == task.protocol:
            settings = {"num_bootstrap": num_bootstrap, "seed": seed}
            estimates |= _task_changes(task, first_dir / name, second_dir / name, settings, reader)
    qa = [task.name for task in after.qa_tasks if task.name in estimates]
    if qa and len(qa) == len(after.qa_tasks) == len(before.qa_tasks):
        estimates[QA_MEAN] = mean_of([estimates[name] for name in qa])
    changes = {name: Change(_figure(one)) for name, one in estimates.items()}
    return Comparison(before.group, after.group, changes)


def verdict(comparisons: Sequence[Comparison]) -> list[str]:
    """What the main measures say about every round, and from which round on the loop is saturated."""
    rounds = [one for one in comparisons if one.after != "final" and _main(one)]
    if not rounds:
        return ["Whether another round helps cannot be said yet: that takes two evaluated rounds."]
    sentences = [_sentence(one) for one in comparisons if _main(one)]
    return [_saturation(rounds), *sentences]


def _saturation(rounds: Sequence[Comparison]) -> str:
    gains = [one for one in rounds if any(change.verdict == "gain" for change in _main(one).values())]
    last = rounds[-1]
    if gains and gains[-1] is last:
        return f"Not saturated: {last.after} is still better than {last.before} in a main measure."
    if not gains:
        return "No round is clearly better than the one before it in any main measure."
    later = "no later round is" if gains[-1] is not rounds[-2] else f"{last.after} is not"
    return (
        f"Saturated after {gains[-1].after}: {later} clearly better than the round before it "
        "in caption precision, caption recall or QA mean."
    )


def _sentence(one: Comparison) -> str:
    said: dict[str, list[str]] = {"gain": [], "loss": [], "even": []}
    for name, change in _main(one).items():
        shown = MEASURE_NAMES.get(name, name)
        said[change.verdict].append(
            shown if change.verdict == "even" else f"{shown} ({points(change.figure.value)})"
        )
    parts = []
    if said["gain"]:
        parts.append(f"better in {join_words(said['gain'])}")
    if said["loss"]:
        parts.append(f"worse in {join_words(said['loss'])}")
    if said["even"]:
        parts.append(f"not clearly different in {join_words(said['even'])}")
    return f"{one.after[:1].upper()}{one.after[1:]} against {one.before}: {', '.join(parts)}."


def _main(one: Comparison) -> dict[str, Change]:
    return {name: one.changes[name] for name in MAIN_MEASURES if name in one.changes}


def _task_changes(
    task: TaskResult, first_dir: Path, second_dir: Path, settings: Mapping[str, int], reader: JsonReader
) -> dict[str, Estimate]:
    """The change of a task's headline, and of precision and recall for captions; a damaged layer is noted."""
    if not (first_dir.is_dir() and second_dir.is_dir()):
        return {}
    try:
        found = differences(first_dir, second_dir, find_scorer(task.scorer), **settings)
    except (DataError, KeyError, TypeError, ValueError, RecursionError) as error:
        reader.note(second_dir, f"cannot be compared with the round before: {error}")
        return {}
    wanted = {task.name: task.headline}
    if task.is_caption:
        wanted |= {PRECISION: "precision", RECALL: "recall"}
    return {name: found[metric] for name, metric in wanted.items() if metric in found}


def _figure(estimate: Estimate) -> Figure:
    interval = estimate.interval()
    return Figure(interval.value, interval.low, interval.high)
