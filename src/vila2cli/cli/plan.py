"""`vila2 plan` and `vila2 check`: what a run will take, and whether it can run at all."""

from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import Model, RecipeFile, Sets
from vila2cli.cli.paths import open_recipe
from vila2cli.cli.terminal import say, show
from vila2cli.errors import RecipeError, Vila2Error

Rates = Annotated[
    Path | None,
    typer.Option("--rates", metavar="RUN_DIR", help="Run whose speed counts; the recipe's own by default."),
]
Devices = Annotated[
    int, typer.Option("--devices", min=1, help="GPUs (or cores) at work together, for wall-clock hours.")
]


def plan(
    target: Annotated[str | None, typer.Argument(help="roundN, or specialists (the default).")] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Pretraining images; those of the recipe by default.")
    ] = None,
    counts: Annotated[
        list[str] | None,
        typer.Option(
            "--count",
            metavar="NAME=NUMBER",
            help="Samples of other data, where it is not there to be counted: interleaved, sft, eval or a "
            "specialist's name; may be repeated.",
        ),
    ] = None,
    devices: Devices = 1,
    rates: Rates = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Say stage by stage what a run will take, in hours and dollars.

    \b
    vila2 plan --recipe recipes/vila2-8b.toml --images 25000000 --count sft=1800000 --devices 128
    vila2 plan round3 --images 100000 --devices 2
    """
    sizes = dict(_parse_count(text) for text in counts or ())
    if images is not None:
        sizes["pretrain"] = images
    from vila2cli.stages.plan import plan as run_stage

    found = run_stage(open_recipe(recipe, sets), target=target, sizes=sizes, rates=rates)
    show(found, found.lines(devices))


def check(
    path: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="The recipe; or give --recipe.")] = None,
    model: Model = None,
    devices: Devices = 1,
    rates: Rates = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Look at all that a run will need, and its cost; needs no GPU.

    With --model a checkpoint is looked at instead: whether it can be asked, and on which GPUs.

    \b
    vila2 check recipes/vila2-8b.toml
    vila2 check --model ckpt/r2
    VILA2_PLAN_GPUS=8x80 vila2 check --model ckpt/r2
    """
    if path is not None and recipe is not None and path != recipe:
        raise RecipeError(f"two recipes were given, {path} and {recipe}; give one")
    settings = open_recipe(path or recipe, sets)
    from vila2cli.run.forecast import Forecasts, count_data
    from vila2cli.stages.check import Checked, check_model, check_recipe
    from vila2cli.stages.plan import plan as run_stage

    say(f"ok    recipe: {settings.path or 'none, settings are the defaults'}")
    findings = []
    looked = check_recipe(settings, count_data(settings)) if model is None else check_model(settings, model)
    for finding in looked:
        say(finding.line())
        findings.append(finding)
    found = run_stage(settings, rates=rates) if model is None else Forecasts(())
    checked = Checked(recipe=settings.path, checks=findings, stages=found.stages)
    show(checked, [f"      {line}" for line in found.lines(devices)])
    if failed := [finding for finding in findings if finding.error]:
        error = failed[0].error or Vila2Error
        names = ", ".join(finding.what for finding in failed)
        raise error(f"{len(failed)} of the checks failed: {names}")


def _parse_count(text: str) -> tuple[str, int]:
    """Read `sft=1800000`; raises RecipeError."""
    name, _, number = text.partition("=")
    try:
        count = int(number)
    except ValueError:
        count = -1
    if not name or count < 0:
        raise RecipeError(f"--count {text}: give a name and a number of samples, like sft=1800000")
    return name, count
