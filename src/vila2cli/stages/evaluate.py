"""`vila2 eval`: ask a checkpoint the questions of task shards and score its answers.

Reads task folders (task.toml and shards), writes one prediction layer per task and, last of all,
metrics.json with every metric as value, low and high of its 95% bootstrap interval. Workers share the
shards of all tasks; the one that finds the last of them answered writes metrics.json.
"""

import gc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vila2cli.ask.annotate import annotate
from vila2cli.ask.fill import Part
from vila2cli.ask.kept_answers import ANSWERS_FILE, Answers
from vila2cli.ask.replicas import Replicas
from vila2cli.engine import Engine
from vila2cli.errors import RecipeError, RejectBudgetError
from vila2cli.evaluation.measure import measure
from vila2cli.evaluation.metrics import Metrics
from vila2cli.evaluation.questions import Questions
from vila2cli.evaluation.repair import EarlierAnswers, reopen
from vila2cli.evaluation.subject import Subject
from vila2cli.files import one_at_a_time, read_json
from vila2cli.judging.marking import Marker, answers_dir, check_judge
from vila2cli.run.drafting import as_begun, note_of
from vila2cli.run.folder import claim, write_json
from vila2cli.run.locks import lock
from vila2cli.run.splitting import Unfinished, split, unfinished
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.run.workers import Worker
from vila2cli.score.task import Task, find_tasks
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import LayerWriter, Shard, ShardStats, open_source
from vila2cli.shards.rejects import are_too_many, first_reject


def evaluate(
    recipe: Recipe,
    *,
    model: str | Path,
    out: str | Path,
    tasks: Sequence[str | Path] = (),
    round: int | None = None,
    worker: Worker | None = None,
    limit: int | None = None,
) -> Metrics | Unfinished:
    """Score `model` on tasks (default: `eval.tasks` of the recipe) and write metrics.json.

    A worker asks its part of the shards; while others have theirs to do, what is returned says how far
    all are. Shards that are complete are not asked again, but for questions that a
    server left unanswered.
    With a `limit` each task is scored on its first so many samples, and no figure is official.
    Answers of a server are kept as they come, so that none is paid for twice whatever ends an eval.
    Raises DataError for tasks that cannot be read, RecipeError when `out` was made with other inputs or a task
    needs a judge that is not given, and RejectBudgetError when more samples of a task are unusable than
    `eval.max_reject_rate` allows and BudgetError when a judge's budget ended; metrics.json is not written then.
    """
    chosen = find_tasks(tasks or recipe.eval.tasks, box_frame=recipe.eval.box_frame)
    if not chosen:
        raise RecipeError("no tasks to evaluate; name task folders with --tasks or eval.tasks")
    check_judge(recipe, chosen)
    sources = {task.name: open_source([task.folder], limit=limit) for task in chosen}
    folder, worker = Path(out), worker or Worker()
    recipe = as_begun(recipe, [folder])
    written = folder / "metrics.json"
    with lock(folder, worker), interruptible() as stop, Answers(folder / ANSWERS_FILE, worker) as answers:
        with stop.at_once():
            subject = Subject(recipe, model, round)
            claim(folder, subject.inputs(), recipe, model=subject.asked.name)
        layers = {
            task.name: subject.open_layer(task, sources[task.name], answers_dir(folder, task))
            for task in chosen
        }
        mine = split(folder, {layer.folder.name: layer.source.shards for layer in layers.values()}, worker)
        with stop.at_once(), one_at_a_time(folder):
            earlier = {name: reopen(layer.folder, mine[layer.folder.name]) for name, layer in layers.items()}
            if any(earlier.values()):
                written.unlink(missing_ok=True)
        known = _changed(written)
        _ask(subject, chosen, layers, mine, earlier, answers, worker, stop)
        gc.collect()  # a judge may need the memory of the model
        with ExitStack() as stack:
            with stop.at_once():
                stack.enter_context(one_at_a_time(folder))
            if (progress := unfinished(folder, "scored")) is not None:
                return progress
            if _changed(written) not in (known, None):  # another worker was last, too, and quicker
                return Metrics.of(read_json(written))
            answers.refresh()
            metrics = _metrics(subject, folder, chosen, layers, answers, stop)
            if limit is not None:
                _say_limited(metrics, limit)
            write_json(written, metrics)
    return Metrics.of(metrics)


