"""The specialists: trained from the self-augmented checkpoint, then put to work on the pretraining images."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila2cli.cli.options import Base, DryRun, Limit, Model, Out, RecipeFile, Round, Sets, Shards, WorkerText
from vila2cli.cli.paths import Paths, Plan, open_recipe
from vila2cli.cli.printing import print_summary
from vila2cli.cli.processes import trained_apart
from vila2cli.cli.ready import ready
from vila2cli.errors import RecipeError
from vila2cli.run.workers import parse_worker
from vila2cli.settings import SpecialistSettings
from vila2cli.settings.recipe import Recipe

if TYPE_CHECKING:
    from vila2cli.stages.specialize import Answering, Relabelled

Names = Annotated[
    list[str],
    typer.Option(
        "--name", help="Which specialist of the recipe: specialists.NAME. With --relabel it may be repeated."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Checkpoint folder or hub id, with --relabel also a LoRA adapter's folder; one for each --name.",
    ),
]


def specialize(
    name: Names,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Do not train: let the specialist label the pretraining images.")
    ] = False,
    model: Models = None,
    shards: Shards = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    base: Base = None,
    limit: Limit = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Train a specialist, or with --relabel let it label images.

    LoRA adapters of one checkpoint label images together, in one pass; --out then has a folder for each.

    \b
    vila2 specialize --recipe world --name ocr
    vila2 specialize --recipe world --name ocr --relabel
    """
    from vila2cli.stages import specialize as stage

    settings = open_recipe(recipe, sets)
    of_round = round or str(settings.rounds)
    specialists = {one: stage.settings_of(settings, one) for one in name}
    _check_options(list(specialists), model, shards, limit, relabel=relabel)
    if not relabel:
        paths, given = Paths(settings, of_round), model[0] if model else None
        plan = _train_plan(paths, name[0], specialists[name[0]], model=given, out=out)
        if ready(plan, dry_run=dry_run) and not trained_apart(settings, plan.out):
            assert plan.model is not None
            print_summary(plan, stage.specialize(settings, name=name[0], model=plan.model, out=plan.out))
        return
    models: list[str | None] = [*model] if model else [None] * len(specialists)
    plans = {
        one: _relabel_plan(
            Paths(settings, of_round, limit),
            one,
            model=given,
            shards=shards,
            out=out / one if out and len(specialists) > 1 else out,
            worker=worker,
            base=base,
        )
        for one, given in zip(specialists, models, strict=True)
    }
    todo = [
        stage.Answering(one, plan.model or "", plan.out)
        for one, plan in plans.items()
        if ready(plan, dry_run=dry_run, inputs=partial(_relabel_inputs, settings, one, plan))
    ]
    if not todo:
        return
    for one, summary in zip(todo, _relabel(settings, todo, plans[todo[0].name]), strict=True):
        print_summary(plans[one.name], summary)


def _relabel(recipe: Recipe, todo: "list[Answering]", plan: Plan) -> "list[Relabelled]":
    """Let specialists answer over the shards of the first one's plan, which are those of all."""
    from vila2cli.stages.specialize import relabel

    shards = list(plan.shards)
    return relabel(recipe, todo, shards=shards, worker=plan.worker, base=plan.base, limit=plan.limit)


def _check_options(names: list[str], model: Models, shards: Shards, limit: Limit, *, relabel: bool) -> None:
    """Raise RecipeError for options that do not go together."""
    if not relabel and shards:
        raise RecipeError(
            f"a specialist is trained on specialists.{names[0]}.data; --shards goes with --relabel"
        )
    if not relabel and limit is not None:
        raise RecipeError(
            f"--limit goes with --relabel; specialists.{names[0]}.max_samples bounds what one is trained on"
        )
    if not relabel and len(names) > 1:
        raise RecipeError("specialists are trained one at a time; several --name go with --relabel")
    if model and len(model) != len(names):
        raise RecipeError(f"{len(model)} --model were given for {len(names)} --name; give one for each")


def _relabel_inputs(recipe: Recipe, name: str, plan: Plan) -> dict[str, Any]:
    from vila2cli.shards import open_source
    from vila2cli.stages.specialize import relabel_inputs

    source = open_source(plan.shards, base=plan.base, limit=plan.limit)
    return relabel_inputs(recipe, name=name, model=plan.model or "", source=source)


def _train_plan(paths: Paths, name: str, specialist: SpecialistSettings, *, model: Model, out: Out) -> Plan:
    # From the checkpoint after pretraining, before instruction tuning (VILA^2 section 2.2.1).
    chosen_model = paths.model(model, paths.stage("pretrain"))
    specs = paths.shards(None, specialist.data, f"specialists.{name}.data")
    return paths.plan_of(name, "specialize", out, model=chosen_model, shards=specs)


def _relabel_plan(
    paths: Paths, name: str, *, model: Model, shards: Shards, out: Out, worker: WorkerText, base: Base
) -> Plan:
    trained = paths.folder.specialist(name)
    # A run trains all of its specialists in one way, whose adapters lie beside the checkpoints they are in.
    chosen_model = paths.model(model, trained / "adapter" if paths.recipe.specialize.lora else trained)
    specs = paths.shards(shards, paths.recipe.data.pretrain, "data.pretrain")
    return paths.plan_of(
        name, "relabel", out, model=chosen_model, shards=specs, worker=parse_worker(worker), base=base
    )
