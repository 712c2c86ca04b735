"""What a command says at its end: that the stage is done, its figures, or how far it is."""

import os
import shlex
from collections.abc import Iterable

from vila2cli.cli.paths import Plan
from vila2cli.cli.terminal import say, show
from vila2cli.run.child import IN_RUN
from vila2cli.run.results import StageResult
from vila2cli.run.splitting import Unfinished
from vila2cli.settings.recipe import name_of_recipe


def print_summary(plan: Plan, summary: StageResult, lines: Iterable[str] | None = None) -> None:
    """Print that a stage is done, and its summary; `lines` where those of the summary do not do."""
    if plan.speaks:
        say(f"{plan.title}: done ({plan.out})")
        show(summary, [f"  {line}" for line in (summary.lines() if lines is None else lines)])


def next_line(plan: Plan, command: str, *, alone: str) -> list[str]:
    """The command that comes next, with the round and the recipe of this one or else as it is `alone`.

    There is none for a stage of `vila2 run`, which runs the next one itself.
    """
    if IN_RUN in os.environ:
        return []
    if plan.round is None:
        return [f"next: vila2 {command} {alone}"]
    path = plan.recipe.path
    recipe = "" if path is None else f" --recipe {shlex.quote(name_of_recipe(path))}"
    return [f"next: vila2 {command} --round {plan.round}{recipe}"]


def print_progress(plan: Plan, progress: Unfinished, done: str, then: str) -> None:
    """Print how many shards are done, and what happens `then`, when all are."""
    how_far = f"{progress.num_shards_done} of {progress.num_shards} shards are {done}"
    show(progress, [f"{plan.title}: {how_far} ({plan.out}); {then}"])