def _say_limited(metrics: dict[str, Any], limit: int) -> None:
    """No figure of a task's first samples alone is official."""
    metrics["limit"] = limit
    for entry in metrics["tasks"].values():
        entry["official"] = False
        entry["doubts"] = [f"of the first {limit:,} samples at most", *entry.get("doubts", ())]


def _changed(path: Path) -> int | None:
    """When a file was last written, in nanoseconds; None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def _ask(
    subject: Subject,
    tasks: Sequence[Task],
    layers: Mapping[str, LayerWriter],
    shards: Mapping[str, Sequence[Shard]],
    earlier: Mapping[str, Mapping[str, EarlierAnswers]],
    answers: Answers,
    worker: Worker,
    stop: Stop,
) -> None:
    """Write what is missing of the shards, given by layer; raises RejectBudgetError once a task is complete.

    An engine that takes requests at any time, and replicas, are handed the shards of all tasks.
    """
    missing = {}
    with stop.at_once():
        for task in tasks:
            missing[task.name] = layers[task.name].missing(shards[layers[task.name].folder.name])
    parts = {
        name: Part(layers[name], Questions(subject, task, earlier[name]), missing[name])
        for task in tasks
        if missing[name := task.name]
    }
    if parts:
        subject.asked.look(stop)
    replicas = subject.replicas(worker, stop, sum(map(len, missing.values())))
    if replicas is not None:
        with replicas:
            _fill(replicas, [*parts.values()], f"eval {', '.join(parts)}", subject, stop)
    engine = None if replicas else subject.open_engine(answers, stop)
    if engine is not None and engine.name != "hf" and parts:
        _fill(engine, [*parts.values()], f"eval {', '.join(parts)}", subject, stop)
    for task in tasks:
        layer = layers[task.name]
        # With others in its batch an answer of hf may differ in the last bit: a batch is of one task.
        if engine is not None and engine.name == "hf" and task.name in parts:
            _fill(engine, [parts[task.name]], f"eval {task.name}", subject, stop)
        if task.scorer.marking is None and layer.done() >= {shard.name for shard in layer.source.shards}:
            _check_rejects(task, layer.finish(), subject.recipe.eval.max_reject_rate, layer.folder)


def _fill(engine: Engine | Replicas, parts: Sequence[Part], title: str, subject: Subject, stop: Stop) -> None:
    log_path, note = parts[0].layer.folder.parent / "log.jsonl", note_of(subject.recipe, subject.asked.engine)
    annotate(engine, parts, title=title, stop=stop, unit="answers", note=note, log_path=log_path)


def _metrics(
    subject: Subject,
    folder: Path,
    tasks: Sequence[Task],
    layers: Mapping[str, LayerWriter],
    answers: Answers,
    stop: Stop,
) -> dict[str, Any]:
    """What metrics.json holds, once all answers are there and a judge has marked those that need it."""
    recipe, marker = subject.recipe, Marker(subject.recipe, folder, answers, stop)
    for task in tasks:
        stats = layers[task.name].finish()
        if task.scorer.marking is not None:
            stats = marker.mark(task, layers[task.name].source, subject.task_inputs(task))
            marker.check_budget()
        _check_rejects(task, stats, recipe.eval.max_reject_rate, folder / task.name)
    metrics = measure(recipe, tasks, folder) | {
        "model": subject.model,
        "model_sha256": subject.asked.model_sha256,
        "round": subject.round,
        "protocol": subject.protocol(),
    }
    for name, judge in marker.protocols.items():
        metrics["tasks"][name]["judge"] = judge
    return metrics


def _check_rejects(task: Task, stats: ShardStats, max_reject_rate: float, folder: Path) -> None:
    if stats.num_out == 0 or are_too_many(stats.reject_rate, stats.num_rejected, max_reject_rate):
        reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
        way_out = f", or raise eval.max_reject_rate above {max_reject_rate}" if stats.num_out else ""
        raise RejectBudgetError(
            f"task {task.name}: {stats.num_rejected} of {stats.num_in} samples could not be used ({reasons}); "
            f"see {folder / 'rejects.jsonl'}{way_out}; the first: {first_reject(folder)}"
        )
