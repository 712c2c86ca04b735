"""What a command says at its end: that the stage is done, its figures, or how far it is."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from vila2cli.cli.paths import Plan
from vila2cli.cli.terminal import say, show
from vila2cli.run.child import LINES_OF
from vila2cli.run.results import StageResult, as_json, summary_lines


def print_summary(
    plan: Plan, summary: StageResult | Mapping[str, Any], lines: Iterable[str] | None = None
) -> None:
    """Print that a stage is done, and its summary; `lines` where those of the summary do not do."""
    if plan.speaks:
        say(f"{plan.title}: done ({plan.out})")
        if lines is None:
            lines = summary.lines() if isinstance(summary, StageResult) else summary_lines(summary)
        show(summary, [f"  {line}" for line in lines])


def next_line(plan: Plan, command: str, *, alone: str) -> list[str]:
    """The command that comes next, with the round and the recipe of this one or else as it is `alone`.

    There is none for a stage of `vila2 run`, which runs the next one itself.
    """
    if LINES_OF in os.environ:
        return []
    if plan.round is None:
        return [f"next: vila2 {command} {alone}"]
    recipe = f" --recipe {plan.recipe.path}" if plan.recipe.path is not None else ""
    return [f"next: vila2 {command} --round {plan.round}{recipe}"]


def print_progress(plan: Plan, summary: StageResult | Mapping[str, Any], done: str, then: str) -> None:
    """Print how many shards are done, and what happens `then`, when all are."""
    values = as_json(summary)
    num_done, num_shards = values["num_shards_done"], values["num_shards"]
    show(summary, [f"{plan.title}: {num_done} of {num_shards} shards are {done} ({plan.out}); {then}"])
