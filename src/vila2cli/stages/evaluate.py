"""`vila2 eval`: ask a checkpoint the questions of task shards and score its answers.

Reads task folders (task.toml and shards), writes one prediction layer per task and, last of all,
metrics.json with every metric as value, low and high of its 95% bootstrap interval. Workers share the
shards of all tasks; the one that finds the last of them answered writes metrics.json.
"""

import gc
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vila2cli import __version__
from vila2cli.ask.kept_answers import ANSWERS_FILE, Answers, answer_key, server_inputs
from vila2cli.engine import (
    Engine,
    EngineSettings,
    Request,
    Result,
    choose_engine,
    context_for,
    dtype_of,
    identify,
    open_engine,
)
from vila2cli.engine.keys import api_key
from vila2cli.engine.notes import NewNotes
from vila2cli.errors import DataError, RecipeError, RejectBudgetError
from vila2cli.evaluation.measure import measure, reasoning_of
from vila2cli.evaluation.questions import Question, questions_of
from vila2cli.evaluation.repair import REFUSED, Earlier, reopen
from vila2cli.evaluation.shots import Shots, open_shots
from vila2cli.files import one_at_a_time, read_json
from vila2cli.image import decode_image
from vila2cli.judging.marking import Marker, answers_dir, check_judge
from vila2cli.model.checkpoint import resolve_model
from vila2cli.run.folder import Worker, claim, lock, write_json
from vila2cli.run.progress import Progress
from vila2cli.run.splitting import count_undone, split
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.score.stats import CONFIDENCE, FEW_IMAGES
from vila2cli.score.task import Task, find_tasks
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import (
    LayerWriter,
    Shard,
    ShardStats,
    ShardWriter,
    Source,
    expected_samples,
    open_layer,
    open_source,
)
from vila2cli.shards.rejects import NO_ANSWER, first_reject
from vila2cli.shards.sample import Annotation, Reject

LAYER = "eval"


def evaluate(
    recipe: Recipe,
    *,
    model: str | Path,
    out: str | Path,
    tasks: Sequence[str | Path] = (),
    round: int | None = None,
    worker: Worker | None = None,
) -> dict[str, Any]:
    """Score `model` on tasks (default: `eval.tasks` of the recipe) and return what metrics.json holds.

    A worker asks its part of the shards; while others have theirs to do, what is returned says how far
    all are ("scored" is false). Shards that are complete are not asked again, but for questions that a
    server left unanswered.
    Answers of a server are kept as they come, so that none is paid for twice whatever ends an eval.
    Raises DataError for tasks that cannot be read, RecipeError when `out` was made with other inputs or a task
    needs a judge that is not given, and RejectBudgetError when more samples of a task are unusable than
    `eval.max_reject_rate` allows and BudgetError when a judge's budget ended; metrics.json is not written then.
    """
    found = find_tasks(tasks or recipe.eval.tasks, box_frame=recipe.eval.box_frame)
    if not found:
        raise RecipeError("no tasks to evaluate; name task folders with --tasks or eval.tasks")
    check_judge(recipe, found)
    sources = {task.name: open_source([task.folder]) for task in found}
    folder, worker = Path(out), worker or Worker()
    written = folder / "metrics.json"
    with (
        lock(folder, worker),
        interruptible() as stop,
        Answers(folder / ANSWERS_FILE, worker) as answers,
    ):
        with stop.at_once():
            asker = _Asker(recipe, model, folder, round, stop, answers)
            claim(folder, asker.inputs(), recipe)
        layers = {task.name: asker.open_layer(task, sources[task.name]) for task in found}
        names = {task.name: layers[task.name].folder.name for task in found}
        mine = split(folder, {names[name]: source.shards for name, source in sources.items()}, worker)
        with stop.at_once(), one_at_a_time(folder):
            earlier = {name: reopen(layers[name].folder, mine[names[name]]) for name in layers}
            if any(earlier.values()):
                written.unlink(missing_ok=True)
        known = _changed(written)
        for task in found:
            asker.ask_task(task, layers[task.name], mine[names[task.name]], earlier[task.name])
        asker.close()
        with ExitStack() as stack:
            with stop.at_once():
                stack.enter_context(one_at_a_time(folder))
            num_undone, num_shards = count_undone(folder)
            if num_undone:
                return {"scored": False, "num_shards": num_shards, "num_shards_done": num_shards - num_undone}
            if _changed(written) not in (known, None):  # another worker was last, too, and quicker
                return read_json(written)
            answers.refresh()
            metrics = _metrics(asker, layers, found)
            write_json(written, metrics)
    return metrics


