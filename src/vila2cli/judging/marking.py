"""Answers to a benchmark that a judge marks: a prediction layer without scores becomes one with them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vila2cli.ask.kept_answers import Answers
from vila2cli.errors import BudgetError, DataError, RecipeError, RejectBudgetError
from vila2cli.judging.asking import AskedModel, Inquiry, Question, Reply
from vila2cli.run.folder import claim
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.score.scorer import Marking, Row
from vila2cli.score.task import Task
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Shard, ShardStats, ShardWriter, Source, open_layer
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.rejects import OVER_BUDGET, read_rejects
from vila2cli.shards.sample import Annotation, Reject, Sample
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
    """The judge of `eval.judge` over answers in an eval's folder; `check_judge` goes before."""

    def __init__(self, recipe: Recipe, folder: Path, answers: Answers, stop: Stop) -> None:
        settings = recipe.judges[recipe.eval.judge]
        max_new_tokens = settings.max_new_tokens or _MAX_NEW_TOKENS
        self._asked = AskedModel(recipe.eval.judge, settings, max_new_tokens, answers, stop)
        self._own, self._folder, self._stop = recipe.prompts, folder, stop
        self._num_left = 0

    def protocol(self, task: Task) -> dict[str, Any]:
        """Who marks a task, and how."""
        prompt = _marking(task).prompt
        return {
            "judge": self._asked.name,
            "model": self._asked.model,
            **self._asked.protocol(),
            "prompt_id": prompt,
            "prompt_sha256": prompt_sha256(prompt, self._own),
        }

    def mark(self, task: Task, source: Source, inputs: Mapping[str, Any]) -> ShardStats:
        """Write the scored layer of a task anew from its answers; marks that were paid for are kept.

        An answer without a mark is a reject, and so is what was one among the answers. `inputs` is what
        decided the answers. Raises BudgetError or RejectBudgetError when none was marked.
        """
        out, given = self._folder / task.name, answers_dir(self._folder, task)
        described = {**inputs, "judge": self.protocol(task), "shards": source.outline()}
        manifest = claim(out, described)
        writer = open_layer(out, layer=LAYER, source=source, manifest={"digest": manifest.digest})
        num_answers = sum(
            1 for shard in source.shards for _ in read_annotation_tar(given / f"{shard.name}.tar")
        )
        with Progress(f"mark {task.name}", num_answers, "answers", self._folder / "log.jsonl") as progress:
            for shard in source.shards:
                self._stop.check()
                with writer.shard(shard) as writing:
                    self._mark_shard(task, shard, given, writing, progress)
        stats = writer.finish()
        if stats.num_out == 0:
            self.check_budget()
            reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
            raise RejectBudgetError(
                f"task {task.name}: {self._asked.model} marked none of {num_answers} answers ({reasons}); see "
                f"{out / 'rejects.jsonl'}, and run this again when it answers"
            )
        return stats

    def check_budget(self) -> None:
        """Raise BudgetError where answers were left for want of budget, now that the rest is written."""
        if self._num_left:
            raise BudgetError(f"{self._num_left} answers were not marked: {self._asked.spent}")

    def _mark_shard(
        self, task: Task, shard: Shard, given: Path, writing: ShardWriter, progress: Progress
    ) -> None:
        predictions = dict(read_annotation_tar(given / f"{shard.name}.tar"))
        rejects = {reject.key: reject for reject in read_rejects(given, shard.name)}
        samples: dict[str, Sample] = {}
        for sample in writing.samples():
            if sample.key in predictions:
                samples[sample.key] = sample
            elif sample.key in rejects:
                writing.reject(rejects[sample.key])
            else:
                raise DataError(f"{given} has neither an answer nor a reject of {sample.key!r}; run eval again")
        marking = _marking(task)
        inquiries = self._inquiries(task, shard, samples, predictions)

        def count(*, dollars: float = 0.0, **_: float) -> None:  # the tokens of a task are those of its answers
            if dollars:
                writing.count(dollars=dollars)

        for key, reply in self._asked.ask(inquiries, count, progress):
            progress.advance()
            row = None if reply.problem else marking.read(reply.text)
            if row is None:
                writing.reject(self._unmarked(shard, key, reply))
                continue
            writing.annotate(samples[key], self._marked(predictions[key], row, reply))
            writing.count(tokens=predictions[key].num_tokens or 0)

    def _inquiries(
        self, task: Task, shard: Shard, samples: Mapping[str, Sample], predictions: Mapping[str, Annotation]
    ) -> Iterator[Inquiry[str]]:
        marking = _marking(task)
        template = prompt_text(marking.prompt, self._own)
        for key, sample in samples.items():
            slots = marking.slots(predictions[key].text or "", task.reference_of(sample))
            quoted = {name: json.dumps(neutral(text), ensure_ascii=False) for name, text in slots.items()}
            yield Inquiry(key, Question(key, fill(template, **quoted)), shard.name)

    def _marked(self, prediction: Annotation, row: Row, reply: Reply) -> Annotation:
        said = {"judge": self._asked.name, "reply": reply.text}
        return replace(
            prediction, scores={**prediction.scores, **row}, decision={**prediction.decision, **said}
        )

    def _unmarked(self, shard: Shard, key: str, reply: Reply) -> Reject:
        reason = reply.unread.partition(":")[0]
        self._num_left += reason == OVER_BUDGET
        return Reject(shard.name, key, f"judge-{reason}", reply.problem or reply.text[:200])


def _marking(task: Task) -> Marking:
    assert task.scorer.marking is not None, f"{task.name} is not marked by a judge"
    return task.scorer.marking
