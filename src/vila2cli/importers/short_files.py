"""Benchmarks with short answers: VQAv2, VizWiz, TextVQA, GQA, DocVQA, ChartQA, OCRBench."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.importers.question import (
    SHORT_PROMPT,
    Question,
    Table,
    need,
    need_rows,
    one_file,
    read_object,
    read_rows,
)


def read_vqa(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """VQAv2: a file of questions and one of annotations, in any order."""
    yield _table("vqav2", "vqa", split, _vqa_pair(paths))


def read_textvqa(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """TextVQA's own file, or questions and annotations as VQAv2 has them."""
    if len(paths) == 2:
        questions = _vqa_pair(paths)
    else:
        path = one_file(paths, "TextVQA_0.5.1_val.json, or a pair of questions and annotations")
        questions = (
            Question(
                id=str(need(row, "question_id", path)),
                question=str(need(row, "question", path)),
                answers=_texts(row.get("answers"), path),
                images=(f"{need(row, 'image_id', path)}.jpg",),
                meta={"image_id": str(row["image_id"])},
            )
            for row in read_rows(path, "data")
        )
    yield _table("textvqa", "textvqa", split, questions)


def read_vizwiz(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """VizWiz: a list with image, question and ten answers; the image's name is the question's id."""
    path = one_file(paths, "VizWiz's val.json")
    questions = (
        Question(
            id=str(need(row, "image", path)),
            question=str(need(row, "question", path)),
            answers=_texts(row.get("answers"), path),
            images=(str(row["image"]),),
        )
        for row in read_rows(path)
    )
    prompt = "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    yield _table("vizwiz", "vizwiz", split, questions, prompt + SHORT_PROMPT.partition("\n")[2])


def read_gqa(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """GQA: an object of questions by their id."""
    path = one_file(paths, "testdev_balanced_questions.json or another of GQA's")
    questions = (
        Question(
            id=name,
            question=str(need(row, "question", path)),
            answers=(str(need(row, "answer", path)),),
            images=(f"{need(row, 'imageId', path)}.jpg",),
        )
        for name, row in read_object(path).items()
    )
    yield _table("gqa", "gqa", split, questions)


def read_docvqa(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """DocVQA: an object with `data`."""
    path = one_file(paths, "val_v1.0.json or another of DocVQA's")
    questions = (
        Question(
            id=str(need(row, "questionId", path)),
            question=str(need(row, "question", path)),
            answers=_texts(row.get("answers"), path),
            images=(str(need(row, "image", path)).rpartition("/")[2],),
        )
        for row in read_rows(path, "data")
    )
    yield _table("docvqa", "anls", split, questions)


def read_chartqa(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """ChartQA: lists of imgname, query and label; human and augmented questions are its categories."""

    def questions() -> Iterator[Question]:
        for path in paths:
            for number, row in enumerate(read_rows(path)):
                yield Question(
                    id=f"{path.stem}-{number}",
                    question=str(need(row, "query", path)),
                    answers=(str(need(row, "label", path)),),
                    images=(str(need(row, "imgname", path)),),
                    meta={"category": path.stem},
                )

    yield _table("chartqa", "chartqa", split, questions())


def read_ocrbench(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """OCRBench: a list with image_path, question, answers, type and dataset_name."""
    path = one_file(paths, "OCRBench.json")
    questions = (
        Question(
            id=str(row.get("id", number)),
            question=str(need(row, "question", path)),
            answers=_texts(row.get("answers"), path),
            images=(str(need(row, "image_path", path)),),
            meta={"category": str(row.get("type", "")), "dataset": str(row.get("dataset_name", ""))},
        )
        for number, row in enumerate(read_rows(path))
    )
    yield _table("ocrbench", "ocrbench", split, questions, "{question}")


def _table(name: str, scorer: str, split: str, questions: Any, prompt: str = SHORT_PROMPT) -> Table:
    return Table(name=name, answer_type="short", scorer=scorer, split=split, questions=questions, prompt=prompt)


def _vqa_pair(paths: Sequence[Path]) -> Iterator[Question]:
    """Questions and annotations joined by question_id; raises DataError when they do not belong together."""
    if len(paths) != 2:
        raise DataError(f"give a file of questions and one of annotations, not {len(paths)} files")
    parts = ("questions", "annotations")
    tables = {
        key: (path, need_rows(table, key, path))
        for path in paths
        for table in [read_object(path)]
        for key in parts
        if key in table
    }
    missing = [key for key in parts if key not in tables]
    if missing:
        raise DataError(f"{paths[0]} and {paths[1]} hold no {missing[0]!r}; give questions and annotations")
    (asked_in, asked), (answered_in, answered) = tables["questions"], tables["annotations"]
    answers = {str(need(row, "question_id", answered_in)): row for row in answered}
    if len(asked) != len(answers) or any(
        str(need(row, "question_id", asked_in)) not in answers for row in asked
    ):
        raise DataError(f"{asked_in} asks {len(asked)} questions, {answered_in} answers {len(answers)} others")
    for row in asked:
        annotation, image = answers[str(row["question_id"])], str(need(row, "image_id", asked_in))
        yield Question(
            id=str(row["question_id"]),
            question=str(need(row, "question", asked_in)),
            answers=_texts(annotation.get("answers"), answered_in),
            images=(image if "." in image else f"{image}.jpg",),
            meta={"image_id": image, "category": str(annotation.get("answer_type", ""))},
        )


def _texts(answers: Any, path: Path) -> tuple[str, ...]:
    """Reference answers given as texts, or as objects with an `answer`."""
    listed = answers if isinstance(answers, list) else [] if answers is None else [answers]
    found = [one.get("answer") if isinstance(one, dict) else one for one in listed]
    if not found or not all(isinstance(one, str | int | float) for one in found):
        raise DataError(f"{path}: a row has no answers; are these the files of a test split without them?")
    return tuple(map(str, found))
