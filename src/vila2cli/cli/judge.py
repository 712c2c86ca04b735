"""`vila2 judge`: by models and the oracle, by people with a page of their own, and how far they agree."""

from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.documents import DryRunOfPage
from vila2cli.cli.options import (
    Base,
    DryRun,
    Limit,
    Model,
    Out,
    OutThere,
    RecipeFile,
    Round,
    Sets,
    Shards,
    WorkerText,
)
from vila2cli.cli.paths import Paths, Plan, open_recipe
from vila2cli.cli.printing import print_progress, print_summary
from vila2cli.cli.ready import ready
from vila2cli.cli.terminal import say, show
from vila2cli.errors import RecipeError
from vila2cli.files import read_json
from vila2cli.run.results import StageResult
from vila2cli.run.splitting import Unfinished
from vila2cli.run.workers import parse_worker
from vila2cli.settings.recipe import Recipe

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def judge(
    context: typer.Context,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers", help='Two or more caption layers to compare, or "alt-text", also called "original".'
        ),
    ] = None,
    shards: Shards = None,
    model: Model = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    base: Base = None,
    limit: Limit = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
    human: Annotated[
        bool, typer.Option("--human", help="Write a page on which people compare the captions.")
    ] = False,
    images_apart: Annotated[
        bool, typer.Option("--images-apart", help="Lay the page's images beside it, not into it.")
    ] = False,
) -> None:
    """Say which caption layer describes the images better.

    \b
    vila2 judge --recipe world --round 1
    vila2 judge --layers alt-text r1/recaption r2/recaption --shards data/*.tar --model ckpt/r2
    vila2 judge --human --layers alt-text r2/recaption --out people
    """
    if context.invoked_subcommand is not None:
        return
    settings = _opened(recipe, sets, limit)
    paths = Paths(settings, round, limit)
    chosen = layers or _judged_layers(paths)
    if len(chosen) < 2:
        raise RecipeError("judging needs two or more --layers, or --round N with a recipe")
    near = settings.data.pretrain if not layers else _layer_folders(chosen)
    specs = paths.shards(shards, near, "data.pretrain")
    if human:
        _write_page(settings, paths, chosen, shards, specs, out, base, images_apart, dry_run)
        return
    plan = _plan(settings, paths, specs, model, out, base, worker)
    if not ready(plan, dry_run=dry_run, redo=bool(layers) or not _is_judged(plan.out, settings)):
        return
    from vila2cli.stages.judge import judge as run_stage

    summary = run_stage(
        settings,
        layers=chosen,
        shards=list(shards or ()),
        model=plan.model,
        out=plan.out,
        base=base,
        round=plan.round_number,
        worker=plan.worker,
    )
    _say(plan, summary)


def _opened(recipe: Path | None, sets: Sets, limit: int | None) -> Recipe:
    """The recipe, with no more images drawn than the limit allows."""
    settings = open_recipe(recipe, sets)
    if limit is None or limit >= settings.judge.num_samples:
        return settings
    return open_recipe(recipe, [*(sets or ()), f"judge.num_samples={limit}"])


def _say(plan: Plan, summary: StageResult) -> None:
    from vila2cli.judging.terminal import summary_table

    if isinstance(summary, Unfinished):
        print_progress(plan, summary, "judged", "summary.json is written when all are")
    else:
        print_summary(plan, summary, summary_table(summary.to_json()))


def _plan(
    settings: Recipe,
    paths: Paths,
    specs: tuple[str, ...],
    model: str | None,
    out: Path | None,
    base: str | None,
    worker: str | None,
) -> Plan:
    if model is None and paths.round is not None and "model" in settings.judge.judges:
        model = paths.model(None, paths.stage("sft"))
    return paths.plan(
        "judge", ("judge", "judges"), out, model=model, shards=specs, base=base, worker=parse_worker(worker)
    )


def _write_page(
    settings: Recipe,
    paths: Paths,
    layers: list[str],
    shards: list[str] | None,
    specs: tuple[str, ...],
    out: Path | None,
    base: str | None,
    images_apart: bool,
    dry_run: bool,
) -> None:
    in_run = paths.stage("judge-people") if paths.round is not None else None
    folder = paths.out(out, in_run, "judge-people", None, specs[0])
    if dry_run:
        show(DryRunOfPage(True, [folder / "judge.html", folder / "key.json"]))
        return
    from vila2cli.stages.people import write_page

    page = write_page(
        settings, layers=layers, shards=list(shards or ()), out=folder, base=base, images_apart=images_apart
    )
    show(page, [f"  {line}" for line in page.lines()])
    say(f"for those who judge: judge.html{' and its images folder' if images_apart else ''}")
    say("keep key.json: vila2 judge collect needs it to read their answers")


@app.command("collect")
def collect(
    answers: Annotated[list[Path], typer.Argument(help="Files that people exported from the page.")],
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Folder of the page with its key.json; that of the first file by default."),
    ] = None,
    out: Out = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Read people's answers back: win rates, and how far they agree.

    \b
    vila2 judge collect answers-*.json --page people
    """
    from vila2cli.judging.terminal import summary_table
    from vila2cli.stages.people import collect as run_stage

    folder = page or answers[0].parent
    settings = open_recipe(recipe, sets)
    summary = run_stage(settings, answers=answers, page=folder, out=out or folder / "verdicts")
    show(summary, summary_table(summary.to_json()))
    say(f"written: {out or folder / 'verdicts'}")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="data.jsonl files of ImageInWords.")],
    out: OutThere,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Read published human judgements, one judge for each metric.

    \b
    vila2 judge import imageinwords/datasets/*/data.jsonl --out iiw-people
    """
    from vila2cli.judging.terminal import summary_table
    from vila2cli.stages.people import import_judgements

    summary = import_judgements(open_recipe(recipe, sets), files=files, out=out)
    show(summary, summary_table(summary.to_json()))
    say(f"written: {out}")


@app.command("agreement")
def agreement(
    first: Annotated[Path, typer.Argument(help="Folder with verdicts of one or several judges.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Say how far judges agree, such as a model and people.

    \b
    vila2 judge agreement people/verdicts runs/world/round1/judge
    """
    from vila2cli.judging.terminal import summary_table
    from vila2cli.stages.people import agree

    summary = agree(open_recipe(recipe, sets), first, second)
    show(summary, summary_table(summary.to_json()))


def _is_judged(out: Path, settings: Recipe) -> bool:
    path = out / "summary.json"
    if not path.is_file():
        return False
    from vila2cli.stages.judge import is_judged

    return is_judged(read_json(path), settings)


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
    from vila2cli.judging.pairing import ALT_TEXT, layer_name

    return [layer for layer in layers if layer_name(layer) != ALT_TEXT]
