"""Leaving a training to a process for each GPU of this machine, which run the same command line."""

from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

from vila2cli.cli.documents import Stored
from vila2cli.cli.terminal import json_output
from vila2cli.settings.recipe import Recipe

command_line: ContextVar[Sequence[str]] = ContextVar("command_line")
"""The words after `vila2`."""


def trained_apart(recipe: Recipe, out: Path) -> bool:
    """Whether processes that were started here have trained `out`; False where this one is to do it.

    Raises what the first of them that failed has raised.
    """
    from vila2cli.train.starting import num_processes, start

    count = num_processes(recipe.trainer)
    if count == 1:
        return False
    document = start(count, command_line.get(), out, is_json=json_output.is_on)
    if document is not None:
        json_output.add(Stored(document))
    return True
