"""`vila2`: one command per stage. Commands load the recipe, call the stage and print; no logic, no torch."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from vila2cli import __version__
from vila2cli.cli import (
    build,
    convert,
    eval,
    export,
    judge,
    lineage,
    plan,
    recaption,
    recipe,
    report,
    run,
    shards,
    slurm,
    soup,
    specialize,
    train,
    world,
)
from vila2cli.cli import filter as filtering
from vila2cli.cli.documents import Failure
from vila2cli.cli.options import spread
from vila2cli.cli.processes import command_line
from vila2cli.cli.terminal import complain, json_output, say, show_all_characters, warning_in_one_line
from vila2cli.errors import DataError, Interrupted, Vila2Error
from vila2cli.run.child import COLLECT_AFTER, leave_error, repeat_error
from vila2cli.run.stopping import raising_on_signals

_NAMES = (
    "EACCES EBUSY EDQUOT EEXIST EFBIG EINVAL EIO EISDIR ELOOP EMFILE ENAMETOOLONG ENOENT ENOLCK "
    "ENOMEM ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENXIO EPERM EROFS ESTALE ETXTBSY EXDEV"
)
SURROUNDINGS = frozenset(getattr(errno, name) for name in _NAMES.split())
"""What the machine says of a disk, a quota or a path; any other OSError is a defect of ours."""
CLOSED = 128 + signal.SIGPIPE
"""The exit code where nobody reads on what is printed, as behind `| head`: what shells say of all programs."""


_UsageError: Any = typer.BadParameter.__mro__[1]  # of click, which typer has within it or beside it


class _Closed(Exception):
    """Nobody reads on what is printed; typer would end with the exit code of a defect."""


@contextmanager
def _mistakes_in_json() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        json_output.add(Failure(error.format_message(), error.exit_code))
        raise
    except BrokenPipeError:
        raise _Closed from None


class Shell(TyperGroup):
    """The command group; Ctrl-C is an interruption like any other signal, not an abort.

    A mistake in the words typed goes into the document of `--json`, too.
    """

    def make_context(self, *args: Any, **more: Any) -> Any:
        with _mistakes_in_json():
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _mistakes_in_json():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("stopped by SIGINT; run the same command again to go on") from None


app = typer.Typer(cls=Shell, no_args_is_help=True, rich_markup_mode=None)
app.command("run")(run.run)
app.command("recaption")(recaption.recaption)
app.command("filter")(filtering.filter_command)
app.command("pretrain")(train.pretrain)
app.command("sft")(train.sft)
app.command("specialize")(specialize.specialize)
app.add_typer(eval.app, name="eval")
app.add_typer(judge.app, name="judge")
app.command("soup")(soup.soup)
app.command("lineage")(lineage.lineage)
app.command("report")(report.report)
app.command("runs")(report.runs)
shards.app.command("convert")(convert.convert)
shards.app.command("export")(export.export)
shards.app.command("build")(build.build)
app.command("check")(plan.check)
app.command("plan")(plan.plan)
app.add_typer(shards.app, name="shards")
app.add_typer(world.app, name="world")
app.add_typer(slurm.app, name="slurm")
app.add_typer(recipe.app, name="recipe")


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """A vision-language model recaptions its own pretraining images and is retrained on them.

    \b
    vila2 world
    vila2 recaption --model ckpt/r2 --shards data/*.tar
    """
    if version:
        say(f"vila2 {__version__}")
        raise typer.Exit


def _begin_json(value: bool) -> None:
    if value and not json_output.is_on:
        json_output.begin()


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_begin_json,
        expose_value=False,
        help="Print one JSON document on stdout, and all else on stderr.",
    ),
]
_option = typer.Typer(add_completion=False)


@_option.command()
def _with_json(json: Json = False) -> None: ...


def program() -> TyperGroup:
    """The program with every command, each of which takes `--json`."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for command in _commands(group):
        command.params += typer.main.get_command(_option).params
    return group


def _commands(group: TyperGroup) -> Iterator[TyperCommand | TyperGroup]:
    """Every command below a group, and the groups that do something by themselves."""
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            yield from _commands(command)
        if not isinstance(command, TyperGroup) or command.invoke_without_command:
            yield command  # type: ignore[misc]


def main(argv: list[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit code.

    Errors meant for the person at the terminal are one line on stderr; anything else is a
    traceback, as it is a defect.
    """
    gc.set_threshold(*COLLECT_AFTER)
    show_all_characters()
    words = spread(sys.argv[1:] if argv is None else argv)
    command_line.set(words)
    with json_output:
        _begin_json("--json" in words)  # words that cannot be parsed call no callback
        try:
            return _run(words)
        except Vila2Error as error:
            return _fail(str(error), error.exit_code, type(error).__name__)
        except (_Closed, BrokenPipeError):
            return _end_unread()
        except OSError as error:
            if error.errno not in SURROUNDINGS:
                raise
            where = f"{error.filename}: " if error.filename else ""
            return _fail(f"{where}{error.strerror}", DataError.exit_code)


def _run(words: list[str]) -> int:
    try:
        with raising_on_signals(), warning_in_one_line():
            program()(words, prog_name="vila2")
    except SystemExit as end:
        json_output.write()
        return end.code if isinstance(end.code, int) else 0
    return 0


def _end_unread() -> int:
    """Throw away what is still to be printed, of which Python would complain when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(null, stream.fileno())
    os.close(null)
    return CLOSED


def _fail(message: str, exit_code: int, kind: str = DataError.__name__) -> int:
    repeat_error(message)
    if not leave_error(message, kind=kind):
        complain(message)
    with suppress(OSError):  # which may be what failed
        json_output.write(Failure(message, exit_code))
    return exit_code
