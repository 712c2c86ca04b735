"""`vila2 eval`: score a checkpoint, answers of other tools, or two evals against each other."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from vila2cli.cli.documents import FilesOfFormats, Stored
from vila2cli.cli.options import DryRun, Limit, Model, Out, RecipeFile, Round, Sets, WorkerText
from vila2cli.cli.paths import Paths, default_out, open_recipe
from vila2cli.cli.printing import print_progress, print_summary
from vila2cli.cli.ready import ready
from vila2cli.cli.terminal import say, show
from vila2cli.errors import RecipeError
from vila2cli.evaluation.metrics import none_right
from vila2cli.files import read_json
from vila2cli.formats.registry import FORMATS, find_format, names
from vila2cli.run.cost import fewer_tiles_lines
from vila2cli.run.splitting import Unfinished
from vila2cli.run.workers import parse_worker

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

Tasks = Annotated[list[str] | None, typer.Option("--tasks", help="Task folders or globs of them.")]

Questions = Annotated[
    list[Path],
    typer.Option(
        "--questions",
        metavar="FILE",
        help="Tables with a question, a picture and an answer in each row: .csv, .tsv, .jsonl or .parquet. "
        "Several right answers, or the options of a choice, have | between them; or columns A, B ...",
    ),
]
BoxFrame = Annotated[
    str,
    typer.Option(
        "--box-frame", help="Frame of plain numbers in boxes: auto (default), xyxy-999, -1000, -1, -pixel ..."
    ),
]


@app.callback()
def evaluate(
    ctx: typer.Context,
    model: Model = None,
    tasks: Tasks = None,
    out: Out = None,
    round: Round = None,
    worker: WorkerText = None,
    limit: Limit = None,
    score_only: Annotated[
        list[Path] | None,
        typer.Option(
            "--score-only", metavar="FILE", help="Score these answers of another tool; no model is asked."
        ),
    ] = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Score a checkpoint on tasks, with intervals.

    \b
    vila2 eval --recipe world --round 1
    vila2 eval --model ckpt/r2 --tasks data/world/eval/*
    vila2 eval --score-only answers.jsonl --tasks tasks/pope-*
    """
    if ctx.invoked_subcommand is not None:
        return
    settings = open_recipe(recipe, sets)
    if score_only:
        if model is not None or round is not None or limit is not None:
            raise RecipeError("--score-only asks no model: leave out --model, --round and --limit")
        _score_only(settings, score_only, tasks, out)
        return
    paths = Paths(settings, round, limit)
    chosen_model = paths.model(
        model, paths.stage("sft") if paths.round is not None else None, settings.eval.engine
    )
    specs = paths.shards(tasks, settings.eval.tasks, "eval.tasks")
    plan = paths.plan(
        "eval", ("eval",), out, near=chosen_model, model=chosen_model, shards=specs, worker=parse_worker(worker)
    )
    if not ready(plan, dry_run=dry_run, redo=_is_measured_anew(plan.out, settings.eval.box_frame)):
        return
    from vila2cli.stages.evaluate import evaluate as run_stage

    summary = run_stage(
        settings,
        model=chosen_model,
        tasks=specs,
        out=plan.out,
        round=plan.round_number,
        worker=plan.worker,
        limit=limit,
    )
    if isinstance(summary, Unfinished):
        print_progress(plan, summary, "answered", "metrics.json is written when all are")
    else:
        print_summary(plan, summary, [*summary.lines(), *none_right(summary.tasks, plan.out)])


def _is_measured_anew(folder: Path, box_frame: str) -> bool:
    """Whether figures may be others of the same answers: by another judge, or in another box frame."""
    path = folder / "metrics.json"
    metrics = read_json(path) if path.is_file() else {}
    is_framed = metrics.get("protocol", {}).get("box_frame", "") != box_frame
    tasks = metrics.get("tasks", {}).values()
    return any("judge" in entry or ("boxes" in entry and is_framed) for entry in tasks)


def _score_only(settings: Any, answers: Sequence[Path], tasks: Tasks, out: Path | None) -> None:
    from vila2cli.errors import BudgetError, RejectBudgetError
    from vila2cli.stages.score_only import score_answers

    folder = out or default_out("eval", answers[0].stem, str(answers[0]))
    say(f"eval: scoring {', '.join(map(str, answers))}; writing {folder}")
    try:
        metrics = score_answers(settings, answers=answers, tasks=tasks or (), out=folder)
    except (BudgetError, RejectBudgetError):  # what figures there are, and why they are not official
        if (folder / "metrics.json").is_file():
            known = read_json(folder / "metrics.json")
            show(Stored(known), _task_lines(known))
        raise
    show(metrics, [*_task_lines(metrics.to_json()), *none_right(metrics.tasks, folder)])


def _task_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in metrics["tasks"].items():
        yield f"{name}: {entry['num_samples']:,} samples, {entry.get('rule') or entry['scorer']}"
        for metric, value in entry["metrics"].items():
            yield f"  {metric} {_figure(value)}"
        if any(entry.get(name) for name in ("num_empty", "num_cut", "num_with_reasoning")):
            yield (
                f"  {entry['num_empty']:,} answers are empty, {entry['num_cut']:,} cut off; "
                f"{entry['num_with_reasoning']:,} had reasoning, which is left out"
            )
        yield from (f"  {line}" for line in fewer_tiles_lines(entry))
        if judge := entry.get("judge"):
            yield f"  marked by {judge['judge']}: {judge['model']}, {judge['prompt_id']}"
        joined = entry.get("answers")
        if joined:
            yield (
                f"  answers joined by {joined['joined_by']}: {joined['num_joined']:,}, "
                f"{joined['num_repeated']:,} repeated, {joined['num_disagreeing']:,} to another question"
            )
        if boxes := entry.get("boxes"):
            yield f"  boxes: {_boxes(boxes)}"
        if "official" in entry:
            doubts = "; ".join(entry["doubts"])
            yield "  official: yes" if entry["official"] else f"  official: no, {doubts}"
    answers = metrics.get("answers")
    if answers and answers["num_unused"]:
        named = ", ".join(answers["unused"])
        yield f"{answers['num_unused']:,} answers belong to no sample, first {named}"


