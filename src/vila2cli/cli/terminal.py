"""What commands say: all text reaches the terminal through here, and none of it is obeyed there."""

import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Self, TextIO

import typer

from vila2cli.errors import DataWarning
from vila2cli.files import naming
from vila2cli.run.results import StageResult, plain
from vila2cli.text.printable import printable, printable_line

_STDOUT = Path("standard output")


class JsonOutput:
    """`--json`: stdout gets one document, and whatever else any code or child prints goes to stderr."""

    def __init__(self) -> None:
        self._stream: TextIO | None = None
        self._undo = ExitStack()
        self._values: list[StageResult] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # of a document that could not be written, as was said
            self._undo.close()
        self._stream = None
        self._values.clear()

    @property
    def is_on(self) -> bool:
        """Whether the command was given `--json`."""
        return self._stream is not None

    def begin(self) -> None:
        """From now on, until the block ends, print nothing but the document."""
        self._stream = sys.stdout
        if _is_of_the_process(sys.stdout):
            sys.stdout.flush()
            saved = os.dup(1)
            self._undo.callback(os.close, saved)
            self._undo.callback(os.dup2, saved, 1)
            self._stream = self._undo.enter_context(os.fdopen(os.dup(saved), "w", encoding="utf-8"))
            os.dup2(2, 1)
        self._undo.enter_context(redirect_stdout(sys.stderr))

    def add(self, value: StageResult) -> bool:
        """Put a value into the document; says whether there is one. Of several values it is a list."""
        if self._stream is not None:
            self._values.append(value)
        return self._stream is not None

    def write(self, otherwise: StageResult | None = None) -> None:
        """Write the document, of this value where none was put into it.

        NaN and infinity, which JSON lacks, become null.
        """
        if self._stream is None:
            return
        value: Any = self._values or otherwise
        if len(self._values) == 1:
            value = self._values[0]
        if value is not None:
            finite = json.loads(json.dumps(plain(value)), parse_constant=lambda name: None)
            with naming(_STDOUT):
                self._stream.write(json.dumps(finite, indent=1).replace("\x7f", "\\u007f") + "\n")
                self._stream.flush()


json_output = JsonOutput()


def _is_of_the_process(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):  # one that a test or a library has put there
        return False


def show(value: StageResult, lines: Iterable[object] | None = None, *, is_whole: bool = False) -> None:
    """Print what a command found: in the document of `--json`, else as `lines`, the value's own by default."""
    if not json_output.add(value):
        say(*(value.lines() if lines is None else lines), is_whole=is_whole)


def say(*lines: object, is_whole: bool = False) -> None:
    """Print lines, each of which stays one; what was asked for, such as a caption, `is_whole` however long."""
    show = printable if is_whole else printable_line
    for line in map(str, lines):
        text = line.lstrip("\t")  # what stands before it is harmless, and means something to make
        with naming(_STDOUT):
            typer.echo(line[: len(line) - len(text)] + show(text))  # noqa: TID251


def say_coloured(text: str) -> None:
    """Print text that colours itself, and has made harmless what is untrusted in it."""
    with naming(_STDOUT):
        typer.echo(text)  # noqa: TID251


def complain(text: str, colour: str = typer.colors.RED) -> None:
    """Print an error or a warning on stderr; lines after the first are set in, so that none passes for one."""
    first, *others = map(printable_line, text.split("\n"))
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in others)]
    with suppress(OSError):  # what cannot be told changes no exit code
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
