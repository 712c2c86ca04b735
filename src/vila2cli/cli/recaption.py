"""`vila2 recaption`: describe images, or rewrite what is said about them, or say what that will cost."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import typer

from vila2cli.cli.options import Base, DryRun, Model, Out, RecipeFile, Round, Sets, Shards, WorkerText
from vila2cli.cli.paths import Paths, Plan, open_recipe
from vila2cli.cli.printing import print_summary
from vila2cli.cli.ready import ready
from vila2cli.cli.shards import merge_layer
from vila2cli.cli.terminal import say, show
from vila2cli.errors import RecipeError
from vila2cli.run.folder import parse_worker


def recaption(
    shards: Shards = None,
    model: Model = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    base: Base = None,
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite", help="Merge alt-text and recaption of a layer with a language model."),
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Time the first 64 images, print the cost of all, write nothing.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Also write self-contained tars with image and joined text.")
    ] = False,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Caption images with a model, as a layer over the shards.

    \b
    vila2 recaption --model ckpt/r2 --shards data/*.tar
    vila2 recaption --model ckpt/r2 --shards data/*.tar --estimate
    vila2 recaption --rewrite --model ckpt/llm --shards r2
    vila2 recaption --recipe recipes/world.toml --round 1
    """
    from vila2cli.stages.recaption import check_settings

    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round)
    if paths.round == 0 or isinstance(paths.round, str):
        raise RecipeError(f"--round {paths.round}: recaptioning starts at round 1, with round 0's model")
    stage = "rewrite" if rewrite else "recaption"
    last = paths.folder.stage("sft", paths.round - 1) if isinstance(paths.round, int) else None
    chosen_model = paths.model(model, last)
    recaptioned = paths.round is not None and rewrite
    found = [str(paths.stage("recaption"))] if recaptioned else settings.data.pretrain
    specs = paths.shards(shards, found, "data.pretrain")
    plan = paths.plan(
        stage, (stage, "prompts"), out, model=chosen_model, shards=specs, base=base, worker=parse_worker(worker)
    )
    check_settings(settings, rewrite=rewrite)
    if estimate and not dry_run:
        _estimate(plan, rewrite=rewrite)
    else:
        _run(plan, rewrite=rewrite, merge=merge, dry_run=dry_run)


def _estimate(plan: Plan, *, rewrite: bool) -> None:
    from vila2cli.stages.recaption import estimate

    costs = estimate(
        plan.recipe,
        shards=list(plan.shards),
        model=plan.model or "",
        round=plan.round_number,
        base=plan.base,
        rewrite=rewrite,
    )
    say(f"{plan.title}: estimate, nothing is written")
    show(costs, [f"  {line}" for line in costs.lines()])


def _inputs(plan: Plan, *, rewrite: bool) -> Mapping[str, Any]:
    """What the stage would say that its layer was made from."""
    from vila2cli.stages.recaption import to_job

    model = plan.model or ""
    return to_job(plan.recipe, plan.shards, model, plan.round_number, plan.base, rewrite=rewrite).inputs


def _run(plan: Plan, *, rewrite: bool, merge: bool, dry_run: bool) -> None:
    if merge and plan.worker.count > 1:
        raise RecipeError(f"--merge joins a whole layer: run vila2 shards merge {plan.out} after all workers")
    if not ready(plan, dry_run=dry_run, redo=merge, inputs=partial(_inputs, plan, rewrite=rewrite)):
        return
    from vila2cli.stages.recaption import recaption

    summary = recaption(
        plan.recipe,
        shards=list(plan.shards),
        model=plan.model or "",
        out=plan.out,
        round=plan.round_number,
        worker=plan.worker,
        base=plan.base,
        rewrite=rewrite,
    )
    print_summary(plan, summary)
    if merge:
        captions = ("rewrite",) if rewrite else ("original", "recaption")
        merge_layer(plan.out, captions, shards=plan.shards, base=plan.base)
