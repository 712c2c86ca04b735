"""What commands say: all text reaches the terminal through here, and none of it is obeyed there."""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from vila2cli.errors import DataWarning
from vila2cli.text.printable import printable, shortened

MAX_LINE = 4_000
"""Characters of one line, a page or so of a terminal; what was asked for, such as a caption, is whole."""


def say(*lines: object, max_chars: int | None = MAX_LINE) -> None:
    """Print lines, each of which stays one."""
    for line in lines:
        typer.echo(_shown(str(line), max_chars))  # noqa: TID251


def say_coloured(text: str) -> None:
    """Print text that colours itself, and has made harmless what is untrusted in it."""
    typer.echo(text)  # noqa: TID251


def complain(text: str, colour: str = typer.colors.RED) -> None:
    """Print an error or a warning on stderr; lines after the first are set in, so that none passes for one."""
    first, *others = (_shown(line, MAX_LINE) for line in text.split("\n"))
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in others)]
    typer.secho("vila2: " + "\n".join(lines), fg=colour, err=True)  # noqa: TID251


def _shown(line: str, max_chars: int | None) -> str:
    text = printable(line)
    return text if max_chars is None else shortened(text, max_chars)


def show_all_characters() -> None:
    """Have stdout and stderr write an escape for what their encoding lacks, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def warning_in_one_line() -> Iterator[None]:
    """Show what is suspicious about input files as plain lines, each time it comes up."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        show = warnings.showwarning

        def show_data_warning(
            message: Warning | str, category: type[Warning], *where: Any, **more: Any
        ) -> None:
            if issubclass(category, DataWarning):
                complain(printable(str(message)), typer.colors.YELLOW)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = show_data_warning
        yield
