"""What metrics.json says of a task: metrics with intervals, counts, and whether the figure is official."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.recipe import Recipe
from vila2cli.score.caption import FACTS
from vila2cli.score.compare import CUT_OFF, LEFT_OUT, read_predictions
from vila2cli.score.scorer import Scored
from vila2cli.score.stats import Estimate, Interval, mean_of
from vila2cli.score.task import Task
from vila2cli.shards import ShardStats, folder_stats
from vila2cli.text.reasoning import Answer

MAX_UNFINISHED = 0.01
"""Share of answers that are empty or cut off above which a figure is not official."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A task's metrics with replicates and intervals, its predictions and their counts, and its doubt."""

    task: Task
    found: dict[str, Estimate]
    intervals: dict[str, Interval]
    scored: Sequence[Scored]
    stats: ShardStats
    doubt: str

    @property
    def num_unfinished(self) -> int:
        return sum(not one.is_whole for one in self.scored)


def measure(recipe: Recipe, tasks: Sequence[Task], folder: Path) -> dict[str, Any]:
    """The scores of every task, from the prediction layers on disk."""
    measured = [_measure(recipe, task, folder / task.name) for task in tasks]
    headlines = [
        one.found[one.task.scorer.headline]
        for one in measured
        if not one.task.is_caption and one.task.scorer.is_share
    ]
    entries = {one.task.name: _entry(one) for one in measured}
    captions = [entries[task.name]["metrics"] for task in tasks if task.scorer.name == FACTS.name]
    return {
        "tasks": entries,
        "qa_mean": mean_of(headlines).interval().to_json() if headlines else None,
        "caption": captions[0] if captions else None,
        "num_rejected": sum(entry["num_rejected"] for entry in entries.values()),
        "seconds": round(sum(one.stats.seconds for one in measured), 3),
    }


def _measure(recipe: Recipe, task: Task, layer_dir: Path) -> Measured:
    predictions, scorer = read_predictions(layer_dir), task.scorer
    found = predictions.estimate(scorer, num_bootstrap=recipe.eval.num_bootstrap, seed=recipe.seed)
    doubt = scorer.doubt(predictions.columns(scorer)) if scorer.doubt else ""
    intervals = predictions.intervals(scorer, found)
    return Measured(task, found, intervals, predictions.scored, folder_stats(layer_dir), doubt)


def _entry(one: Measured) -> dict[str, Any]:
    task, stats = one.task, one.stats
    return {
        "metrics": {name: value.to_json() for name, value in one.intervals.items()},
        "headline": task.scorer.headline,
        "num_samples": stats.num_out,
        "num_rejected": stats.num_rejected,
        "rejected": dict(stats.dropped),
        **_unfinished(one.scored),
        "version": task.version,
        "split": task.split,
        "answer_type": task.answer_type,
        "scorer": task.scorer.name,
        "scorer_version": task.scorer.version,
        "question": task.question,
        "prompt": task.prompt,
        "seconds": round(stats.seconds, 3),
        "num_tokens": stats.tokens,
        **_standing(one),
    }


def _standing(one: Measured) -> dict[str, Any]:
    """Whose rule the figure follows, whether it is what that gives, and why not; nothing for our scorers."""
    scorer, stats = one.task.scorer, one.stats
    if not scorer.rule:
        return {}
    doubts = [doubt for doubt in (scorer.deviation, one.doubt) if doubt]
    if stats.num_rejected:
        reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
        doubts.append(f"only {stats.num_out} of {stats.num_in} samples are scored ({reasons})")
    if one.num_unfinished > MAX_UNFINISHED * len(one.scored):
        counts = _unfinished(one.scored)
        doubts.append(
            f"{one.num_unfinished} of {len(one.scored)} answers are no whole ones, more than "
            f"{MAX_UNFINISHED:.0%} ({counts['num_empty']} empty, {counts['num_cut']} cut off)"
        )
    return {"rule": scorer.rule, "official": not doubts, "doubts": doubts}


def _unfinished(scored: Sequence[Scored]) -> dict[str, int]:
    """How many answers are empty, cut off, and had reasoning that was left out; one may be in several."""
    return {
        "num_empty": sum(not one.text.strip() for one in scored),
        "num_cut": sum(one.is_cut for one in scored),
        "num_with_reasoning": sum(one.has_reasoning for one in scored),
    }


def reasoning_of(answer: Answer) -> dict[str, str]:
    """What a prediction's decision says of reasoning; nothing where there was none."""
    if not answer.has_reasoning:
        return {}
    return {"reasoning": CUT_OFF if answer.is_cut else LEFT_OUT}
