"""What commands say: all text reaches the terminal through here, and none of it is obeyed there."""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from vila2cli.errors import DataWarning
from vila2cli.text.printable import printable, printable_line


def say(*lines: object, is_whole: bool = False) -> None:
    """Print lines, each of which stays one; what was asked for, such as a caption, `is_whole` however long."""
    show = printable if is_whole else printable_line
    for line in map(str, lines):
        text = line.lstrip("\t")  # what stands before it is harmless, and means something to make
        typer.echo(line[: len(line) - len(text)] + show(text))  # noqa: TID251


def say_coloured(text: str) -> None:
    """Print text that colours itself, and has made harmless what is untrusted in it."""
    typer.echo(text)  # noqa: TID251


def complain(text: str, colour: str = typer.colors.RED) -> None:
    """Print an error or a warning on stderr; lines after the first are set in, so that none passes for one."""
    first, *others = map(printable_line, text.split("\n"))
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in others)]
    typer.secho("vila2: " + "\n".join(lines), fg=colour, err=True)  # noqa: TID251


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
