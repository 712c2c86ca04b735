"""What a benchmark's files become: tasks with their questions, not yet in shards."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.reading import Row

SHORT_PROMPT = "{question}\nAnswer the question using a single word or phrase."
CHOICE_PROMPT = "{question}\nAnswer with the option's letter from the given choices directly."
"""The prompts of LLaVA-1.5's evaluation, which VILA and VILA^2 use."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def with_later(error: str, num_later: Mapping[str, int]) -> str:
    """The first fault of a file, and how many later rows have "the same fault" or "another fault"."""
    later = (
        f"{num:,} row{' has' if num == 1 else 's have'} {what} further down"
        for what, num in num_later.items()
        if num
    )
    return "; ".join([error, *later])


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkQuestion:
    """One sample: its id in the benchmark, the question, accepted answers, and what else its scorer needs.

    `images` are file names below the folder of images, or the bytes themselves. `where` is its place in the
    files, for errors.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[str | bytes, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkTask:
    """One task: what its task.toml says, and its questions; `box_frame` where answers are boxes.

    `no_images` says why its images cannot be found, and what to do.
    """

    name: str
    answer_type: str
    scorer: str
    split: str
    questions: Iterable[BenchmarkQuestion]
    prompt: str = "{question}"
    version: str = "1"
    box_frame: str = ""
    no_images: str = ""


Questions = Callable[[Sequence[Path], str], Iterator[BenchmarkQuestion]]
TaskReader = Callable[[Sequence[Path], str], Iterator[BenchmarkTask]]
"""From the files and the requested split to the tasks in them."""
Naming = Callable[[Path, str], str]
"""From the first file and the split to the name of a task."""


def one_task(
    name: str | Naming,
    answer_type: str,
    scorer: str,
    prompt: str = "{question}",
    *,
    box_frame: str = "",
    default_split: str = "",
) -> Callable[[Questions], TaskReader]:
    """Make a reader of what yields the questions of the one task that is in a benchmark's files."""

    def reader_of(questions: Questions) -> TaskReader:
        @wraps(questions)
        def read(paths: Sequence[Path], split: str) -> Iterator[BenchmarkTask]:
            split = split or default_split
            yield BenchmarkTask(
                name=name if isinstance(name, str) else name(paths[0], split),
                answer_type=answer_type,
                scorer=scorer,
                split=split,
                prompt=prompt,
                box_frame=box_frame,
                questions=questions(paths, split),
            )

        return read

    return reader_of


def by_file(start: str = "") -> Naming:
    """Name a task after its file, with `start` before it: letters, digits and hyphens."""

    def name(path: Path, split: str) -> str:
        stem = "".join(c if c.isalnum() else "-" for c in path.stem.lower()).strip("-")
        return stem if stem.startswith(start) else f"{start}-{stem}"

    return name


def question_of(
    row: Row,
    id: str,
    *,
    question: str = "question",
    answer: str = "answer",
    image: str = "image",
    answers: Sequence[str] | None = None,
    images: Sequence[str | bytes] | None = None,
    meta: Mapping[str, Any] = MappingProxyType({}),
) -> BenchmarkQuestion:
    """The question of a row: the names of its fields, or for `answers` and `images` what they are."""
    return BenchmarkQuestion(
        id=id,
        question=row.string(question),
        answers=(row.string(answer),) if answers is None else tuple(answers),
        images=(row.string(image),) if images is None else tuple(images),
        meta=meta,
    )


def picture(value: Any) -> str | bytes | None:
    """An image given as a file name, or as Hugging Face's object of bytes and path; None for anything else."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) and value else None


def split_in_name(paths: Sequence[Path], known: Sequence[str]) -> str:
    """The split that a file is named after, "" where its name says none."""
    names = [part for path in paths for part in re.split("[^a-z0-9]+", path.stem.lower())]
    return next((name for name in names if name in known), "")


def one_file(paths: Sequence[Path], what: str) -> Path:
    """The one file of a format that has one."""
    if len(paths) != 1:
        raise DataError(f"give {what}, not {len(paths)} files")
    return paths[0]


def with_options(question: str, choices: Sequence[str], hint: str = "") -> str:
    """A question with its options below it, as "A. text", and what is known beforehand above it."""
    lines = [*([hint] if hint else []), question]
    return "\n".join(lines + [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices)])
