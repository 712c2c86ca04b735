"""Benchmarks whose answers a judge marks: MM-Vet, and LLaVA-Bench (in the wild)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.reading import (
    Question,
    Table,
    need,
    need_texts,
    one_file,
    read_object,
    read_rows,
)


def read_mmvet(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """MM-Vet: an object of questions by their id; LLaVA's answers to them are numbered in its order from 0."""
    path = one_file(paths, "mm-vet.json")
    questions = (
        _mmvet(name, number, row, path) for number, (name, row) in enumerate(read_object(path).items())
    )
    yield Table(name="mmvet", answer_type="open", scorer="mmvet", split=split, questions=questions)


def _mmvet(name: str, number: int, row: Any, path: Path) -> Question:
    return Question(
        id=name,
        question=str(need(row, "question", path)),
        answers=(str(need(row, "answer", path)),),
        images=(str(need(row, "imagename", path)),),
        meta={
            "question_id": name.rpartition("_")[2] if "_" in name else str(number),
            "capability": need_texts(row, "capability", path),
            "source": str(row.get("imagesource", "")),
        },
    )


def read_llava_bench(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """LLaVA-Bench (in the wild): questions, descriptions of the images and GPT-4's answers, in any order."""
    if len(paths) != 3:
        raise DataError(
            f"give LLaVA-Bench's questions.jsonl, context.jsonl and answers_gpt4.jsonl, not {len(paths)} files"
        )
    tables = {_kind(rows[0], path): (path, rows) for path in paths for rows in [read_rows(path)]}
    missing = [kind for kind in ("questions", "context", "answers") if kind not in tables]
    if missing:
        raise DataError(
            f"{', '.join(map(str, paths))} hold no {missing[0]}: give questions.jsonl, with category, "
            "context.jsonl, with caption, and answers_gpt4.jsonl, with question_id and text"
        )
    yield Table(
        name="llava-bench",
        answer_type="open",
        scorer="llava-bench",
        split=split,
        questions=_llava_bench(tables),
    )


def _kind(row: Mapping[str, Any], path: Path) -> str:
    if "caption" in row:
        return "context"
    need(row, "question_id", path)
    return "questions" if "category" in row else "answers"


def _llava_bench(tables: Mapping[str, tuple[Path, list[dict[str, Any]]]]) -> Iterator[Question]:
    asked_in, asked = tables["questions"]
    seen_in, seen = tables["context"]
    answered_in, answered = tables["answers"]
    contexts = {str(need(row, "image", seen_in)): need(row, "caption", seen_in) for row in seen}
    answers = {str(need(row, "question_id", answered_in)): row for row in answered}
    for row in asked:
        name, image = str(need(row, "question_id", asked_in)), str(need(row, "image", asked_in))
        if image not in contexts:
            raise DataError(f"{seen_in} says nothing of the image {image} of question {name}")
        if name not in answers:
            raise DataError(f"{answered_in} does not answer question {name}")
        context = contexts[image]
        yield Question(
            id=name,
            question=str(need(row, "text", asked_in)),
            answers=(str(need(answers[name], "text", answered_in)),),
            images=(image,),
            meta={
                "category": str(need(row, "category", asked_in)),
                "context": "\n".join(map(str, context)) if isinstance(context, list) else str(context),
            },
        )
