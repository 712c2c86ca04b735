"""`vila2 eval`: ask a checkpoint the questions of task shards and score its answers.

Reads task folders (task.toml and shards), writes one prediction layer per task and, last of all,
metrics.json with every metric as value, low and high of its 95% bootstrap interval.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vila2cli import __version__
from vila2cli.engine import Engine, EngineSettings, Request, Result, choose_engine, dtype_of, open_engine
from vila2cli.errors import DataError, RecipeError, RejectBudgetError
from vila2cli.files import read_json
from vila2cli.image import DEFAULT_MAX_PIXELS, decode_image
from vila2cli.model.checkpoint import resolve_model, weights_sha256
from vila2cli.progress import Progress
from vila2cli.recipe import Recipe
from vila2cli.run import claim, lock, write_json
from vila2cli.sample import Annotation, Reject, Sample, Turn
from vila2cli.score.compare import read_predictions
from vila2cli.score.scorer import Reference
from vila2cli.score.stats import CONFIDENCE, Estimate, estimate, mean_of
from vila2cli.score.task import Task, find_tasks
from vila2cli.shards import (
    Shard,
    ShardStats,
    ShardWriter,
    Source,
    expected_samples,
    folder_stats,
    open_layer,
    open_source,
)
from vila2cli.stopping import Stop, interruptible

LAYER = "eval"


@dataclass(frozen=True, slots=True)
class _Question:
    """A sample with what is asked about it and what is true."""

    sample: Sample
    text: str
    reference: Reference


def evaluate(
    recipe: Recipe,
    *,
    model: str | Path,
    out: str | Path,
    tasks: Sequence[str | Path] = (),
    round: int | None = None,
) -> dict[str, Any]:
    """Score `model` on tasks (default: `eval.tasks` of the recipe) and return what metrics.json holds.

    Shards that are complete are not asked again. Raises DataError for tasks that cannot be read,
    RecipeError when `out` was made with other inputs, and RejectBudgetError when more samples of a
    task are unusable than `eval.max_reject_rate` allows; metrics.json is not written then.
    """
    found = find_tasks(tasks or recipe.eval.tasks)
    if not found:
        raise RecipeError("no tasks to evaluate; name task folders with --tasks or eval.tasks")
    sources = {task.name: open_source([str(task.folder)]) for task in found}
    folder = Path(out)
    with lock(folder), interruptible() as stop:
        with stop.at_once():
            asker = _Asker(recipe, model, folder, round, stop)
        claim(folder, asker.inputs(), recipe)
        for task in found:
            asker.ask_task(task, sources[task.name])
        metrics = _measure(recipe, found, folder) | {
            "model": str(model),
            "model_sha256": asker.model_sha256,
            "round": round,
            "protocol": _protocol(recipe, asker),
        }
        write_json(folder / "metrics.json", metrics)
    return metrics


class _Asker:
    """Sends questions to the engine, which is loaded when the first one is due."""

    def __init__(self, recipe: Recipe, model: str | Path, folder: Path, round: int | None, stop: Stop):
        self.recipe, self.model, self.folder, self.round, self.stop = recipe, str(model), folder, round, stop
        self.model_dir = resolve_model(model)
        self.model_sha256 = weights_sha256(self.model_dir)
        self.engine_name = choose_engine(recipe.eval.engine, self.model_dir).kind
        self.dtype = dtype_of(self.engine_name, self.model_dir, recipe.eval.dtype)
        self._engine: Engine | None = None

    def inputs(self) -> dict[str, Any]:
        """What decides the answers, the tasks apart."""
        return {
            "stage": "eval",
            "model_sha256": self.model_sha256,
            "round": self.round,
            "engine": self.engine_name,
            "max_new_tokens": self.recipe.eval.max_new_tokens,
            **({} if self.recipe.eval.dtype == "auto" else self.dtype),  # the weights decide their own
        }

    def ask_task(self, task: Task, source: Source) -> None:
        """Write what is missing of a task's prediction layer; raises RejectBudgetError at its end."""
        folder = self.folder / task.name
        manifest = claim(folder, {**self.inputs(), "task": _task_inputs(task), "shards": source.outline()})
        writer = open_layer(folder, layer=LAYER, source=source, manifest={"digest": manifest.digest})
        with self.stop.at_once():
            missing = writer.missing(source.shards)
        if missing:
            total, _ = expected_samples(missing)
            with Progress(f"eval {task.name}", total, "answers", self.folder / "log.jsonl") as progress:
                for shard in missing:
                    self.stop.check()
                    with writer.shard(shard) as writing:
                        self._ask_shard(task, shard, writing, progress)
        _check_rejects(task, writer.finish(), self.recipe.eval.max_reject_rate, folder)

    def _ask_shard(self, task: Task, shard: Shard, writing: ShardWriter, progress: Progress) -> None:
        questions = dict(_questions(task, shard, writing))
        if not questions:
            return
        for result in self._open(progress).generate(self._requests(task, shard, questions, writing)):
            self.stop.check()
            progress.advance()
            question = questions[result.id]
            if result.error is not None:
                writing.reject(Reject(shard.name, result.id, "engine", result.error))
                continue
            writing.annotate(question.sample, self._annotation(task, question, result))
            writing.count(tokens=result.num_tokens)

    def _open(self, progress: Progress) -> Engine:
        if self._engine is None:
            settings = EngineSettings(dtype=self.recipe.eval.dtype, batch_size=self.recipe.eval.batch_size)
            self._engine = open_engine(self.engine_name, self.model, settings, self.stop)
            for note in self._engine.notes:
                progress.note(note)
        return self._engine

    def _requests(
        self, task: Task, shard: Shard, questions: dict[str, _Question], writing: ShardWriter
    ) -> Iterator[Request]:
        for key, question in questions.items():
            try:
                images = tuple(decode_image(image.data) for image in question.sample.images)
            except DataError as error:
                writing.reject(Reject(shard.name, key, "image", str(error)))
                continue
            yield Request(
                id=key,
                messages=(Turn("user", question.text),),
                images=images,
                max_new_tokens=self.recipe.eval.max_new_tokens,
                group=f"{task.name}/{shard.name}",
            )

    def _annotation(self, task: Task, question: _Question, result: Result) -> Annotation:
        return Annotation(
            layer=LAYER,
            kind="prediction",
            text=result.text,
            scores=task.scorer.score(result.text, question.reference),
            round=self.round,
            model=self.model,
            model_sha256=self.model_sha256,
            prompt_sha256=hashlib.sha256(question.text.encode()).hexdigest(),
            sampling={"engine": self.engine_name, "temperature": 0.0, **self.dtype, **_limits(self.recipe)},
            num_tokens=result.num_tokens,
            finish_reason=result.finish_reason,
            logprob_mean=result.logprob_mean,
        )


