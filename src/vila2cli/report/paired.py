"""What changed from round to round: paired differences on the same evaluation samples."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from markupsafe import Markup

from vila2cli.errors import DataError
from vila2cli.evaluation.predictions import both, differences_of
from vila2cli.report.figures import Figure, scale_of
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.plots import difference_mark, tag
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, RoundResult, TaskResult, task_names
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.tables import Table, TableRow, columns
from vila2cli.report.wording import signed
from vila2cli.score import SCORERS
from vila2cli.score.stats import (
    FEW_IMAGES,
    TOO_FEW,
    Bootstrap,
    Difference,
    Estimate,
    Support,
    difference_of,
    mean_of,
)
from vila2cli.settings.recipe import Recipe

MAIN_MEASURES = (PRECISION, RECALL, QA_MEAN)
MEASURE_NAMES = {QA_MEAN: "QA mean"}
DEFAULT_BOOTSTRAP = 1000
_NOTE = (
    "In points of a percent for shares. Paired bootstrap over the evaluation images: both models answered "
    f"the same questions; shares of fewer than {FEW_IMAGES} images have the cautious interval that eval "
    "gives them. An interval that leaves out zero is coloured; the samples cannot say which is better for "
    f"the grey ones, and fewer than {TOO_FEW} never can. At 95% one in twenty differences looks clear "
    "by chance, and a repeat of the training is not covered."
)


@dataclass(frozen=True, slots=True)
class RoundComparison:
    """From one row of the results to the next: the difference of each measure, after minus before."""

    before: str
    after: str
    changes: Mapping[str, Figure]

    @property
    def main(self) -> dict[str, Figure]:
        """The changes of the main measures, by the names that the page uses for them."""
        known = (name for name in MAIN_MEASURES if name in self.changes)
        return {MEASURE_NAMES.get(name, name): self.changes[name] for name in known}

    @property
    def told(self) -> dict[str, Figure]:
        """Those of enough samples to tell something."""
        return {name: change for name, change in self.main.items() if change.verdict != "few"}


def bootstrap_of(recipe: Recipe) -> Bootstrap:
    """How often a report resamples, and its seed: what eval does."""
    return {"num_bootstrap": recipe.eval.num_bootstrap or DEFAULT_BOOTSTRAP, "seed": recipe.seed}


def compare_rounds(
    run: RunRecord, results: Sequence[RoundResult], reader: JsonReader, **bootstrap: Unpack[Bootstrap]
) -> list[RoundComparison]:
    """Compare each evaluated round with the one before it, and the final model with its controls, by sample."""
    evaluated = [result for result in results if result.tasks and run.stage(result.group, "eval")]
    loop = [result for result in evaluated if not result.is_control]
    final = [result for result in evaluated if result.group == "final"]
    controls = [(result, final[0]) for result in evaluated if result.is_control and final]
    return [
        compare_two(run, before, after, reader, **bootstrap)
        for before, after in [*itertools.pairwise(loop), *controls]
    ]


def compare_two(
    run: RunRecord, before: RoundResult, after: RoundResult, reader: JsonReader, **bootstrap: Unpack[Bootstrap]
) -> RoundComparison:
    """Compare two rows sample by sample; there are no changes where one of them has no evaluation."""
    stages = run.stage(before.group, "eval"), run.stage(after.group, "eval")
    pairs: dict[str, _Pair] = {}
    if stages[0] is None or stages[1] is None:
        return RoundComparison(before.group, after.group, {})
    folders = stages[0].folder, stages[1].folder
    for name, task in after.tasks.items():
        if name in before.tasks and before.tasks[name].protocol == task.protocol:
            metrics = _pair_task(task, folders[0] / name, folders[1] / name, reader, **bootstrap)
            # Precision and recall are those of the first caption task, here as everywhere on the page.
            main = () if after.caption is not task else ((PRECISION, "precision"), (RECALL, "recall"))
            wanted = ((name, task.headline), *main)
            pairs |= {shown: metrics[metric] for shown, metric in wanted if metric in metrics}
    # The mean is of the tasks that eval takes it of: questions whose headline is a share.
    shares = {name for name, scorer in SCORERS.items() if scorer.is_share}
    asked = [{task.name for task in result.qa_tasks if task.scorer in shares} for result in (before, after)]
    if asked[0] and asked[0] == asked[1] <= pairs.keys():
        pairs[QA_MEAN] = _mean_pair([pairs[name] for name in after.tasks if name in asked[1]])
    return RoundComparison(before.group, after.group, {name: pair.figure for name, pair in pairs.items()})


@dataclass(frozen=True, slots=True)
class _Pair:
    """A measure of two rounds, on the samples that both answered, with their images, and after minus before.

    `num_samples` it is of, or each task of a mean.
    """

    before: Estimate
    after: Estimate
    images: frozenset[str]
    change: Difference
    num_samples: int

    @property
    def figure(self) -> Figure:
        """The difference as the page shows it."""
        interval = self.change.interval
        return Figure(interval.value, interval.low, interval.high, self.num_samples)


def _mean_pair(pairs: Sequence[_Pair]) -> _Pair:
    """The unweighted mean of tasks, on all of their images."""
    before, after = mean_of([pair.before for pair in pairs]), mean_of([pair.after for pair in pairs])
    images = frozenset().union(*(pair.images for pair in pairs))
    of = Support.of_mean([pair.change.of for pair in pairs], len(images))
    # A mean is as sure as if all tasks had the harmonic mean of their sizes.
    num_samples = int(statistics.harmonic_mean([max(1, pair.num_samples) for pair in pairs]))
    return _Pair(before, after, images, difference_of(before, after, top=1.0, of=of), num_samples)


def _pair_task(
    task: TaskResult, first_dir: Path, second_dir: Path, reader: JsonReader, **bootstrap: Unpack[Bootstrap]
) -> dict[str, _Pair]:
    """Every metric of a task in two rounds that were asked the same; a damaged layer is noted."""
    scorer = SCORERS.get(task.scorer)
    if scorer is None or not (first_dir.is_dir() and second_dir.is_dir()):
        return {}
    try:
        before, after, (shared, other) = both(first_dir, second_dir, scorer, **bootstrap)
        differences = differences_of(scorer, (before, after), (shared, other))
    except (DataError, KeyError, TypeError, ValueError, RecursionError) as error:
        reader.note(second_dir, f"cannot be compared with the round before: {error}")
        return {}
    if not shared.asks_like(other):
        return {}
    images = frozenset(shared.groups(scorer))
    return {
        # Questions about one picture are no samples of their own.
        metric: _Pair(
            before[metric], after[metric], images, change, min(change.of.num_samples, change.of.num_images)
        )
        for metric, change in differences.items()
    }


def difference_table(comparisons: Sequence[RoundComparison], results: Sequence[RoundResult]) -> Table:
    """Every measure that two rows in a row share: the change, its interval and a whisker to read it by."""
    names = [*MAIN_MEASURES, *task_names(results)]
    changes = [change for comparison in comparisons for change in comparison.changes.values()]
    ends = [abs(end) for change in changes for end in (change.low, change.high) if end is not None]
    if not ends:
        return Table()
    rows = []
    for name in names:
        figures = [comparison.changes.get(name) for comparison in comparisons]
        if any(figures):
            scale = scale_of([result.measure(name) for result in results])
            cells = (_difference_cell(figure, scale, max(ends)) for figure in figures)
            rows.append(TableRow(MEASURE_NAMES.get(name, name), tuple(cells)))
    pairs = [f"{comparison.after} − {comparison.before}" for comparison in comparisons]
    return Table(columns("Difference, with 95% interval", *pairs), tuple(rows), _NOTE)


def _difference_cell(change: Figure | None, scale: int, reach: float) -> Markup:
    if change is None or not change.ends:
        return tag("small", "not run yet")
    shown = change.scaled(scale)
    parts = (
        tag("span", signed(shown.value, 1), class_=f"delta {change.verdict}"),
        tag("small", shown.span(" to ", write=signed)),
    )
    return Markup(" ").join(parts) + difference_mark(change, reach)
