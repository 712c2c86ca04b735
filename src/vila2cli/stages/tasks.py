"""`vila2 eval import` and `vila2 eval new`: published benchmarks, and own questions, as task folders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vila2cli.formats.benchmarks import write
from vila2cli.formats.benchmarks.own import own_task
from vila2cli.formats.benchmarks.write import TaskWritten
from vila2cli.run.results import StageResult


@dataclass(frozen=True, slots=True)
class TasksWritten(StageResult):
    """The task folders of a benchmark."""

    tasks: Sequence[TaskWritten]

    def lines(self) -> Iterator[str]:
        for task in self.tasks:
            yield from task.lines()


def import_tasks(
    form: str,
    files: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    split: str = "",
    synonyms: Path | None = None,
    box_frame: str = "",
) -> TasksWritten:
    """Write every task of a benchmark's files as OUT/NAME; raises as `formats.benchmarks.write` says."""
    return TasksWritten(
        write.import_tasks(form, files, out, images=images, split=split, synonyms=synonyms, box_frame=box_frame)
    )


def new_task(
    folder: Path,
    questions: Sequence[Path],
    *,
    images: Path | None = None,
    scorer: str = "short",
    prompt: str = "",
    question: str = "",
    answer: str = "",
    picture: str = "",
    box_frame: str = "",
) -> TaskWritten:
    """Write a table of questions as a task folder; pictures lie in `images`, by default beside the table.

    Raises RecipeError or DataError for a scorer, columns, rows and pictures that do not fit.
    """
    made = own_task(
        folder.resolve().name,
        questions,
        scorer=scorer,
        prompt=prompt,
        question=question,
        answer=answer,
        picture=picture,
        box_frame=box_frame,
    )
    one = write.write_task(made, folder.parent, images=images or questions[0].parent)
    return replace(one, scorer=scorer, prompt=made.prompt)
