"""`vila2 shards`: look into shards and layers, check them, join them for other tools."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vila2cli.cli.options import Base, Model, Out, RecipeFile, Sets
from vila2cli.cli.paths import default_out, open_recipe
from vila2cli.cli.terminal import json_output, say, say_coloured, show
from vila2cli.errors import DataError, RecipeError
from vila2cli.run.cost import counted
from vila2cli.settings.recipe import Recipe
from vila2cli.settings.shares import checked_shares
from vila2cli.shards.places import looks_remote

if TYPE_CHECKING:
    from vila2cli.text.choose import Choice

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Specs = Annotated[
    list[str],
    typer.Argument(
        help="Tars, globs, {000..010} ranges, folders or layer folders, local or URLs; or 'pipe:COMMAND'.",
        show_default=False,
    ),
]
CAPTIONS = ("original", "recaption")
MAX_SHOWN_CHARS = 1000
"""Of one text, unless asked for in full."""


@app.callback()
def about() -> None:
    """Make, check, show, merge and export shards and layers."""


@app.command("check")
def check(
    shards: Specs,
    base: Base = None,
    fast: Annotated[bool, typer.Option("--fast", help="Decode no image, and compare no SHA-256.")] = False,
    num: Annotated[int, typer.Option("--num", help="Problems listed at most, 0 for all.")] = 20,
) -> None:
    """Read everything and list what is wrong; exit code 4 if any is.

    \b
    vila2 shards check data/*.tar
    """
    from vila2cli.shards import open_source
    from vila2cli.stages import shards as stage

    report = stage.check(open_source(shards, base=base), decode=not fast, digests=not fast)
    show(report, report.lines(num or None))
    if report.problems:
        counts = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
        raise DataError(f"{counted(len(report.problems), 'problem')}: {counts}")


@app.command("stats")
def stats(shards: Specs, base: Base = None) -> None:
    """Count samples, words of each caption, image sizes and bytes.

    \b
    vila2 shards stats data/*.tar runs/world/round1/recaption
    """
    from vila2cli.shards import open_source
    from vila2cli.stages import shards as stage

    show(stage.stats(open_source(shards, base=base)))


@app.command("show")
def show_samples(
    shards: Specs,
    base: Base = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Samples to print.")] = 3,
    start: Annotated[int, typer.Option("--start", min=0, help="Samples to pass over first.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten long texts.")] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Print them as training sees them: tokens, and which are trained.")
    ] = False,
    model: Model = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Print samples with all texts, or as training sees them.

    \b
    vila2 shards show runs/world/round1/recaption -n 5
    vila2 shards show data/sft/*.tar --tokens --model ckpt/r2
    """
    if tokens:
        _show_tokens(shards, base, num, start, model, open_recipe(recipe, sets))
        return
    from vila2cli.shards import open_source
    from vila2cli.shards.finding import one_inside
    from vila2cli.stages import shards as stage

    shards = [one_inside(spec) for spec in shards]
    max_chars = None if full else MAX_SHOWN_CHARS
    show(stage.show(open_source(shards, base=base), num, start=start, max_chars=max_chars), is_whole=True)


def _show_tokens(
    shards: list[str], base: str | None, num: int, start: int, model: str | None, settings: Recipe
) -> None:
    from vila2cli.shards import open_source
    from vila2cli.stages.tokens import chat_of, show_tokens

    source = open_source(shards, base=base)
    is_terminal = sys.stdout.isatty()
    texts = show_tokens(source, chat_of(settings, model), settings, num, start=start, colour=is_terminal)
    if not json_output.add(texts):
        say_coloured("\n".join(texts.lines()))


@app.command("merge")
def merge(
    shards: Specs,
    base: Base = None,
    out: Out = None,
    captions: Annotated[
        list[str] | None,
        typer.Option("--captions", help="Captions joined in this order: original, or a layer's name."),
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option(
            "--choose",
            metavar="NAME=SHARE,...",
            help="One caption per sample, drawn by shares: original=0.2,recaption=0.8.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", min=0, help="Seed of the draw of --choose; with the recipe's it is that of its training."
        ),
    ] = 0,
) -> None:
    """Write shards of images and joined text, for other tools.

    \b
    vila2 shards merge runs/world/round1/recaption --captions original recaption --out merged
    vila2 shards merge runs/world/round1/recaption --choose original=0.2,recaption=0.8
    """
    from vila2cli.shards import open_source
    from vila2cli.shards.contents import contents_of
    from vila2cli.text.choose import Choice

    if choose is not None and captions:
        raise RecipeError("--choose draws one caption and --captions joins several; leave one of the two out")
    shares = None if choose is None else _shares(choose)
    option = "--captions" if shares is None else "--choose"
    held = contents_of(open_source(shards, base=base))
    held.check(list(shares or captions or ()), held.layers, option)
    folder = out or default_out("merged", None, shards[0])
    choice = None if shares is None else Choice(shares, seed)
    write_merged(shards, folder, tuple(captions or CAPTIONS), base, choice)


def _shares(text: str) -> dict[str, float]:
    """Read `NAME=SHARE,NAME=SHARE`; raises RecipeError for what is none."""
    found: dict[str, float] = {}
    try:
        for part in text.split(","):
            name, equals, share = part.partition("=")
            if not equals or not name.strip() or name.strip() in found:
                raise ValueError("write it as original=0.2,recaption=0.8, each source once")
            found[name.strip()] = float(share)
        return checked_shares(found)
    except ValueError as error:
        raise RecipeError(f"--choose {text[:80]}: {error}") from None


def merge_layer(
    layer_dir: Path,
    captions: tuple[str, ...] = CAPTIONS,
    *,
    shards: Sequence[str] = (),
    base: str | None = None,
) -> None:
    """Merge a finished caption layer with its images into `LAYER-merged`.

    Of the `shards` it lies over the remote ones are named again: no layer makes a command run, or holds the
    signature of a URL.
    """
    specs: list[str | Path] = [layer_dir, *(spec for spec in shards if looks_remote(spec))]
    write_merged(specs, layer_dir.with_name(f"{layer_dir.name}-merged"), captions, base)


def write_merged(
    specs: Sequence[str | Path],
    folder: Path,
    captions: tuple[str, ...],
    base: str | None,
    choice: "Choice | None" = None,
) -> None:
    """Join shards and layers into self-contained tars in a folder, and print what came of it."""
    from vila2cli.shards import open_source
    from vila2cli.stages.merge import merge as run_stage

    say(f"merge: writing {folder}")
    show(run_stage(open_source(specs, base=base), folder, captions=captions, choice=choice))