def _questions(task: Task, shard: Shard, writing: ShardWriter) -> Iterator[tuple[str, _Question]]:
    """The samples of a shard that can be asked and scored; the others are rejected."""
    for sample in writing.samples():
        try:
            question = _Question(sample, task.question_of(sample), task.reference_of(sample))
            task.scorer.score("", question.reference)
        except DataError as error:
            writing.reject(Reject(shard.name, sample.key, "task", str(error)))
        else:
            yield sample.key, question


def _limits(recipe: Recipe) -> dict[str, int]:
    return {"max_new_tokens": recipe.eval.max_new_tokens}


def _task_inputs(task: Task) -> dict[str, Any]:
    return {
        "version": task.version,
        "question": task.question,
        "scorer": task.scorer.name,
        "scorer_version": task.scorer.version,
        "vocabulary": task.vocabulary,
    }


def _check_rejects(task: Task, stats: ShardStats, max_reject_rate: float, folder: Path) -> None:
    if stats.num_out == 0 or stats.reject_rate > max_reject_rate:
        reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
        raise RejectBudgetError(
            f"task {task.name}: {stats.num_rejected} of {stats.num_in} samples could not be used ({reasons}); "
            f"see {folder / 'rejects.jsonl'}, or raise eval.max_reject_rate above {max_reject_rate}"
        )


def _measure(recipe: Recipe, tasks: Sequence[Task], folder: Path) -> dict[str, Any]:
    """The scores of every task, from the prediction layers on disk."""
    entries, headlines = {}, []
    seconds = 0.0
    for task in tasks:
        predictions = read_predictions(folder / task.name)
        found = estimate(
            predictions.columns(),
            task.scorer.metrics,
            groups=predictions.groups,
            num_bootstrap=recipe.eval.num_bootstrap,
            seed=recipe.seed,
        )
        stats = folder_stats(folder / task.name)
        seconds += stats.seconds
        entries[task.name] = _entry(task, found, stats)
        if not task.is_caption:
            headlines.append(found[task.scorer.headline])
    captions = [entries[task.name]["metrics"] for task in tasks if task.is_caption]
    return {
        "tasks": entries,
        "qa_mean": mean_of(headlines).interval().to_json() if headlines else None,
        "caption": captions[0] if captions else None,
        "num_rejected": sum(entry["num_rejected"] for entry in entries.values()),
        "seconds": round(seconds, 3),
    }


def _entry(task: Task, found: dict[str, Estimate], stats: ShardStats) -> dict[str, Any]:
    return {
        "metrics": {name: one.interval().to_json() for name, one in found.items()},
        "headline": task.scorer.headline,
        "num_samples": stats.num_out,
        "num_rejected": stats.num_rejected,
        "rejected": dict(stats.dropped),
        "version": task.version,
        "split": task.split,
        "answer_type": task.answer_type,
        "scorer": task.scorer.name,
        "scorer_version": task.scorer.version,
        "question": task.question,
        "seconds": round(stats.seconds, 3),
        "num_tokens": stats.tokens,
    }


def _protocol(recipe: Recipe, asker: _Asker) -> dict[str, Any]:
    """Everything that another harness must match to get the same scores."""
    vision = read_json(asker.model_dir / "config.json").get("vision_config")
    return {
        "question": "the task's question, else the sample's own, as it is, in one user turn with its images",
        "engine": asker.engine_name,
        **asker.dtype,
        "temperature": 0.0,
        **_limits(recipe),
        "image_size": vision.get("image_size") if isinstance(vision, dict) else None,
        "max_pixels": DEFAULT_MAX_PIXELS,
        "interval": f"{CONFIDENCE:.0%} percentile of a Poisson bootstrap over images, the same for all tasks",
        "num_bootstrap": recipe.eval.num_bootstrap,
        "seed": recipe.seed,
        "qa_mean": "mean of the headline metrics of all tasks that are not captions",
        "versions": {"vila2cli": __version__, **{name: version(name) for name in ("torch", "transformers")}},
    }
