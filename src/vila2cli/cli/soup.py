"""`vila2 soup`: average checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vila2cli.cli.documents import DryRunOfCommand, Stored
from vila2cli.cli.options import DryRun, Out, RecipeFile, Sets
from vila2cli.cli.paths import Plan, default_out, open_recipe
from vila2cli.cli.printing import print_summary
from vila2cli.cli.ready import is_up_to_date
from vila2cli.cli.terminal import say, show
from vila2cli.errors import RecipeError
from vila2cli.files import read_json
from vila2cli.settings.recipe import Recipe, resolved, resolved_lines


def soup(
    models: Annotated[
        list[str] | None, typer.Option("--models", help="Two or more checkpoint folders or hub ids.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", help="Task folders to select on; soup.tasks by default.")
    ] = None,
    out: Out = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Average checkpoints that were trained from the same one.

    \b
    vila2 soup --models ckpt/a ckpt/b ckpt/c --tasks data/world/dev/* --out ckpt/soup
    vila2 soup --models ckpt/a ckpt/b --set soup.method=uniform --out ckpt/soup
    """
    settings = open_recipe(recipe, sets)
    if not models:
        raise RecipeError("no --models were given; name two or more checkpoints")
    plan = Plan(
        stage="soup",
        round=None,
        recipe=settings,
        sections=("soup", "eval"),
        kind="soup",
        out=out or default_out("soup", models[0], models[0]),
        deciding={} if dry_run else {"candidates": _identities(models)},
    )
    if dry_run:
        lines = resolved_lines(settings, plan.sections)
        show(
            DryRunOfCommand(
                dry_run=True, settings=resolved(settings, plan.sections), models=models, out_dir=plan.out
            ),
            [*lines, *(f"model: {model}" for model in models), f"writes: {plan.out}"],
        )
        return
    if is_up_to_date(plan):
        show(Stored(read_json(plan.marker)), [f"soup: complete, nothing to do ({plan.out})"])
        return
    say(f"soup: writing {plan.out}")
    from vila2cli.stages.soup import soup as run_stage

    summary = run_stage(
        settings,
        models=models,
        out=plan.out,
        evaluate=_evaluation(settings),
        tasks=tasks or (),
        say=lambda line: say(f"  {line}"),
    )
    print_summary(plan, summary)


def _identities(models: Sequence[str]) -> list[str]:
    from vila2cli.model.checkpoint import resolve_model, weights_sha256

    return [weights_sha256(resolve_model(model)) for model in models]


def _evaluation(settings: Recipe) -> Any:
    """How the soup has a checkpoint scored: by `vila2 eval` with the recipe's settings."""

    def evaluate(model: str, out: Path, tasks: Sequence[Path]) -> Mapping[str, Any]:
        from vila2cli.stages.evaluate import evaluate as run_stage

        return run_stage(settings, model=model, out=out, tasks=tasks).to_json()

    return evaluate
