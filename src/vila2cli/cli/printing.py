"""What a command says at its end: that the stage is done, its figures, or how far it is."""

from collections.abc import Iterable

from vila2cli.cli.paths import Plan
from vila2cli.cli.terminal import say, show
from vila2cli.run.results import StageResult
from vila2cli.run.splitting import Unfinished


def print_summary(plan: Plan, summary: StageResult, lines: Iterable[str] | None = None) -> None:
    """Print that a stage is done, and its summary; `lines` where those of the summary do not do."""
    if plan.speaks:
        say(f"{plan.title}: done ({plan.out})")
        show(summary, [f"  {line}" for line in (summary.lines() if lines is None else lines)])


def print_progress(plan: Plan, progress: Unfinished, done: str, then: str) -> None:
    """Print how many shards are done, and what happens `then`, when all are."""
    how_far = f"{progress.num_shards_done} of {progress.num_shards} shards are {done}"
    show(progress, [f"{plan.title}: {how_far} ({plan.out}); {then}"])
