"""What metrics.json says of a task: metrics with intervals, counts, and whether the figure is official."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.evaluation.predictions import CUT_OFF, LEFT_OUT, Predictions, read_predictions
from vila2cli.score.caption import FACTS
from vila2cli.score.scorer import Account, Scored
from vila2cli.score.stats import Estimate, Interval, Support, interval_within, mean_of
from vila2cli.score.task import Task
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import ShardStats, folder_stats
from vila2cli.text.reasoning import Answer

MAX_UNFINISHED = 0.01
"""Share of answers that are empty or cut off above which a figure is not official."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A task's metrics with replicates, its predictions and their counts, and how it was read."""

    task: Task
    found: dict[str, Estimate]
    predictions: Predictions
    stats: ShardStats
    account: Account


def measure(recipe: Recipe, tasks: Sequence[Task], folder: Path) -> dict[str, Any]:
    """The scores of every task, from the prediction layers on disk."""
    measured = [_measure(recipe, task, folder / task.name) for task in tasks]
    asked = [one for one in measured if not one.task.is_caption and one.task.scorer.is_share]
    entries = {one.task.name: _entry(one) for one in measured}
    captions = [entries[task.name]["metrics"] for task in tasks if task.scorer.name == FACTS.name]
    return {
        "tasks": entries,
        "qa_mean": _mean(asked).to_json() if asked else None,
        "caption": captions[0] if captions else None,
        "num_rejected": sum(entry["num_rejected"] for entry in entries.values()),
        "seconds": round(sum(one.stats.seconds for one in measured), 3),
    }


def _mean(measured: Sequence[Measured]) -> Interval:
    """The unweighted mean of the headlines, on all of the tasks' images."""
    scored = [(one, one.task.scorer) for one in measured]
    mean = mean_of([one.found[scorer.headline] for one, scorer in scored])
    images = {image for one, scorer in scored for image in one.predictions.groups(scorer)}
    supports = [one.predictions.supports(scorer)[scorer.headline] for one, scorer in scored]
    return interval_within(mean, 1.0, Support.of_mean(supports, len(images)))


def _measure(recipe: Recipe, task: Task, layer_dir: Path) -> Measured:
    scorer = task.scorer
    predictions = read_predictions(layer_dir, scorer, box_frame=task.box_frame)
    found = predictions.estimate(scorer, num_bootstrap=recipe.eval.num_bootstrap, seed=recipe.seed)
    account = scorer.account(predictions.scored) if scorer.account else Account()
    num_unread = int(sum(one.row.get("unparsed", 0.0) for one in predictions.scored))
    if scorer.unread and num_unread:
        doubt = f"{num_unread} of {len(predictions.ids)} answers are of no known form, and {scorer.unread}"
        account = replace(account, doubts=(*account.doubts, doubt))
    return Measured(task, found, predictions, folder_stats(layer_dir), account)


def _entry(one: Measured) -> dict[str, Any]:
    task, stats = one.task, one.stats
    intervals = one.predictions.intervals(task.scorer, one.found)
    return {
        "metrics": {name: value.to_json() for name, value in intervals.items()},
        "headline": task.scorer.headline,
        "num_samples": stats.num_out,
        "num_rejected": stats.num_rejected,
        "rejected": dict(stats.dropped),
        "folder": str(task.folder),
        **_unfinished(one.predictions.scored),
        "version": task.version,
        "split": task.split,
        "answer_type": task.answer_type,
        "scorer": task.scorer.name,
        "scorer_version": task.scorer.version,
        "question": task.question,
        "prompt": task.prompt,
        **({"box_frame": task.box_frame} if task.box_frame else {}),
        "seconds": round(stats.seconds, 3),
        "num_tokens": one.predictions.num_tokens,
        **({"fewer_tiles": stats.num_fewer_tiles} if stats.num_fewer_tiles else {}),
        **({one.account.name: dict(one.account.figures)} if one.account.name else {}),
        **_standing(one),
    }


def _standing(one: Measured) -> dict[str, Any]:
    """Whose rule the figure follows, whether it is what that gives, and why not; nothing for our scorers."""
    scorer, stats, scored = one.task.scorer, one.stats, one.predictions.scored
    if not scorer.rule:
        return {}
    doubts = [doubt for doubt in (scorer.deviation, *one.account.doubts) if doubt]
    if stats.num_rejected:
        reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
        doubts.append(f"only {stats.num_out} of {stats.num_in} samples are scored ({reasons})")
    num_unfinished = sum(not answer.is_whole for answer in scored)
    if num_unfinished > MAX_UNFINISHED * len(scored):
        counts = _unfinished(scored)
        doubts.append(
            f"{num_unfinished} of {len(scored)} answers are no whole ones, more than "
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
