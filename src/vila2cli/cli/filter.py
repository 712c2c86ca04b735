"""`vila2 filter`: score captions and images, and keep what is worth training on."""

import json
import re
from collections.abc import Sequence
from typing import Annotated

import typer

from vila2cli.cli.options import Base, DryRun, Limit, Model, Out, RecipeFile, Round, Sets, Shards, WorkerText
from vila2cli.cli.paths import Paths, Plan, open_recipe
from vila2cli.cli.printing import print_progress, print_summary
from vila2cli.cli.ready import ready
from vila2cli.cli.terminal import say
from vila2cli.errors import RecipeError, RejectBudgetError
from vila2cli.run.splitting import Unfinished
from vila2cli.run.workers import parse_worker
from vila2cli.settings.recipe import Recipe

Tasks = Annotated[
    list[str] | None,
    typer.Option("--tasks", help="Evaluation tasks whose images are dropped; eval.tasks by default."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Keep what meets a condition on metadata or picture: 'min(width, height) >= 200'.",
    ),
]
Top = Annotated[
    str | None,
    typer.Option(
        "--top", metavar="FIELD:SHARE", help="Keep the highest by a field, of each shard, or :all of them."
    ),
]


def filter_command(
    shards: Shards = None,
    model: Model = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    base: Base = None,
    limit: Limit = None,
    tasks: Tasks = None,
    where: Where = None,
    top: Top = None,
    random: Annotated[
        bool, typer.Option("--random", help="Also write OUT-random: as many samples, drawn at random.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show kept samples, and dropped ones for every reason.")
    ] = False,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Say in a layer which captions and images to train on.

    \b
    vila2 filter --model ckpt/r2 --shards data/*.tar
    vila2 filter --model ckpt/r2 --shards r3 --set filter.keep_share=0.5 --random --explain
    vila2 filter --shards coyo --where 'width >= 200' 'aspect <= 3' --top clip_similarity_vitl14:0.2
    """
    settings = open_recipe(recipe, [*(sets or ()), *_chosen(where, top)])
    paths = Paths(settings, round, limit)
    plan = _plan(paths, shards=shards, model=model, out=out, worker=worker, base=base)
    if not ready(plan, dry_run=dry_run, redo=True):
        return
    if tasks:
        _check_looks_for_tasks(settings)
    from vila2cli.stages.filter import filter_samples

    try:
        summary = filter_samples(
            settings,
            shards=list(plan.shards),
            out=plan.out,
            model=plan.model,
            round=plan.round_number,
            worker=plan.worker,
            base=base,
            tasks=tasks or (),
            random=random,
            limit=limit,
        )
    except RejectBudgetError:  # everything is written, and the examples show why
        if explain:
            _explain(plan)
        raise
    if isinstance(summary, Unfinished):
        print_progress(plan, summary, "scored", _what_then(summary))
        return
    print_summary(plan, summary)
    if explain:
        _explain(plan)


def _chosen(where: Sequence[str] | None, top: str | None) -> list[str]:
    """The settings that --where and --top stand for; an inline table stands for itself."""
    chosen = [f"filter.where={json.dumps(list(where))}"] if where else []
    if top is None:
        return chosen
    match = re.fullmatch(r"(.*\S)\s*[:=]\s*([\d.]+)\s*(?::\s*(shard|all))?", top.strip())
    if top.strip().startswith("{"):
        return [*chosen, f"filter.top={top.strip()}"]
    if match is None:
        raise RecipeError(f"--top {top}: write it as FIELD:SHARE or FIELD:SHARE:all, as in clip_similarity:0.2")
    field, share, per = match.groups()
    chosen += [f"filter.top.field={json.dumps(field)}", f"filter.top.share={share}"]
    return [*chosen, *([f"filter.top.per={per}"] if per else [])]


def _check_looks_for_tasks(recipe: Recipe) -> None:
    if recipe.filter.by_metadata and recipe.filter.overlap == "none":
        raise RecipeError(
            "--tasks: evaluation images are not looked for where pictures are chosen by metadata, unless "
            "filter.overlap is set: add --set filter.overlap=perceptual"
        )


def _what_then(progress: Unfinished) -> str:
    if progress.done_by:
        return f"another worker is deciding what is kept: {progress.done_by}"
    return "what is kept is decided when all are"


def _explain(plan: Plan) -> None:
    from vila2cli.filtering.examples import explain
    from vila2cli.shards import open_source

    source = open_source(plan.shards, base=plan.base, limit=plan.limit)
    for line in explain(plan.out, source, plan.recipe.filter.captions):
        say(line)


def _plan(paths: Paths, *, shards: Shards, model: Model, out: Out, worker: WorkerText, base: Base) -> Plan:
    settings = paths.recipe
    if isinstance(paths.round, str):
        raise RecipeError("--round final: name the layer to filter with --shards and the model with --model")
    number = paths.round
    specs = paths.shards(shards, paths.captioned(), "data.pretrain")
    last = paths.folder.stage("sft", number - 1) if number else None
    chosen = paths.model(model, last, settings.filter.engine) if settings.filter.needs_model else None
    return paths.plan(
        "filter",
        ("filter", "eval.tasks"),
        out,
        model=chosen,
        shards=specs,
        base=base,
        worker=parse_worker(worker),
    )
