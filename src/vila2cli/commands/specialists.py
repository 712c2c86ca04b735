"""The specialists: trained from the self-augmented checkpoint, then put to work on the pretraining images."""

from typing import Annotated, Any

import typer

from vila2cli.commands.options import Base, DryRun, Model, Out, RecipeFile, Round, Sets, Shards, WorkerText
from vila2cli.commands.plan import Paths, Plan, open_recipe, ready
from vila2cli.commands.printing import print_summary
from vila2cli.errors import RecipeError
from vila2cli.run import parse_worker
from vila2cli.settings import SpecialistSettings

Name = Annotated[str, typer.Option("--name", help="Which specialist of the recipe: specialists.NAME.")]


def specialize(
    name: Name,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Do not train: let the specialist label the pretraining images.")
    ] = False,
    model: Model = None,
    shards: Shards = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    base: Base = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Train a specialist, or with --relabel let it label images.

    \b
    vila2 specialize --recipe recipes/world.toml --name ocr
    vila2 specialize --recipe recipes/world.toml --name ocr --relabel
    """
    from vila2cli.shards import open_source
    from vila2cli.stages.specialize import settings_of

    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round or str(settings.rounds))
    specialist = settings_of(settings, name)
    if relabel:
        plan = _relabel_plan(paths, name, model=model, shards=shards, out=out, worker=worker, base=base)
    else:
        if shards:
            raise RecipeError(
                f"a specialist is trained on specialists.{name}.data; --shards goes with --relabel"
            )
        plan = _train_plan(paths, name, specialist, model=model, out=out)
    from vila2cli.stages import specialize as stage

    def inputs() -> dict[str, Any]:
        source = open_source(plan.shards, base=plan.base)
        return stage.relabel_inputs(settings, name=name, model=plan.model or "", source=source)

    if not ready(plan, dry_run=dry_run, inputs=inputs):
        return
    assert plan.model is not None
    if relabel:
        summary = stage.relabel(
            settings,
            name=name,
            model=plan.model,
            shards=list(plan.shards),
            out=plan.out,
            worker=plan.worker,
            base=plan.base,
        )
    else:
        summary = stage.specialize(settings, name=name, model=plan.model, out=plan.out)
    print_summary(plan, summary)


def _train_plan(paths: Paths, name: str, specialist: SpecialistSettings, *, model: Model, out: Out) -> Plan:
    # From the checkpoint after pretraining, before instruction tuning (VILA^2 section 2.2.1).
    chosen_model = paths.model(model, paths.stage("pretrain"))
    specs = paths.shards(None, specialist.data, f"specialists.{name}.data")
    return Plan(
        stage=f"{name} specialist",
        round=None,
        recipe=paths.recipe,
        sections=(f"specialists.{name}",),
        kind="checkpoint",
        out=paths.out(out, paths.folder.specialist(name), name, chosen_model, specs[0]),
        model=chosen_model,
        shards=specs,
        origins=paths.origins,
    )


def _relabel_plan(
    paths: Paths, name: str, *, model: Model, shards: Shards, out: Out, worker: WorkerText, base: Base
) -> Plan:
    chosen_model = paths.model(model, paths.folder.specialist(name))
    specs = paths.shards(shards, paths.recipe.data.pretrain, "data.pretrain")
    return Plan(
        stage=f"{name} relabel",
        round=None,
        recipe=paths.recipe,
        sections=(f"specialists.{name}",),
        kind="layer",
        out=paths.out(out, paths.folder.relabel(name), name, chosen_model, specs[0]),
        model=chosen_model,
        shards=specs,
        worker=parse_worker(worker),
        base=base,
        origins=paths.origins,
    )
