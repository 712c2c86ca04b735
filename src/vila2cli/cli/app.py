"""`vila2`: one command per stage. Commands load the recipe, call the stage and print; no logic, no torch."""

import errno
import gc
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vila2cli import __version__
from vila2cli.cli import (
    build,
    eval,
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
from vila2cli.cli.options import spread
from vila2cli.cli.terminal import complain, say, show_all_characters, warning_in_one_line
from vila2cli.errors import DataError, Interrupted, Vila2Error
from vila2cli.run.stopping import raising_on_signals

SURROUNDINGS = frozenset(
    (
        errno.EACCES,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
        errno.EINVAL,
        errno.EIO,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOLCK,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOSYS,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ENXIO,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
        errno.ETXTBSY,
        errno.EXDEV,
    )
)
"""What the machine says of a disk, a quota or a path; any other OSError is a defect of ours."""

_COLLECT_AFTER = (50_000, 20, 20)
"""Objects after which cycles are looked for, and generations: samples come by thousands, and hold none."""


class Shell(TyperGroup):
    """The command group; Ctrl-C is an interruption like any other signal, not an abort."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("stopped by SIGINT; run the same command again to go on") from None


app = typer.Typer(cls=Shell, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
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


def main(argv: list[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit code.

    Errors meant for the person at the terminal are one line on stderr; anything else is a
    traceback, as it is a defect.
    """
    gc.set_threshold(*_COLLECT_AFTER)
    show_all_characters()
    words = spread(sys.argv[1:] if argv is None else argv)
    try:
        with raising_on_signals(), warning_in_one_line():
            typer.main.get_command(app)(words, prog_name="vila2")
    except Vila2Error as error:
        complain(str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror}")
        return DataError.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
