"""What changed from round to round: paired differences on the same evaluation samples."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.evaluation.predictions import both, differences_of
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, Figure, RoundResult, TaskResult
from vila2cli.report.run_folder import RunRecord
from vila2cli.score import SCORERS
from vila2cli.score.stats import Estimate, Interval, Support, difference_of, mean_of
from vila2cli.settings.recipe import Recipe

MAIN_MEASURES = (PRECISION, RECALL, QA_MEAN)
MEASURE_NAMES = {QA_MEAN: "QA mean"}
DEFAULT_BOOTSTRAP = 1000


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


def bootstrap_of(recipe: Recipe) -> dict[str, int]:
    """How often a report resamples, and its seed: what eval does."""
    return {"num_bootstrap": recipe.eval.num_bootstrap or DEFAULT_BOOTSTRAP, "seed": recipe.seed}


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
    pairs: dict[str, _Pair] = {}
    if stages[0] is None or stages[1] is None:
        return Comparison(before.group, after.group, {})
    first_dir, second_dir = stages[0].folder, stages[1].folder
    for name, task in after.tasks.items():
        if name in before.tasks and before.tasks[name].protocol == task.protocol:
            settings = {"num_bootstrap": num_bootstrap, "seed": seed}
            found = _pair_task(task, first_dir / name, second_dir / name, settings, reader)
            # Precision and recall are those of the first caption task, here as everywhere on the page.
            main = () if after.caption is not task else ((PRECISION, "precision"), (RECALL, "recall"))
            wanted = ((name, task.headline), *main)
            pairs |= {shown: found[metric] for shown, metric in wanted if metric in found}
    # The mean is of the tasks that eval takes it of: questions whose headline is a share.
    asked = [{task.name for task in result.qa_tasks if _is_share(task)} for result in (before, after)]
    if asked[0] and asked[0] == asked[1] <= pairs.keys():
        pairs[QA_MEAN] = _mean_pair([pairs[name] for name in after.tasks if name in asked[1]])
    changes = {name: Change(one.figure()) for name, one in pairs.items()}
    return Comparison(before.group, after.group, changes)


@dataclass(frozen=True, slots=True)
class _Pair:
    """One measure of two rounds, on the samples that both answered."""

    before: Estimate
    after: Estimate
    num_samples: int
    images: frozenset[str]
    interval: Interval

    def figure(self) -> Figure:
        """After minus before, with the interval that `vila2 eval compare` gives."""
        return Figure(self.interval.value, self.interval.low, self.interval.high)


def _mean_pair(pairs: Sequence[_Pair]) -> _Pair:
    """The unweighted mean of tasks, on all of their images."""
    before, after = (mean_of([one.before for one in pairs]), mean_of([one.after for one in pairs]))
    num_samples = sum(one.num_samples for one in pairs)
    images = frozenset().union(*(one.images for one in pairs))
    of = Support(num_samples, len(images))
    return _Pair(before, after, num_samples, images, difference_of(before, after, top=1.0, of=of).interval)


def _is_share(task: TaskResult) -> bool:
    scorer = SCORERS.get(task.scorer)
    return scorer is not None and scorer.is_share


def _pair_task(
    task: TaskResult, first_dir: Path, second_dir: Path, settings: Mapping[str, int], reader: JsonReader
) -> dict[str, _Pair]:
    """Every metric of a task in two rounds that were asked the same; a damaged layer is noted."""
    scorer = SCORERS.get(task.scorer)
    if scorer is None or not (first_dir.is_dir() and second_dir.is_dir()):
        return {}
    try:
        before, after, (shared, other) = both(first_dir, second_dir, scorer, **settings)
        found = differences_of(scorer, (before, after), (shared, other))
    except (DataError, KeyError, TypeError, ValueError, RecursionError) as error:
        reader.note(second_dir, f"cannot be compared with the round before: {error}")
        return {}
    if not shared.asks_like(other):
        return {}
    images = frozenset(shared.groups(scorer))
    return {
        metric: _Pair(before[metric], after[metric], len(shared.ids), images, found[metric].interval)
        for metric in before
    }
