"""The training stages of a round: pretrain and sft."""

import json
from pathlib import Path
from shlex import quote

from vila2cli.cli.controls import equal_epochs, mixed_in
from vila2cli.cli.options import Base, DryRun, Model, Out, RecipeFile, Round, Sets, Shards
from vila2cli.cli.paths import Paths, open_recipe
from vila2cli.cli.printing import next_line, print_summary
from vila2cli.cli.processes import trained_apart
from vila2cli.cli.ready import ready
from vila2cli.errors import RecipeError
from vila2cli.run.stages import EQUAL_COMPUTE


def pretrain(
    model: Model = None,
    shards: Shards = None,
    out: Out = None,
    round: Round = None,
    base: Base = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Train from the base tower and LLM, or go on from a model.

    With --model, or pretrain.model in the recipe, stage 1 is left out unless pretrain.realign is set.

    \b
    vila2 pretrain --recipe world --round 1
    vila2 pretrain --recipe world --shards r1/recaption --out ckpt/r1
    vila2 pretrain --model Qwen/Qwen2.5-VL-3B-Instruct --shards r1/recaption --out ckpt/more
    """
    if model is not None:
        sets = [*(sets or ()), f"pretrain.model={json.dumps(model)}"]
    settings = open_recipe(recipe, sets)
    if model is not None:
        _check_outside(Paths(settings, round), model, out)
    if round == EQUAL_COMPUTE:
        settings = open_recipe(recipe, [*(sets or ()), f"pretrain.main.epochs={equal_epochs(settings)}"])
    paths = Paths(settings, round)
    specs = paths.shards(shards, paths.pretrained_on(), "data.pretrain")
    deciding = {} if shards or paths.round in (None, 0) else {"filtered": settings.pretrain.filtered}
    sections = ("pretrain", "base.dtype" if settings.pretrain.model else "base", "data.interleaved")
    paths.origins["model"] = "recipe" if model is None else "--model"
    chosen = settings.pretrain.model or None
    plan = paths.plan("pretrain", sections, out, model=chosen, shards=specs, base=base, deciding=deciding)
    if not ready(plan, dry_run=dry_run) or trained_apart(settings, plan.out):
        return
    from vila2cli.stages.pretrain import pretrain as run_stage

    mixed = {} if shards else mixed_in(settings, paths.round)
    summary = run_stage(
        settings, shards=list(specs), out=plan.out, round=plan.round_number, base=base, mixed=mixed
    )
    alone = f"--model {quote(str(plan.out))} --shards INSTRUCTIONS --out FOLDER"
    print_summary(plan, summary, [*summary.lines(), *next_line(plan, "sft", alone=alone)])


def _check_outside(paths: Paths, model: str, out: Path | None) -> None:
    """Raise RecipeError where --model would make a round of a run, whose other rounds do not start there."""
    run = paths.folder.root
    in_run = paths.round is not None if out is None else out.resolve().is_relative_to(run.resolve())
    if in_run:
        raise RecipeError(
            f"--model {model}: all rounds of a run start alike, from scratch or from one checkpoint; give an "
            f"--out that is not in {run}, or set pretrain.model in the recipe"
        )


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
    vila2 sft --recipe world --round 0
    vila2 sft --model ckpt/pretrain --shards data/sft/*.tar --out ckpt/r0
    """
    settings = open_recipe(recipe, sets)
    paths = Paths(settings, round)
    chosen_model = paths.model(model, paths.stage("pretrain") if paths.round is not None else None)
    specs = paths.shards(shards, settings.data.sft, "data.sft")
    plan = paths.plan("sft", ("sft", "data.sft", "data.text"), out, model=chosen_model, shards=specs)
    if not ready(plan, dry_run=dry_run) or trained_apart(settings, plan.out):
        return
    from vila2cli.stages.sft import sft as run_stage

    summary = run_stage(settings, model=chosen_model, shards=list(specs), out=plan.out, round=plan.round_number)
    alone = f"--model {quote(str(plan.out))} --tasks TASKS"
    print_summary(plan, summary, [*summary.lines(), *next_line(plan, "eval", alone=alone)])
