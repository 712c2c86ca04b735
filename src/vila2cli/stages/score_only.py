"""`vila2 eval --score-only`: score answers that other tools wrote, by the rules of the tasks.

Writes what `vila2 eval` writes, a prediction layer per task and metrics.json, without any model. Every sample
without one clear answer is a reject, and metrics.json says of each task what is missing or doubtful.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vila2cli import __version__
from vila2cli.ask.kept_answers import ANSWERS_FILE, Answers
from vila2cli.errors import DataError, RecipeError, RejectBudgetError
from vila2cli.evaluation.answer_files import FiledAnswer, read_answers
from vila2cli.evaluation.joining import Join, Known, join
from vila2cli.evaluation.measure import measure, reasoning_of
from vila2cli.evaluation.metrics import Metrics
from vila2cli.evaluation.subject import LAYER, measuring
from vila2cli.judging.marking import Marker, answers_dir, check_judge
from vila2cli.run.folder import claim, write_json
from vila2cli.run.locks import lock
from vila2cli.run.stopping import interruptible
from vila2cli.score.task import Task, find_tasks
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import (
    ShardWriter,
    Source,
    file_sha256,
    folder_stats,
    open_layer,
    open_source,
    read_shard,
)
from vila2cli.shards.rejects import are_too_many
from vila2cli.shards.sample import Annotation, Reject, Sample
from vila2cli.text.reasoning import answer_of

NUM_NAMED = 10
"""Answers and samples named in metrics.json of those that do not fit; rejects.jsonl names all samples."""


def score_answers(
    recipe: Recipe, *, answers: Sequence[str | Path], out: str | Path, tasks: Sequence[str | Path] = ()
) -> Metrics:
    """Score answer files on tasks (default: `eval.tasks` of the recipe) and write metrics.json.

    A judge scores what needs one (`eval.judge`). Raises DataError for files that cannot be read, or whose
    answers fit no task, RecipeError where a judge is needed and not given, and once metrics.json is written
    BudgetError where the judge's budget ended and RejectBudgetError when more samples of a task have no clear
    answer than `eval.max_reject_rate` allows.
    """
    known_tasks = find_tasks(tasks or recipe.eval.tasks, box_frame=recipe.eval.box_frame)
    if not known_tasks:
        raise RecipeError("no tasks to score; name task folders with --tasks or eval.tasks")
    check_judge(recipe, known_tasks)
    paths, folder = [Path(path) for path in answers], Path(out)
    given = read_answers(paths)
    with lock(folder), interruptible() as stop, Answers(folder / ANSWERS_FILE) as kept:
        files = {str(path): file_sha256(path) for path in paths}
        inputs = {"stage": "eval", "answers": sorted(files.values())}
        claim(folder, inputs, recipe)
        (folder / "metrics.json").unlink(missing_ok=True)  # until it is written again
        joins = {
            task.name: _write(recipe, task, given, answers_dir(folder, task), inputs) for task in known_tasks
        }
        for task in known_tasks:
            _check_any(task, answers_dir(folder, task))
        marker = Marker(recipe, folder, kept, stop)
        for task in known_tasks:
            if task.scorer.marking is not None:
                marker.mark(task, open_source([task.folder]), {**inputs, "task": _described(task)})
        metrics = measure(recipe, known_tasks, folder)
        for name, entry in metrics["tasks"].items():
            entry["answers"] = _account(joins[name])
        for name, judge in marker.protocols.items():
            metrics["tasks"][name]["judge"] = judge
        metrics |= {
            "model": None,
            "round": None,
            "answers": {"files": files, **_unused(given, list(joins.values()))},
            "protocol": {
                "answers": "by another tool: prompts, sampling and image size are its own",
                **measuring(recipe),
                "versions": {"vila2cli": __version__},
            },
        }
        write_json(folder / "metrics.json", metrics)
    marker.check_budget()
    _check(metrics, recipe.eval.max_reject_rate, folder)
    return Metrics.of(metrics)


def _write(
    recipe: Recipe, task: Task, given: Sequence[FiledAnswer], folder: Path, inputs: dict[str, Any]
) -> Join:
    """Write the prediction layer of a task whole; a layer of the same answers is written again."""
    source = open_source([task.folder])
    known = [
        Known.of(sample, place, is_caption=task.is_caption) for place, sample in enumerate(_samples(source))
    ]
    if not known:
        raise DataError(f"task {task.name}: none of its samples in {task.folder} can be read; import it again")
    joined = join(known, given, split=task.split)
    if joined.num_joined == 0:
        raise DataError(
            f"task {task.name}: none of {len(given)} answers belongs to one of its {len(known)} samples, by id "
            f"or image and question; the first answer is {given[0].name!r}, the first sample {known[0].id!r}"
        )
    manifest = claim(folder, {**inputs, "task": _described(task), "shards": source.outline()})
    writer = open_layer(
        folder,
        layer=LAYER,
        source=source,
        manifest={"digest": manifest.digest},
        is_packed=recipe.data.compress_layers,
    )
    place = 0
    for shard in source.shards:
        with writer.shard(shard) as writing:
            for sample in writing.samples():
                _score(task, sample, joined.answers.get(place, []), shard.name, writing)
                place += 1
    writer.finish()
    return joined


def _described(task: Task) -> dict[str, str]:
    return {"version": task.version, "scorer": task.scorer.name, "scorer_version": task.scorer.version}


def _samples(source: Source) -> Iterator[Sample]:
    for shard in source.shards:
        yield from read_shard(shard, on_reject=lambda reject: None)


def _score(
    task: Task, sample: Sample, answers: Sequence[FiledAnswer], shard: str, writing: ShardWriter
) -> None:
    texts = {
        read.text: (read, answer.is_cut)
        for answer in answers
        if answer.text is not None and (read := answer_of(answer.text, reached_limit=answer.is_cut))
    }
    if not texts:
        writing.reject(Reject(shard, sample.key, "unanswered", f"no answer to {_name(sample)}"))
        return
    if len(texts) > 1:
        where = "; ".join(answer.where for answer in answers[:3])
        writing.reject(
            Reject(shard, sample.key, "ambiguous", f"{len(texts)} answers to {_name(sample)}: {where}")
        )
        return
    ((text, (read, is_cut)),) = texts.items()
    try:
        scores = task.scorer.stored(text, task.reference_of(sample))
    except DataError as error:
        writing.reject(Reject(shard, sample.key, "task", str(error)))
        return
    image = sample.meta.get("image_id", sample.meta.get("image"))
    if isinstance(image, str) and not sample.images:  # what is resampled together without the picture itself
        scores["labels"] = {"image": image, **scores.get("labels", {})}
    writing.annotate(
        sample,
        Annotation(
            layer=LAYER,
            kind="prediction",
            text=text,
            scores=scores,
            decision=reasoning_of(read),
            finish_reason="length" if is_cut else "stop",
        ),
    )


def _name(sample: Sample) -> str:
    return repr(str(sample.meta.get("sample_id", sample.key)))


def _account(joined: Join) -> dict[str, Any]:
    """How the answers of a task were found."""
    return {
        "joined_by": joined.how,
        "num_joined": joined.num_joined,
        "num_repeated": sum(len(answers) - 1 for answers in joined.answers.values()),
        "num_disagreeing": joined.num_disagreeing,
    }


def _unused(given: Sequence[FiledAnswer], joins: Sequence[Join]) -> dict[str, Any]:
    """The answers that belong to no sample of any task."""
    used = set[int]().union(*(joined.used for joined in joins))
    names = [answer.name for number, answer in enumerate(given) if number not in used]
    return {"num_answers": len(given), "num_unused": len(names), "unused": names[:NUM_NAMED]}


def _check_any(task: Task, folder: Path) -> None:
    """Raise RejectBudgetError where not one sample of a task has one clear answer: there are no figures."""
    stats = folder_stats(folder)
    if not stats.num_out:
        reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
        raise RejectBudgetError(
            f"task {task.name}: none of its {stats.num_in} samples has one clear answer ({reasons}); "
            f"{folder / 'rejects.jsonl'} names them"
        )


def _check(metrics: dict[str, Any], max_reject_rate: float, folder: Path) -> None:
    for name, entry in metrics["tasks"].items():
        total = entry["num_samples"] + entry["num_rejected"]
        if are_too_many(entry["num_rejected"] / max(1, total), entry["num_rejected"], max_reject_rate):
            reasons = ", ".join(f"{reason} {count}" for reason, count in entry["rejected"].items())
            raise RejectBudgetError(
                f"task {name}: {entry['num_rejected']} of {total} samples have no clear answer ({reasons}), so "
                f"its figure in {folder / 'metrics.json'} is that of the others and not official; "
                f"{folder / name / 'rejects.jsonl'} names them; allow them with eval.max_reject_rate"
            )
