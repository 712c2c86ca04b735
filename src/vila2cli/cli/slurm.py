"""`vila2 slurm`: a run as jobs of a cluster."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import Out, RecipeFile, Sets
from vila2cli.cli.paths import open_recipe
from vila2cli.cli.run import recipe_flags
from vila2cli.cli.terminal import json_output, say, show
from vila2cli.run.stages import plan_stages
from vila2cli.settings.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="Run the rounds as Slurm jobs that wait for each other.")

Target = Annotated[
    str | None,
    typer.Argument(help="roundN, specialists, controls or final-CONTROL; the recipe's last round by default."),
]


@app.command("emit")
def emit(
    target: Target = None,
    out: Out = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Write the sbatch scripts of all stages, and submit nothing.

    \b
    vila2 slurm emit round3 --recipe recipes/vila2-8b.toml --out jobs
    """
    from vila2cli.run.slurm.submit import write_scripts

    settings = open_recipe(recipe, sets)
    stages = plan_stages(settings, *([target] if target else []))
    flags = recipe_flags(settings, sets)
    show(write_scripts(stages, settings.slurm, run_dir=settings.run_dir, flags=flags, folder=out))


@app.command("submit")
def submit(
    target: Target = None,
    edited: Annotated[
        bool, typer.Option("--edited", help="Submit the scripts as they lie in RUN_DIR/slurm.")
    ] = False,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Submit what is neither complete nor queued, in order.

    \b
    vila2 slurm submit round3 --recipe recipes/vila2-8b.toml
    """
    from vila2cli.run.slurm.submit import remember, write_scripts
    from vila2cli.run.slurm.submit import submit as run_submit

    settings = open_recipe(recipe, sets)
    stages = plan_stages(settings, *([target] if target else []))
    folder, flags = settings.run_dir / "slurm", recipe_flags(settings, sets)
    if not edited:
        write_scripts(stages, settings.slurm, run_dir=settings.run_dir, flags=flags)
    remember(folder, target or f"round{settings.rounds}", sets or ())
    show_stages(run_submit(stages, settings.slurm, folder))


@app.command("status")
def status(recipe: RecipeFile = None, sets: Sets = None) -> None:
    """Say which stages are complete, in the queue, or have failed.

    \b
    vila2 slurm status --recipe recipes/vila2-8b.toml
    """
    from vila2cli.run.slurm.status import states
    from vila2cli.run.slurm.submit import StageStates

    settings, target = _submitted(recipe, sets)
    show(StageStates(dict(states(plan_stages(settings, target), settings.run_dir / "slurm"))))


@app.command("retry")
def retry(recipe: RecipeFile = None, sets: Sets = None) -> None:
    """Submit again what is missing, with the scripts as they lie.

    \b
    vila2 slurm retry --recipe recipes/vila2-8b.toml
    """
    from vila2cli.run.slurm.submit import submit as run_submit

    settings, target = _submitted(recipe, sets)
    show_stages(run_submit(plan_stages(settings, target), settings.slurm, settings.run_dir / "slurm"))


def show_stages(done: Iterable[tuple[str, str]]) -> None:
    """Print what was done with each stage as it is done, and all of it as a document."""
    from vila2cli.run.slurm.submit import StageStates

    found = {}
    for name, what in done:
        say(f"{name}: {what}")
        found[name] = what
    json_output.add(StageStates(found))


def _submitted(recipe: Path | None, sets: Sequence[str] | None) -> tuple[Recipe, str]:
    """The recipe with the settings that the run was submitted with, and how far it was to go."""
    from vila2cli.run.slurm.submit import remembered

    settings = open_recipe(recipe, sets)
    note = remembered(settings.run_dir / "slurm")
    return open_recipe(recipe, [*note["sets"], *(sets or ())]), note["target"]