def _boxes(boxes: Mapping[str, Any]) -> str:
    """In which notations and frames boxes were read."""
    notations = ", ".join(f"{name} {num:,}" for name, num in boxes["notations"].items()) or "none"
    frames = ", ".join(f"{name} {num:,}" for name, num in boxes["frames_of_plain_numbers"].items())
    plain = f"; plain numbers in {frames}, from {boxes['frame_from']}" if frames else ""
    return f"{notations}{plain}; {boxes['num_unparsed']:,} without"


def _figure(value: Mapping[str, float]) -> str:
    text = f"{value['value']:.4f}"
    return f"{text} ({value['low']:.4f} to {value['high']:.4f})" if "low" in value else text


@app.command("import")
def import_tasks(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(names('eval import'))}; or list.")],
    files: Annotated[list[Path] | None, typer.Argument(help="The benchmark's own files.")] = None,
    out: Out = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of its images; needed only to ask a model.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split, where the files hold several.")] = "",
    synonyms: Annotated[
        Path | None, typer.Option("--synonyms", help="CHAIR's synonyms.txt, for figures to compare.")
    ] = None,
    box_frame: BoxFrame = "",
) -> None:
    """Write a benchmark's published files as task folders.

    \b
    vila2 eval import pope coco_pope_*.json llava_pope_test.jsonl --out tasks
    """
    if form == "list":
        show(FilesOfFormats({format.name: format.files for format in FORMATS["eval import"]}))
        return
    if not files:
        raise RecipeError(f"name the files of {form}: {find_format('eval import', form).files}")
    from vila2cli.stages.tasks import import_tasks as run_stage

    show(
        run_stage(
            form,
            files,
            out or Path("tasks"),
            images=images,
            split=split,
            synonyms=synonyms,
            box_frame=box_frame,
        )
    )


@app.command("new")
def new_task(
    task: Annotated[
        Path, typer.Argument(metavar="TASK", help="Folder to write the task to; its last part is its name.")
    ],
    questions: Questions,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures; that of the table by default.")
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(
            "--scorer",
            help="How answers are scored: short, vqa, yesno, choice, anls, cider ...; a wrong name lists all.",
        ),
    ] = "short",
    prompt: Annotated[
        str, typer.Option("--prompt", help="What is sent, with {question} in it; by default as LLaVA asks.")
    ] = "",
    question: Annotated[
        str,
        typer.Option("--question", metavar="COLUMN", help="Column of the question; found by its name else."),
    ] = "",
    answer: Annotated[
        str, typer.Option("--answer", metavar="COLUMN", help="Column of the answer; found by its name else.")
    ] = "",
    picture: Annotated[
        str, typer.Option("--picture", metavar="COLUMN", help="Column of the picture; found by its name else.")
    ] = "",
    box_frame: BoxFrame = "",
) -> None:
    """Write a task folder of own questions.

    \b
    vila2 eval new tasks/mine --questions q.csv --images photos --scorer short
    vila2 eval --model ckpt/r2 --tasks tasks/mine
    """
    from vila2cli.stages.tasks import new_task as run_stage

    written = run_stage(
        task,
        questions,
        images=images,
        scorer=scorer,
        prompt=prompt,
        question=question,
        answer=answer,
        picture=picture,
        box_frame=box_frame,
    )
    show(written, [*written.lines(), f"  vila2 eval --model CHECKPOINT --tasks {quote(str(written.folder))}"])


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an eval.")],
    second: Annotated[Path, typer.Argument(help="Folder of another, on the same tasks.")],
    difference: Annotated[
        float | None,
        typer.Option("--difference", help="Difference to plan for; the one that was found by default."),
    ] = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Compare two evals sample by sample: differences, adjusted p.

    \b
    vila2 eval compare runs/world/round0/eval runs/world/round1/eval
    """
    from vila2cli.stages.compare import compare as run_stage

    show(run_stage(open_recipe(recipe, sets), first=first, second=second, difference=difference))


@app.command("lmms")
def lmms(
    out: Out = None,
    model: Model = None,
    tasks: Annotated[list[str] | None, typer.Option("--tasks", help="Names of lmms-eval's tasks.")] = None,
    family: Annotated[str, typer.Option("--family", help="lmms-eval's name of the model family.")] = "llava_hf",
    results: Annotated[
        Path | None, typer.Option("--results", help="Take the *_results.json of a run that is done.")
    ] = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Have lmms-eval score a checkpoint, and take its figures.

    \b
    vila2 eval lmms --model ckpt/r2 --tasks mme seedbench --out runs/world/round2/eval
    """
    from vila2cli.stages.lmms import evaluate_with_lmms

    settings = open_recipe(recipe, sets)
    near = model or str(results or "")
    metrics = evaluate_with_lmms(
        settings,
        out=out or default_out("eval", model, near),
        tasks=tasks or (),
        model=model or "",
        family=family,
        results=results,
    )
    theirs = {name: one for name, one in metrics.tasks.items() if name.startswith("lmms:")}
    show(metrics, _task_lines({"tasks": theirs}))
