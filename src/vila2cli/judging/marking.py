"""Answers to a benchmark that a judge marks: a prediction layer without scores becomes one with them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vila2cli.ask.annotate import annotate
from vila2cli.ask.engines import LimitedEngine
from vila2cli.ask.fill import Dialogue, Part
from vila2cli.ask.kept_answers import Answers
from vila2cli.ask.model import AskedModel
from vila2cli.errors import BudgetError, DataError, RecipeError, RejectBudgetError
from vila2cli.image import Decode
from vila2cli.judging.judges import asked_judge
from vila2cli.judging.results import problem_of, why_unread
from vila2cli.run.folder import claim
from vila2cli.run.stopping import Stop
from vila2cli.score.scorer import Marking
from vila2cli.score.task import Task
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import ShardStats, ShardWriter, Source, open_layer
from vila2cli.shards.annotations import read_annotations
from vila2cli.shards.rejects import OVER_BUDGET, read_rejects
from vila2cli.shards.sample import Annotation, Reject, Sample, Turn
from vila2cli.text.compose import neutral
from vila2cli.text.prompts import fill, prompt_sha256, prompt_text

LAYER = "eval"
_MAX_NEW_TOKENS = 32


def answers_dir(folder: Path, task: Task) -> Path:
    """Where an eval's answers to a task lie: those that a judge marks apart from what it makes of them."""
    return folder / (task.name if task.scorer.marking is None else f"{task.name}.answers")


def check_judge(recipe: Recipe, tasks: Sequence[Task]) -> None:
    """Raise RecipeError where a task needs a judge and `eval.judge` names none."""
    marked = [task.name for task in tasks if task.scorer.marking is not None]
    name = recipe.eval.judge
    if marked and name not in recipe.judges:
        known = f"known are {', '.join(recipe.judges)}" if recipe.judges else "there is none"
        raise RecipeError(
            f"a judge marks the answers to {', '.join(marked)}, and eval.judge is {name!r}, no table "
            f"[judges.NAME] ({known}): give --set eval.judge=gpt --set judges.gpt.model=MODEL, and --set "
            "judges.gpt.api.base_url=URL for a server or --set judges.gpt.engine=auto for a checkpoint"
        )


class Marker:
    """The judge of `eval.judge` over answers in an eval's folder; `check_judge` goes before.

    Its model is looked for when it marks the first task. `protocols` says by task who marked it, and how.
    """

    def __init__(self, recipe: Recipe, folder: Path, answers: Answers, stop: Stop) -> None:
        self._recipe, self._folder, self._answers, self._stop = recipe, folder, answers, stop
        self.protocols: dict[str, dict[str, Any]] = {}
        self._num_left = 0

    @cached_property
    def _asked(self) -> AskedModel:
        settings = self._recipe.judges[self._recipe.eval.judge]
        machine = self._recipe.engine_of("judge")
        return asked_judge(settings, settings.max_new_tokens or _MAX_NEW_TOKENS, machine)

    @cached_property
    def _engine(self) -> LimitedEngine:
        return LimitedEngine(self._asked.open(self._stop))

    def mark(self, task: Task, source: Source, inputs: Mapping[str, Any]) -> ShardStats:
        """Write the scored layer of a task again from its answers; marks that were paid for are kept.

        An answer without a mark is a reject, and so is what was one among the answers. `inputs` is what
        decided the answers. Raises BudgetError or RejectBudgetError when none was marked.
        """
        out, self.protocols[task.name] = self._folder / task.name, self._protocol(task)
        described = {**inputs, "judge": self.protocols[task.name], "shards": source.outline()}
        manifest = claim(out, described)
        layer = open_layer(
            out,
            layer=LAYER,
            source=source,
            manifest={"digest": manifest.digest},
            is_packed=self._recipe.data.compress_layers,
        )
        marks = Marks(self._recipe, self._asked, task, answers_dir(self._folder, task), source)
        annotate(
            self._asked.keeping(self._engine, self._answers, {}),
            [Part(layer, marks, source.shards)],
            title=f"mark {task.name}",
            stop=self._stop,
            unit="answers",
            log_path=self._folder / "log.jsonl",
        )
        self._num_left += marks.num_left
        stats = layer.finish()
        if stats.num_out == 0:
            self.check_budget()
            reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
            raise RejectBudgetError(
                f"task {task.name}: {self._asked.name} marked none of {len(marks.predictions)} answers "
                f"({reasons}); see {out / 'rejects.jsonl'}, and run this again when it answers"
            )
        return stats

    def check_budget(self) -> None:
        """Raise BudgetError where answers were left for want of budget, now that the rest is written."""
        if self._num_left:
            raise BudgetError(f"{self._num_left} answers were not marked: {self._engine.spent}")

    def _protocol(self, task: Task) -> dict[str, Any]:
        prompt = _marking(task).prompt
        return {
            "judge": self._recipe.eval.judge,
            "model": self._asked.name,
            **self._asked.inputs(),
            "temperature": 0.0,
            "prompt_id": prompt,
            "prompt_sha256": prompt_sha256(prompt, self._recipe.prompts),
        }


class Marks:
    """The task of asking a judge about answers in a folder, which it is shown without the images."""

    def __init__(self, recipe: Recipe, asked: AskedModel, task: Task, folder: Path, source: Source) -> None:
        self._judge, self._asked, self._task, self._folder = recipe.eval.judge, asked, task, folder
        self._template = prompt_text(_marking(task).prompt, recipe.prompts)
        self.predictions = dict(read_annotations(folder))
        rejects = [reject for shard in source.shards for reject in read_rejects(folder, shard.name)]
        self._rejects = {(reject.shard, reject.key): reject for reject in rejects}
        self.num_left = 0
        """Answers that were not marked for want of budget."""

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether there is an answer; what was a reject stays one."""
        place = (out.name, sample.key)
        if (reject := self._rejects.get(place)) is not None:
            out.reject(reject)
        elif place not in self.predictions:
            raise DataError(
                f"{self._folder} has neither an answer nor a reject of {sample.key!r}; run eval again"
            )
        return reject is None

    def prepare(self, sample: Sample, decode: Decode) -> None:
        """Nothing: the judge is shown no image."""

    def talk(self, out: ShardWriter, sample: Sample, made: None) -> Dialogue:
        """Ask for a mark and write the answer with it, or reject it where there is none."""
        prediction = self.predictions[out.name, sample.key]
        (result,) = yield [self._asked.request([Turn("user", self._prompt(sample, prediction))])]
        row = None if problem_of(result) else _marking(self._task).read(result.answer.text)
        if row is None:
            reason = why_unread(result).partition(":")[0]
            self.num_left += reason == OVER_BUDGET
            error = problem_of(result) or result.answer.text[:200]
            out.reject(Reject(out.name, sample.key, f"judge-{reason}", error))
            return
        more = {"judge": self._judge, "reply": result.answer.text}
        out.annotate(
            sample,
            replace(prediction, scores={**prediction.scores, **row}, decision={**prediction.decision, **more}),
        )

    def _prompt(self, sample: Sample, prediction: Annotation) -> str:
        slots = _marking(self._task).slots(prediction.text or "", self._task.reference_of(sample))
        quoted = {name: json.dumps(neutral(text), ensure_ascii=False) for name, text in slots.items()}
        return fill(self._template, **quoted)


def _marking(task: Task) -> Marking:
    assert task.scorer.marking is not None, f"{task.name} is not marked by a judge"
    return task.scorer.marking
