"""The measured results of every round: each `metrics.json` as a row of figures with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vila2cli.report.figures import Figure, figure_of
from vila2cli.report.json_reader import table_of, whole
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.wording import visible
from vila2cli.score.caption import FACTS

_PROTOCOL = dict.fromkeys(("version", "scorer", "scorer_version", "question", "judge"), "") | {
    "prompt": "{question}"
}
"""What decides a task's figures beside the model, with the default where a metrics.json has none."""
QA_MEAN = "qa_mean"
PRECISION, RECALL = "caption precision", "caption recall"


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task: its metrics, and which of them is the headline.

    Only tasks of one `protocol` can be compared: task, question, scorer and judge are the same.
    """

    name: str
    headline: str
    metrics: Mapping[str, Figure]
    num_samples: int
    scorer: str
    protocol: tuple[str, ...] = ()

    @property
    def is_caption(self) -> bool:
        return self.scorer == FACTS.name

    @property
    def figure(self) -> Figure | None:
        return self.metrics.get(self.headline)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """Everything that was measured on one round's model."""

    group: str
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    qa_mean: Figure | None = None

    @property
    def is_round(self) -> bool:
        """Whether this is a round of the loop, and not the training after it or a control of that."""
        return self.group.startswith("round ")

    @property
    def is_control(self) -> bool:
        return not self.is_round and self.group != "final"

    @property
    def caption(self) -> TaskResult | None:
        """The first task whose answers are captions."""
        return next((task for task in self.tasks.values() if task.is_caption), None)

    @property
    def qa_tasks(self) -> tuple[TaskResult, ...]:
        return tuple(task for task in self.tasks.values() if not task.is_caption)

    def measure(self, name: str) -> Figure | None:
        """A main measure or a task's headline by the name that the page uses for it."""
        if name == QA_MEAN:
            return self.qa_mean
        if name in (PRECISION, RECALL):
            return self.caption.metrics.get(name.removeprefix("caption ")) if self.caption else None
        return self.tasks[name].figure if name in self.tasks else None


def read_results(run: RunRecord) -> tuple[RoundResult, ...]:
    """One result for every round folder, and for `final` and its controls where they exist."""
    groups = [f"round {number}" for number in run.rounds]
    groups += [stage.group for stage in run.stages if stage.group.startswith("final") and stage.name == "eval"]
    evals = [(group, run.stage(group, "eval")) for group in groups]
    return tuple(read_result(group, stage.summary if stage else {}) for group, stage in evals)


def read_result(group: str, metrics: Mapping[str, Any]) -> RoundResult:
    """The figures of a metrics.json; what in it makes no sense is left out."""
    tasks = [
        _read_task(name, task)
        for name, task in table_of(metrics.get("tasks")).items()
        if isinstance(task, dict)
    ]
    return RoundResult(group, {task.name: task for task in tasks}, figure_of(metrics.get(QA_MEAN)))


def task_names(results: Sequence[RoundResult]) -> list[str]:
    """All question tasks of the run in the order they first appear."""
    return list(dict.fromkeys(task.name for result in results for task in result.qa_tasks))


def _read_task(name: str, task: Mapping[str, Any]) -> TaskResult:
    figures = {
        visible(key, 40): figure
        for key, value in table_of(task.get("metrics")).items()
        if (figure := figure_of(value)) is not None
    }
    headline = visible(task.get("headline", ""), 40)
    if headline not in figures:
        headline = next(iter(figures), "")
    return TaskResult(
        name=visible(name, 200),
        headline=headline,
        metrics=figures,
        num_samples=whole(task.get("num_samples")),
        scorer=visible(task.get("scorer", ""), 40),
        protocol=tuple(str(task.get(key) or usual) for key, usual in _PROTOCOL.items()),
    )
