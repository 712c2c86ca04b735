"""Seeing what happened: the report of a run, cards of what it made, and a list of runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import RecipeFile, Sets
from vila2cli.cli.paths import open_recipe
from vila2cli.cli.terminal import json_output, show
from vila2cli.settings.recipe import load_recipe

WIDE = 400
"""Columns of a list that goes into a file or another program."""


def report(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder, of the recipe by default; with --card a checkpoint, layer or merged shards, too."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Page to write, RUN_DIR/report.html.")] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write cards (README.md) of checkpoints and layers instead.")
    ] = False,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Write a run folder up as one HTML page, or as cards.

    A run tells its own recipe, which its stages stored; of the one given here prices count.

    \b
    vila2 report runs/world
    vila2 report --card runs/world/final/sft
    """
    from vila2cli.stages import report as stage

    # Only to find the run is a recipe looked for that nobody named.
    folder = run_dir or open_recipe(recipe, sets).run_dir
    settings = load_recipe(recipe, sets or ())
    if card:
        show(stage.cards(settings, folder=folder, out=out))
    else:
        show(stage.report(settings, run_dir=folder, out=out))


def runs(
    runs_dir: Annotated[
        Path | None, typer.Argument(help="Folder of runs, or one run; the recipe's runs_dir by default.")
    ] = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """List runs: how far each stage is, and the headline figures.

    Of one run it also says whether another round helps, as its report does.

    \b
    vila2 runs
    vila2 runs runs/world
    """
    from rich.console import Console

    from vila2cli.stages.report import runs as run_stage

    folder = runs_dir or Path(open_recipe(recipe, sets).runs_dir)
    found = run_stage(load_recipe(recipe, sets or ()), folder=folder)
    if json_output.add(found):
        return
    # Where it is no terminal, one line for each round, however long.
    width = None if sys.stdout.isatty() else WIDE
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for number, table in enumerate(found.runs):
        if number:
            console.print()
        console.print(table)
