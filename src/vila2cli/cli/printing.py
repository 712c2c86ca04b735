"""What a command says at its end: that the stage is done, its figures, or how far it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from vila2cli.cli.paths import Plan, speaks
from vila2cli.cli.terminal import say


def print_summary(plan: Plan, summary: Mapping[str, Any] | Sequence[str]) -> None:
    """Print that a stage is done, and its summary: lines as they are, a mapping by `summary_lines`."""
    if not speaks(plan):
        return
    say(f"{plan.title}: done ({plan.out})")
    lines = summary_lines(summary) if isinstance(summary, Mapping) else [f"  {line}" for line in summary]
    for line in lines:
        say(line)


def print_progress(plan: Plan, summary: Mapping[str, Any], done: str, then: str) -> None:
    """Print how many shards are done, and what happens `then`, when all are."""
    num_done, num_shards = summary["num_shards_done"], summary["num_shards"]
    say(f"{plan.title}: {num_done} of {num_shards} shards are {done} ({plan.out}); {then}")


def summary_lines(values: Mapping[str, Any], indent: str = "  ") -> list[str]:
    """The figures of a summary as `name: value` lines; what is long or deeply nested stays in its file."""
    lines = []
    for name, value in values.items():
        rows = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(row, Mapping) for row in rows):
            texts = [_figures(row) for row in rows if 0 < len(row) <= 16]
        else:
            texts = [_figure(value)] if isinstance(value, str | int | float) else []
        lines += [f"{indent}{name}: {text}" for text in texts if text]
    return lines


def _figures(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {_figure(v)}" for k, v in row.items() if isinstance(v, str | int | float))


def _figure(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
