"""Own questions: a table of questions, pictures and answers to a task, with any scorer that its rows suit."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError, meant
from vila2cli.formats.benchmarks.questions import (
    CHOICE_PROMPT,
    LETTERS,
    SHORT_PROMPT,
    BenchmarkQuestion,
    BenchmarkTask,
    with_later,
    with_options,
)
from vila2cli.formats.captions.columns import columns_of, find_column, metadata, picture_column
from vila2cli.formats.reading import Row, RowError, stream_rows
from vila2cli.score import SCORERS, answer_type_of
from vila2cli.score.scorer import Reference

QUESTIONS = ("question", "prompt", "query", "text")
ANSWERS = ("answers", "answer", "label", "target", "gt", "ground_truth", "reference", "references", "caption")
IDS = ("question_id", "id", "index", "key")
_CHOICES = ("choices", "options")
_PROMPTS = {"short": SHORT_PROMPT, "yesno": SHORT_PROMPT, "choice": CHOICE_PROMPT}
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9]+")
"""What differs between two rows of one fault: the values that an error names."""
_SEVERAL = re.compile(r"\s*\|\s*")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of a table hold what; `id` is empty where the number of the row does."""

    question: str
    answer: str
    picture: str
    id: str


def own_task(
    name: str,
    files: Sequence[Path],
    *,
    scorer: str,
    prompt: str = "",
    question: str = "",
    answer: str = "",
    picture: str = "",
    box_frame: str = "",
) -> BenchmarkTask:
    """The task of tables of questions; `question`, `answer` and `picture` name columns, which are found else.

    Raises RecipeError for an unknown scorer, DataError for a file that is not there. Its questions raise
    DataError naming file and row for what the scorer cannot use.
    """
    if scorer not in SCORERS:
        nearest = meant(scorer, SCORERS)
        raise RecipeError(f"--scorer {scorer}: no such scorer{nearest}; known are {', '.join(SCORERS)}")
    if missing := next((path for path in files if not path.is_file()), None):
        raise DataError(f"--questions {missing}: there is no such file")
    kind = answer_type_of(SCORERS[scorer])
    columns = (question, answer, picture)
    return BenchmarkTask(
        name=name,
        answer_type=kind,
        scorer=scorer,
        split="",
        prompt=prompt or _PROMPTS.get(kind, "{question}"),
        box_frame=(box_frame or "auto") if kind == "box" else "",
        questions=(one for path in files for one in _questions(path, scorer, columns)),
    )


def _questions(path: Path, scorer: str, columns: tuple[str, str, str]) -> Iterator[BenchmarkQuestion]:
    there = columns_of(path)
    question = find_column(path, there, columns[0], QUESTIONS, "--question", "holds the questions")
    answer = find_column(path, there, columns[1], ANSWERS, "--answer", "holds the answers")
    picture = picture_column(path, [one for one in there if one not in (question, answer)], columns[2])
    name = next((one for one in IDS if one in there and one != picture), "")
    found = _Columns(question, answer, picture, name)
    first: RowError | None = None
    num_later = {"the same fault": 0, "another fault": 0}
    for number, row in enumerate(stream_rows(path), 1):
        try:
            made = _question(path, number, row, found, scorer)
        except RowError as error:
            if first is not None:
                is_same = _VALUES.sub("", error.error) == _VALUES.sub("", first.error)
                num_later["the same fault" if is_same else "another fault"] += 1
            first = first or error
        else:
            if first is None:
                yield made
    if first is not None:
        raise RowError(with_later(first.error, num_later), first.reason, first.where)


def _question(
    path: Path, number: int, row: Row | RowError, columns: _Columns, scorer: str
) -> BenchmarkQuestion:
    """The question of a row; raises RowError for what the scorer cannot use."""
    if isinstance(row, RowError):
        raise row
    if row.line:  # what an editor counts
        row = replace(row, where=f"{path.name}, line {row.line}")
    has_choices = answer_type_of(SCORERS[scorer]) == "choice"
    choices = _choices(row) if has_choices else []
    if has_choices and not choices:
        raise row.error("has no options: give a column choices, with | between them, or columns A, B ...")
    asked = row.filled(columns.question)
    made = BenchmarkQuestion(
        id=_written(row.get(columns.id)).strip() or str(number),
        question=with_options(asked, choices) if choices else asked,
        answers=_answers(row, columns.answer, choices),
        images=(row.string(columns.picture).strip(),),
        meta={
            **metadata(row, (columns.question, columns.answer, columns.picture, *_CHOICES)),
            **({"choices": choices} if choices else {}),
            "origin": {"file": path.name, "row": number},
        },
        where=row.where,
    )
    _check(row, made, scorer)
    return made


def _choices(row: Row) -> list[str]:
    """The options of a question: a list, a text with | between, or columns A, B, C ..."""
    for column in _CHOICES:
        if row.get(column):
            return _listed(row.get(column))
    lettered = [_written(row.get(letter)).strip() for letter in LETTERS]
    return lettered[: lettered.index("")] if "" in lettered else lettered


def _listed(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else _SEVERAL.split(_written(value).strip())
    return [text for part in parts if (text := _written(part).strip())]


def _written(value: Any) -> str:
    """A value as a table of text has it: 0 is none that is missing, and true is a yes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _answers(row: Row, column: str, choices: Sequence[str]) -> tuple[str, ...]:
    """What is right: of a question with options the letter, also where the table has the option's text."""
    answers = _listed(row.need(column))
    if choices:
        letters = list(LETTERS[: len(choices)])
        texts = dict(zip(choices, letters, strict=True))
        answers = [texts.get(answer, answer) for answer in answers]
        if wrong := next((answer for answer in answers if answer not in letters), None):
            raise row.error(f"{column} is {wrong!r}, which is none of the options {', '.join(letters)}")
    return tuple(answers)


def _check(row: Row, made: BenchmarkQuestion, scorer: str) -> None:
    meta = {**made.meta, "question": made.question, "box_frame": "auto"}
    try:
        SCORERS[scorer].stored("", Reference(answers=made.answers, meta=meta))
    except DataError as error:
        raise row.error(f"{error}; --scorer {scorer} needs that") from None
