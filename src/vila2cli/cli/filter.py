"""`vila2 filter`: score captions and images, and keep what is worth training on."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from vila2cli.cli.options import Base, DryRun, Model, Out, RecipeFile, Round, Sets, Shards, WorkerText
from vila2cli.cli.paths import Paths, Plan, open_recipe
from vila2cli.cli.printing import print_progress, print_summary
from vila2cli.cli.ready import ready
from vila2cli.cli.terminal import say
from vila2cli.errors import RecipeError, RejectBudgetError
from vila2cli.run.folder import parse_worker
from vila2cli.run.results import as_json


def filter_command(
    shards: Shards = None,
    model: Model = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    base: Base = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", help="Evaluation tasks whose images are dropped; eval.tasks by default."),
    ] = None,
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
    """Say which captions and images are worth training on, as a layer over the shards.

    \b
    vila2 filter --model ckpt/r2 --shards data/*.tar
    vila2 filter --model ckpt/r2 --shards r3 --set filter.keep_share=0.5 --random --explain
    """
    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round)
    plan = _plan(paths, shards=shards, model=model, out=out, worker=worker, base=base)
    if not ready(plan, dry_run=dry_run, redo=True):
        return
    from vila2cli.filtering.outcome import summary_lines
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
        )
    except RejectBudgetError:  # everything is written, and the examples show why
        if explain:
            _explain(plan)
        raise
    values = as_json(summary)
    if not values["decided"]:
        print_progress(plan, summary, "scored", _what_then(values))
        return
    print_summary(plan, summary, summary_lines(values))
    if explain:
        _explain(plan)


def _what_then(summary: Mapping[str, Any]) -> str:
    if "decided_by" in summary:
        return f"another worker is deciding what is kept: {summary['decided_by']}"
    return "what is kept is decided when all are"


def _explain(plan: Plan) -> None:
    from vila2cli.filtering.examples import explain
    from vila2cli.shards import open_source

    source = open_source(plan.shards, base=plan.base)
    for line in explain(plan.out, source, plan.recipe.filter.captions):
        say(line)


def _plan(paths: Paths, *, shards: Shards, model: Model, out: Out, worker: WorkerText, base: Base) -> Plan:
    settings = paths.recipe
    if isinstance(paths.round, str):
        raise RecipeError("--round final: name the layer to filter with --shards and the model with --model")
    number = paths.round
    specs = paths.shards(shards, paths.captioned(), "data.pretrain")
    last = paths.folder.stage("sft", number - 1) if number else None
    chosen = paths.model(model, last) if settings.filter.needs_model else None
    return paths.plan(
        "filter",
        ("filter", "eval.tasks"),
        out,
        model=chosen,
        shards=specs,
        base=base,
        worker=parse_worker(worker),
    )
