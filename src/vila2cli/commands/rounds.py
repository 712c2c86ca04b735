"""The stages of a round after its recaptions: pretrain, sft, judge; eval has a module of its own."""

from typing import Annotated

import typer

from vila2cli.commands.options import Base, DryRun, Model, Out, RecipeFile, Round, Sets, Shards
from vila2cli.commands.plan import Paths, Plan, open_recipe, print_summary, ready
from vila2cli.errors import RecipeError


def pretrain(
    shards: Shards = None,
    out: Out = None,
    round: Round = None,
    base: Base = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Train from the base tower and LLM with a new projector.

    \b
    vila2 pretrain --recipe recipes/world.toml --round 1
    vila2 pretrain --recipe recipes/world.toml --shards r1/recaption --out ckpt/r1
    """
    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round)
    specs = paths.shards(shards, paths.pretrained_on(), "data.pretrain")
    in_run = paths.stage("pretrain") if paths.round is not None else None
    plan = Plan(
        stage="pretrain",
        round=paths.round,
        recipe=settings,
        sections=("pretrain", "base", "data.interleaved"),
        kind="checkpoint",
        out=paths.out(out, in_run, "pretrain", None, specs[0]),
        shards=specs,
        origins=paths.origins,
        deciding={} if shards or paths.round in (None, 0) else {"filtered": settings.pretrain.filtered},
    )
    if not ready(plan, dry_run=dry_run):
        return
    from vila2cli.stages.pretrain import pretrain as run_stage

    summary = run_stage(settings, shards=list(specs), out=plan.out, round=plan.round_number, base=base)
    print_summary(plan, summary)


def sft(
    model: Model = None,
    shards: Shards = None,
    out: Out = None,
    round: Round = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Tune a pretrained checkpoint on instruction shards.

    \b
    vila2 sft --recipe recipes/world.toml --round 0
    vila2 sft --model ckpt/pretrain --shards data/sft/*.tar --out ckpt/r0
    """
    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round)
    in_run = paths.stage("sft") if paths.round is not None else None
    chosen_model = paths.model(model, paths.stage("pretrain") if paths.round is not None else None)
    specs = paths.shards(shards, settings.data.sft, "data.sft")
    plan = Plan(
        stage="sft",
        round=paths.round,
        recipe=settings,
        sections=("sft", "data.sft", "data.text"),
        kind="checkpoint",
        out=paths.out(out, in_run, "sft", chosen_model, specs[0]),
        model=chosen_model,
        shards=specs,
        origins=paths.origins,
    )
    if not ready(plan, dry_run=dry_run):
        return
    from vila2cli.stages.sft import sft as run_stage

    summary = run_stage(settings, model=chosen_model, shards=list(specs), out=plan.out, round=plan.round_number)
    print_summary(plan, summary)


def judge(
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", help='Two or more caption layers to compare, or "alt-text".'),
    ] = None,
    shards: Shards = None,
    model: Model = None,
    out: Out = None,
    round: Round = None,
    base: Base = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Say which caption layer describes the images better.

    \b
    vila2 judge --recipe recipes/world.toml --round 1
    vila2 judge --layers alt-text r1/recaption r2/recaption --shards data/*.tar --model ckpt/r2
    """
    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round)
    chosen = layers or _judged_layers(paths)
    if len(chosen) < 2:
        raise RecipeError("judging needs two or more --layers, or --round N with a recipe")
    specs = paths.shards(
        shards, settings.data.pretrain if not layers else _layer_folders(chosen), "data.pretrain"
    )
    in_run = paths.stage("judge") if paths.round is not None else None
    if model is None and paths.round is not None and "model" in settings.judge.judges:
        model = paths.model(None, paths.stage("sft"))
    plan = Plan(
        stage="judge",
        round=paths.round,
        recipe=settings,
        sections=("judge",),
        kind="judge",
        out=paths.out(out, in_run, "judge", model, specs[0]),
        model=model,
        shards=specs,
        base=base,
        origins=paths.origins,
    )
    if not ready(plan, dry_run=dry_run, redo=bool(layers)):
        return
    from vila2cli.stages.judge import judge as run_stage

    summary = run_stage(
        settings,
        layers=chosen,
        shards=list(shards or ()),
        model=model,
        out=plan.out,
        base=base,
        round=plan.round_number,
    )
    print_summary(plan, summary)


def _judged_layers(paths: Paths) -> list[str]:
    """The captions of the baseline round (round 0 has the alt-text), of the round before, and of this one."""
    baseline = paths.recipe.judge.baseline_round
    if paths.round is None:
        return []
    if not isinstance(paths.round, int) or paths.round <= baseline:
        raise RecipeError(
            f"--round {paths.round}: judging compares a round after {baseline} (judge.baseline_round)"
        )
    old = "alt-text" if baseline == 0 else str(paths.folder.stage("recaption", baseline))
    before = paths.round - 1
    previous = [str(paths.folder.stage("recaption", before))] if before > baseline else []
    return [old, *previous, str(paths.stage("recaption"))]


def _layer_folders(layers: list[str]) -> list[str]:
    return [layer for layer in layers if layer != "alt-text"]
