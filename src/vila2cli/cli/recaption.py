"""`vila2 recaption`: describe images, or rewrite what is said about them, or say what that will cost."""

from collections.abc import Mapping
from functools import partial
from shlex import quote
from typing import Annotated, Any

import typer

from vila2cli.cli.options import Base, DryRun, Limit, Model, Out, RecipeFile, Round, Sets, Shards, WorkerText
from vila2cli.cli.paths import Paths, Plan, open_recipe
from vila2cli.cli.printing import print_summary
from vila2cli.cli.ready import ready
from vila2cli.cli.shards import merge_layer
from vila2cli.cli.terminal import say, show
from vila2cli.errors import RecipeError
from vila2cli.run.workers import parse_worker
from vila2cli.settings.layers import check_layer_name
from vila2cli.settings.recipe import Recipe

Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="Caption layer to write, as [captions.NAME] says; repeated, all in one pass. [recaption]",
    ),
]


def recaption(
    shards: Shards = None,
    model: Model = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    base: Base = None,
    limit: Limit = None,
    layer: Layers = None,
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

    Several --layer are written in one pass over the images; --out then has a folder for each.

    \b
    vila2 recaption --model ckpt/r2 --shards data/*.tar
    vila2 recaption --model ckpt/r2 --shards data/*.tar --estimate
    vila2 recaption --model ckpt/r2 --shards data/*.tar --layer recaption --layer short
    vila2 recaption --rewrite --model ckpt/llm --shards r2
    vila2 recaption --recipe world --round 1
    """
    from vila2cli.stages.recaption import check_settings

    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round, limit)
    if paths.round == 0 or isinstance(paths.round, str):
        raise RecipeError(f"--round {paths.round}: recaptioning starts at round 1, with round 0's model")
    layers = _layers(settings, layer, rewrite=rewrite)
    last = paths.folder.stage("sft", paths.round - 1) if isinstance(paths.round, int) else None
    of_recipe = settings.rewrite.model if rewrite and model is None else ""
    asked = settings.rewrite if rewrite else settings.recaption
    chosen = paths.model(model or of_recipe or None, last, asked.engine)
    if of_recipe:
        paths.origins["model"] = "recipe"
    found = [str(paths.stage("recaption"))] if rewrite and paths.round is not None else settings.data.pretrain
    specs = paths.shards(shards, found, "data.pretrain")
    given: dict[str, Any] = {"model": chosen, "shards": specs, "base": base, "worker": parse_worker(worker)}
    if rewrite:
        plans = {"rewrite": paths.plan("rewrite", ("rewrite", "prompts"), out, **given)}
    else:
        own = {name: out / name if out and len(layers) > 1 else out for name in layers}
        plans = {name: paths.plan_of_captions(name, folder, **given) for name, folder in own.items()}
    check_settings(settings, rewrite=rewrite, layers=layers)
    if estimate and not dry_run:
        _estimate(plans, rewrite=rewrite)
    else:
        _run(plans, rewrite=rewrite, merge=merge, dry_run=dry_run)


def _layers(recipe: Recipe, given: list[str] | None, *, rewrite: bool) -> list[str]:
    """The caption layers asked for, each once; raises RecipeError for a name that none can have."""
    if rewrite and given:
        raise RecipeError(f"--layer {given[0]}: --rewrite writes the layer rewrite; leave one of the two out")
    layers = list(dict.fromkeys(given or ["recaption"]))
    for name in layers:
        if name in recipe.specialists:
            raise RecipeError(f"--layer {name}: it is the name of a specialist, whose answers are a layer")
        try:
            check_layer_name(name)
        except ValueError as error:
            raise RecipeError(f"--layer {name}: {error}") from None
    return layers


def _estimate(plans: Mapping[str, Plan], *, rewrite: bool) -> None:
    from vila2cli.stages.recaption import estimate

    plan = next(iter(plans.values()))
    if plan.limit is not None:
        raise RecipeError("--estimate reckons with all samples and writes none; leave out --limit")
    costs = estimate(
        plan.recipe,
        shards=list(plan.shards),
        model=plan.model or "",
        round=plan.round_number,
        base=plan.base,
        rewrite=rewrite,
        layers=list(plans),
    )
    say(f"{', '.join(one.title for one in plans.values())}: estimate, nothing is written")
    show(costs, [f"  {line}" for line in costs.lines()])


def _inputs(plans: Mapping[str, Plan], layer: str, *, rewrite: bool) -> Mapping[str, Any]:
    """What the stage would say that a layer was made from."""
    from vila2cli.shards import open_source
    from vila2cli.stages.recaption import to_job, to_jobs

    plan = plans[layer]
    source = open_source(plan.shards, base=plan.base, limit=plan.limit)
    given = (source, plan.model or "", plan.round_number)
    if rewrite:
        return to_job(plan.recipe, *given, rewrite=True).inputs
    jobs = to_jobs(plan.recipe, list(plans), *given)
    return next(job.inputs for job in jobs if job.layer == layer)


def _run(plans: Mapping[str, Plan], *, rewrite: bool, merge: bool, dry_run: bool) -> None:
    plan = next(iter(plans.values()))
    if merge and plan.worker.count > 1:
        raise RecipeError(
            f"--merge joins a whole layer: run vila2 shards merge {quote(str(plan.out))} after all workers"
        )
    due = [
        ready(one, dry_run=dry_run, redo=merge, inputs=partial(_inputs, plans, name, rewrite=rewrite))
        for name, one in plans.items()
    ]
    if not any(due):
        return
    from vila2cli.stages.recaption import recaption, write_captions

    shared: dict[str, Any] = {
        "shards": list(plan.shards),
        "model": plan.model or "",
        "round": plan.round_number,
        "worker": plan.worker,
        "base": plan.base,
        "limit": plan.limit,
    }
    if rewrite:
        summaries = [recaption(plan.recipe, out=plan.out, rewrite=True, **shared)]
    else:
        outs = {name: one.out for name, one in plans.items()}
        summaries = write_captions(plan.recipe, outs, **shared)
    for (name, one), summary in zip(plans.items(), summaries, strict=True):
        print_summary(one, summary)
        if merge:
            captions = ("rewrite",) if rewrite else ("original", name)
            merge_layer(one.out, captions, shards=one.shards, base=one.base)