def _metrics(asker: "_Asker", layers: Mapping[str, LayerWriter], tasks: Sequence[Task]) -> dict[str, Any]:
    """What metrics.json holds, once all answers are there and a judge has marked those that need it."""
    recipe, folder = asker.recipe, asker.folder
    judges: dict[str, dict[str, Any]] = {}
    marker = None
    for task in tasks:
        stats = layers[task.name].finish()
        if task.scorer.marking is not None:
            marker = marker or Marker(recipe, folder, asker.answers, asker.stop)
            stats = marker.mark(task, layers[task.name].source, asker.task_inputs(task))
            marker.check_budget()
            judges[task.name] = marker.protocol(task)
        _check_rejects(task, stats, recipe.eval.max_reject_rate, folder / task.name)
    metrics = measure(recipe, tasks, folder) | {
        "model": asker.model,
        "model_sha256": asker.model_sha256,
        "round": asker.round,
        "protocol": _protocol(recipe, asker),
    }
    for name, judge in judges.items():
        metrics["tasks"][name]["judge"] = judge
    return metrics


def _changed(path: Path) -> int | None:
    """When a file was last written, in nanoseconds; None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


class _Asker:
    """Sends questions to the engine, which is loaded when the first one is due."""

    def __init__(
        self,
        recipe: Recipe,
        model: str | Path,
        folder: Path,
        round: int | None,
        stop: Stop,
        answers: Answers,
    ):
        self.recipe, self.model, self.folder, self.round, self.stop = recipe, str(model), folder, round, stop
        self.answers = answers
        self._decode = partial(decode_image, max_pixels=recipe.data.max_pixels)
        self.engine_name = choose_engine(recipe.eval.engine, model).kind
        self.model_dir = None if self.engine_name == "api" else resolve_model(model)
        self.model_sha256 = identify(self.engine_name, model, recipe.api)[1]
        self.dtype = dtype_of(self.engine_name, model, recipe.eval.dtype)
        self._engine: Engine | None = None
        self._notes = NewNotes()

    def inputs(self) -> dict[str, Any]:
        """What decides the answers, the tasks apart."""
        return {
            "stage": "eval",
            "model_sha256": self.model_sha256,
            "round": self.round,
            "engine": self.engine_name,
            "max_new_tokens": self.recipe.eval.max_new_tokens,
            **({} if self.recipe.eval.dtype == "auto" else self.dtype),  # the weights decide their own
            **_few_shot(self.recipe),
            **self.recipe.data.limits(),
        }

    def task_inputs(self, task: Task) -> dict[str, Any]:
        """What decides the answers to a task, its shards apart."""
        return {**self.inputs(), "task": _task_inputs(task)}

    def open_layer(self, task: Task, source: Source) -> LayerWriter:
        """The prediction layer of a task."""
        folder = answers_dir(self.folder, task)
        manifest = claim(folder, {**self.task_inputs(task), "shards": source.outline()})
        return open_layer(folder, layer=LAYER, source=source, manifest={"digest": manifest.digest})

    def close(self) -> None:
        """Let go of the model, whose memory a judge may need."""
        self._engine = None
        gc.collect()

    def ask_task(
        self, task: Task, writer: LayerWriter, shards: Sequence[Shard], earlier: Mapping[str, Earlier]
    ) -> None:
        """Write what is missing of these shards of a task; raises RejectBudgetError once all are there."""
        with self.stop.at_once():
            missing = writer.missing(shards)
        if missing:
            total, _ = expected_samples(missing)
            shots = self._open_shots(task)
            with Progress(f"eval {task.name}", total, "answers", self.folder / "log.jsonl") as progress:
                for shard in missing:
                    self.stop.check()
                    with writer.shard(shard) as writing:
                        known = earlier.get(shard.name, Earlier())
                        self._ask_shard(task, shard, writing, progress, shots, known)
        if task.scorer.marking is None and writer.done() >= {shard.name for shard in writer.source.shards}:
            _check_rejects(task, writer.finish(), self.recipe.eval.max_reject_rate, writer.folder)

    def _open_shots(self, task: Task) -> Shots | None:
        settings = self.recipe.eval
        if settings.num_shots == 0:
            return None
        return open_shots(task, settings.shots_dir, settings.num_shots, self.recipe.seed)

    def _ask_shard(
        self,
        task: Task,
        shard: Shard,
        writing: ShardWriter,
        progress: Progress,
        shots: Shots | None,
        earlier: Earlier,
    ) -> None:
        questions = dict(_unknown(questions_of(task, shard, writing, shots), earlier, writing, progress))
        if not questions:
            return
        for result in self._generate(self._requests(task, shard, questions, writing), questions, progress):
            self.stop.check()
            progress.advance()
            self._notes.tell(self._engine, progress.note)
            question = questions[result.id]
            if result.error is not None:
                reason = NO_ANSWER if result.failure == "unanswered" else REFUSED
                writing.reject(Reject(shard.name, result.id, reason, result.error))
                continue
            writing.annotate(question.sample, self._annotation(task, question, result))
            writing.count(tokens=result.num_tokens)

    def _generate(
        self, requests: Iterator[Request], questions: Mapping[str, Question], progress: Progress
    ) -> Iterator[Result]:
        """Results as they come; what a server is paid for is kept before it is used."""
        engine = self._open(progress, max(len(one.messages()[1]) for one in questions.values()))
        if self.engine_name != "api":
            return engine.generate(requests)
        keyed = ((self._answer_key(request, questions[request.id]), request) for request in requests)
        return self.answers.ask(keyed, engine.generate)

    def _answer_key(self, request: Request, question: Question) -> str:
        how = {
            "model_sha256": self.model_sha256,
            "engine": self.engine_name,
            **_limits(self.recipe),
            **self.recipe.data.limits(),
            **server_inputs(self.recipe.api),
        }
        samples = [*(shot.sample for shot in question.shots), question.sample]
        prompt = "\n".join(f"{turn.role}: {turn.text}" for turn in request.messages)
        return answer_key(how, prompt, [sample.image_sha256 for sample in samples])

    def _open(self, progress: Progress, num_images: int) -> Engine:
        """The engine, opened for requests with so many images."""
        if self._engine is None:
            settings = EngineSettings(
                dtype=self.recipe.eval.dtype,
                batch_size=self.recipe.eval.batch_size,
                max_model_len=context_for(num_images),
                api=self.recipe.api,
                api_key=api_key(self.recipe.api),
            )
            self._engine = open_engine(self.engine_name, self.model, settings, self.stop)
            self._notes = NewNotes()
            self._notes.tell(self._engine, progress.note)
        return self._engine

    def _requests(
        self, task: Task, shard: Shard, questions: dict[str, Question], writing: ShardWriter
    ) -> Iterator[Request]:
        for key, question in questions.items():
            turns, pictures = question.messages()
            try:
                images = tuple(self._decode(data) for data in pictures)
            except DataError as error:
                writing.reject(Reject(shard.name, key, "bad-image", str(error)))
                continue
            yield Request(
                id=key,
                messages=turns,
                images=images,
                max_new_tokens=self.recipe.eval.max_new_tokens,
                group=f"{task.name}/{shard.name}",
            )

    def _annotation(self, task: Task, question: Question, result: Result) -> Annotation:
        return Annotation(
            layer=LAYER,
            kind="prediction",
            text=result.answer.text,
            scores=task.scorer.stored(result.answer.text, question.reference),
            round=self.round,
            model=self.model,
            model_sha256=self.model_sha256,
            prompt_sha256=hashlib.sha256(question.text.encode()).hexdigest(),
            decision={
                **({"shots": [shot.sample.key for shot in question.shots]} if question.shots else {}),
                **reasoning_of(result.answer),
            },
            sampling={"engine": self.engine_name, "temperature": 0.0, **self.dtype, **_limits(self.recipe)},
            num_tokens=result.num_tokens,
            finish_reason=result.finish_reason,
            logprob_mean=result.logprob_mean,
        )


def _unknown(
    questions: Iterable[tuple[str, Question]], earlier: Earlier, writing: ShardWriter, progress: Progress
) -> Iterator[tuple[str, Question]]:
    """The questions that nothing is known of; what came of the others is written as it was."""
    for key, question in questions:
        if (prediction := earlier.predictions.get(key)) is not None:
            writing.annotate(question.sample, prediction)
            writing.count(tokens=prediction.num_tokens or 0)
            progress.advance()
        elif (reject := earlier.refused.get(key)) is not None:
            writing.reject(reject)
            progress.advance()
        else:
            yield key, question


def _few_shot(recipe: Recipe) -> dict[str, Any]:
    """What decides few-shot answers beside the task; nothing where none are asked for."""
    settings = recipe.eval
    if settings.num_shots == 0:
        return {}
    return {"num_shots": settings.num_shots, "shots_dir": settings.shots_dir, "shots_seed": recipe.seed}


def _limits(recipe: Recipe) -> dict[str, int]:
    return {"max_new_tokens": recipe.eval.max_new_tokens}


def _task_inputs(task: Task) -> dict[str, Any]:
    return {
        "version": task.version,
        "question": task.question,
        "scorer": task.scorer.name,
        "scorer_version": task.scorer.version,
        "vocabulary": task.vocabulary,
        **({"prompt": task.prompt} if task.prompt != "{question}" else {}),
        **({"synonyms": dict(task.synonyms)} if task.synonyms else {}),
    }


def _check_rejects(task: Task, stats: ShardStats, max_reject_rate: float, folder: Path) -> None:
    if stats.num_out == 0 or stats.reject_rate > max_reject_rate:
        reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
        way_out = f", or raise eval.max_reject_rate above {max_reject_rate}" if stats.num_out else ""
        raise RejectBudgetError(
            f"task {task.name}: {stats.num_rejected} of {stats.num_in} samples could not be used ({reasons}); "
            f"see {folder / 'rejects.jsonl'}{way_out}; the first: {first_reject(folder)}"
        )


def _protocol(recipe: Recipe, asker: _Asker) -> dict[str, Any]:
    """Everything that another harness must match to get the same scores."""
    config = {} if asker.model_dir is None else read_json(asker.model_dir / "config.json")
    vision = config.get("vision_config")
    return {
        "question": "the task's question, else the sample's own, in the task's prompt, as one user turn with "
        "its images; the turns of shots go before it",
        "engine": asker.engine_name,
        **asker.dtype,
        "temperature": 0.0,
        **_limits(recipe),
        "num_shots": recipe.eval.num_shots,
        **_few_shot(recipe),
        "image_size": vision.get("image_size") if isinstance(vision, dict) else None,
        "max_pixels": recipe.data.max_pixels,
        "interval": f"{CONFIDENCE:.0%} percentile of a Poisson bootstrap over images, the same for all tasks; "
        f"of shares of fewer than {FEW_IMAGES} images, or all right or wrong, Newcombe's cautious interval",
        **({"box_frame": recipe.eval.box_frame} if recipe.eval.box_frame else {}),
        "num_bootstrap": recipe.eval.num_bootstrap,
        "seed": recipe.seed,
        "qa_mean": "mean of the headline metrics of all tasks that are not captions",
        "versions": {"vila2cli": __version__, **{name: version(name) for name in ("torch", "transformers")}},
    }
