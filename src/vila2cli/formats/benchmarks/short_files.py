"""Benchmarks with short answers: VQAv2, VizWiz, TextVQA, GQA, DocVQA, ChartQA, OCRBench."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.reading import (
    SHORT_PROMPT,
    Question,
    Table,
    need,
    need_rows,
    one_file,
    picture,
    read_object,
    read_rows,
    read_values,
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
    """VizWiz: a list with image, question and ten answers; or questions and annotations as VQAv2 has them.

    In the list the image's name is the question's id.
    """
    if len(paths) == 2:
        questions = _vqa_pair(paths)
    else:
        path = one_file(paths, "VizWiz's train.json or val.json, or a pair of questions and annotations")
        questions = (_vizwiz(row, path) for row in read_rows(path, "data"))
    prompt = "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    yield _table("vizwiz", "vizwiz", split, questions, prompt + SHORT_PROMPT.partition("\n")[2])


def _vizwiz(row: Mapping[str, Any], path: Path) -> Question:
    image = picture(need(row, "image", path))
    if image is None:
        raise DataError(f"{path}: 'image' should be a file name, not {str(row['image'])[:80]!r}")
    return Question(
        id=str(row.get("question_id") or (image if isinstance(image, str) else need(row, "question_id", path))),
        question=str(need(row, "question", path)),
        answers=_texts(row.get("answers"), path),
        images=(image,),
        meta={"category": str(row.get("answer_type") or row.get("category") or "")},
    )


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
    tables = {key: (path, table) for path in paths for key, table in _vqa_parts(path).items()}
    missing = [key for key in ("questions", "annotations") if key not in tables]
    if missing:
        raise DataError(f"{paths[0]} and {paths[1]} hold no {missing[0]!r}; give questions and annotations")
    (asked_in, asked), (answered_in, answered) = tables["questions"], tables["annotations"]
    rows = need_rows(asked, "questions", asked_in)
    answers = {_vqa_id(row, answered_in): row for row in need_rows(answered, "annotations", answered_in)}
    if len(rows) != len(answers) or any(_vqa_id(row, asked_in) not in answers for row in rows):
        raise DataError(f"{asked_in} asks {len(rows)} questions, {answered_in} answers {len(answers)} others")
    for row in rows:
        annotation = answers[_vqa_id(row, asked_in)]
        image = str(row["image_id"] if "image_id" in row else need(row, "image", asked_in))
        yield Question(
            id=_vqa_id(row, asked_in),
            question=str(need(row, "question", asked_in)),
            answers=_texts(annotation.get("answers"), answered_in),
            images=(_vqa_image(image, asked),),
            meta={"image_id": image, "category": str(annotation.get("answer_type", ""))},
        )


def _vqa_parts(path: Path) -> dict[str, Mapping[str, Any]]:
    """What a file holds under `questions` or `annotations`; a bare list is the one or the other by its rows."""
    values = read_values(path)
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if len(values) == 1 and isinstance(values[0], dict):
        return {key: values[0] for key in ("questions", "annotations") if key in values[0]}
    key = "annotations" if rows and isinstance(rows[0], dict) and "answers" in rows[0] else "questions"
    return {key: {key: rows}}


def _vqa_id(row: Mapping[str, Any], path: Path) -> str:
    """The number of a question; where it has none, the image that it is the only question about."""
    return str(row["question_id"] if "question_id" in row else need(row, "image", path))


def _vqa_image(image: str, table: Mapping[str, Any]) -> str:
    """The file of an image, which COCO and the abstract scenes name after their part and number."""
    part, kind = table.get("data_subtype"), str(table.get("data_type", "mscoco"))
    if isinstance(part, str) and image.isdecimal():
        name, ending = ("COCO", "jpg") if kind == "mscoco" else (kind, "png")
        return f"{name}_{part}_{int(image):012}.{ending}"
    return image if "." in image else f"{image}.jpg"


def _texts(answers: Any, path: Path) -> tuple[str, ...]:
    """Reference answers given as texts, or as objects with an `answer`."""
    listed = answers if isinstance(answers, list) else [] if answers is None else [answers]
    found = [one.get("answer") if isinstance(one, dict) else one for one in listed]
    if not found or not all(isinstance(one, str | int | float) for one in found):
        raise DataError(f"{path}: a row has no answers; are these the files of a test split without them?")
    return tuple(map(str, found))
