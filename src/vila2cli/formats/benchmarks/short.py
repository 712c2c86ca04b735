"""Benchmarks with short answers: VQAv2, VizWiz, TextVQA, GQA, DocVQA, ChartQA, OCRBench."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.questions import (
    SHORT_PROMPT,
    BenchmarkQuestion,
    one_file,
    one_task,
    picture,
    question_of,
)
from vila2cli.formats.reading import Row, read_object, read_rows, read_values

_MAY_BE_UNANSWERABLE = SHORT_PROMPT.replace(
    "\n", "\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
)


def _vqa_pair(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """VQAv2: a file of questions and one of annotations, in any order, joined by question_id.

    Raises DataError when they do not belong together.
    """
    if len(paths) != 2:
        raise DataError(f"give a file of questions and one of annotations, not {len(paths)} files")
    tables = {key: table for path in paths for key, table in _vqa_parts(path).items()}
    missing = [key for key in ("questions", "annotations") if key not in tables]
    if missing:
        raise DataError(f"{paths[0]} and {paths[1]} hold no {missing[0]!r}; give questions and annotations")
    asked, answered = tables["questions"], tables["annotations"]
    rows = list(asked.need_rows("questions"))
    answers = {_vqa_id(row): row for row in answered.need_rows("annotations")}
    if len(rows) != len(answers) or any(_vqa_id(row) not in answers for row in rows):
        raise DataError(
            f"{asked.where} asks {len(rows)} questions, {answered.where} answers {len(answers)} others"
        )
    for row in rows:
        annotation = answers[_vqa_id(row)]
        image = str(row.get("image_id")) if "image_id" in row else row.string("image")
        meta = {"image_id": image, "category": str(annotation.get("answer_type", ""))}
        images = (_vqa_image(image, asked),)
        yield question_of(row, _vqa_id(row), answers=_answers(annotation), images=images, meta=meta)


read_vqa = one_task("vqav2", "short", "vqa", SHORT_PROMPT)(_vqa_pair)


def _vqa_parts(path: Path) -> dict[str, Row]:
    """What a file holds under `questions` or `annotations`; a bare list is the one or the other by its rows."""
    values = read_values(path)
    if len(values) == 1 and isinstance(values[0], dict):
        return {key: Row(values[0], str(path)) for key in ("questions", "annotations") if key in values[0]}
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    key = "annotations" if rows and isinstance(rows[0], dict) and "answers" in rows[0] else "questions"
    return {key: Row({key: rows}, str(path))}


def _vqa_id(row: Row) -> str:
    """The number of a question; where it has none, the image that it is the only question about."""
    return str(row.get("question_id")) if "question_id" in row else row.string("image")


def _vqa_image(image: str, table: Row) -> str:
    """The file of an image, which COCO and the abstract scenes name after their part and number."""
    part, kind = table.get("data_subtype"), str(table.get("data_type", "mscoco"))
    if isinstance(part, str) and image.isdecimal():
        name, ending = ("COCO", "jpg") if kind == "mscoco" else (kind, "png")
        return f"{name}_{part}_{int(image):012}.{ending}"
    return image if "." in image else f"{image}.jpg"


@one_task("textvqa", "short", "textvqa", SHORT_PROMPT)
def read_textvqa(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """TextVQA's own file, or questions and annotations as VQAv2 has them."""
    if len(paths) == 2:
        yield from _vqa_pair(paths, split)
        return
    path = one_file(paths, "TextVQA_0.5.1_val.json, or a pair of questions and annotations")
    for row in read_rows(path, "data"):
        name, image = row.string("question_id"), row.string("image_id")
        yield question_of(row, name, answers=_answers(row), images=(f"{image}.jpg",), meta={"image_id": image})


@one_task("vizwiz", "short", "vizwiz", _MAY_BE_UNANSWERABLE)
def read_vizwiz(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """VizWiz: a list with image, question and ten answers; or questions and annotations as VQAv2 has them.

    In the list the image's name is the question's id.
    """
    if len(paths) == 2:
        yield from _vqa_pair(paths, split)
        return
    path = one_file(paths, "VizWiz's train.json or val.json, or a pair of questions and annotations")
    for row in read_rows(path, "data"):
        row.need("image")
        if (image := picture(row.get("image"))) is None:
            raise row.wrong("image", "a file name")
        has_id = row.get("question_id") not in (None, "")
        name = image if isinstance(image, str) and not has_id else row.need("question_id")
        meta = {"category": str(row.get("answer_type") or row.get("category") or "")}
        yield question_of(row, str(name), answers=_answers(row), images=(image,), meta=meta)


@one_task("gqa", "short", "gqa", SHORT_PROMPT)
def read_gqa(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """GQA: an object of questions by their id."""
    path = one_file(paths, "testdev_balanced_questions.json or another of GQA's")
    for name, row in read_object(path).items():
        yield question_of(row, name, images=(f"{row.need('imageId')}.jpg",))


@one_task("docvqa", "short", "anls", SHORT_PROMPT)
def read_docvqa(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """DocVQA: an object with `data`."""
    for row in read_rows(one_file(paths, "val_v1.0.json or another of DocVQA's"), "data"):
        image = row.string("image").rpartition("/")[2]
        yield question_of(row, row.string("questionId"), answers=_answers(row), images=(image,))


@one_task("chartqa", "short", "chartqa", SHORT_PROMPT)
def read_chartqa(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """ChartQA: lists of imgname, query and label; human and augmented questions are its categories."""
    for path in paths:
        for number, row in enumerate(read_rows(path)):
            name, meta = f"{path.stem}-{number}", {"category": path.stem}
            yield question_of(row, name, question="query", answer="label", image="imgname", meta=meta)


@one_task("ocrbench", "short", "ocrbench")
def read_ocrbench(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """OCRBench: a list with image_path, question, answers, type and dataset_name."""
    for number, row in enumerate(read_rows(one_file(paths, "OCRBench.json"))):
        name = str(row.get("id", number))
        meta = {"category": str(row.get("type", "")), "dataset": str(row.get("dataset_name", ""))}
        yield question_of(row, name, answers=_answers(row), image="image_path", meta=meta)


def _answers(row: Row) -> tuple[str, ...]:
    """Reference answers given as texts, or as objects with an `answer`."""
    answers = row.get("answers")
    listed = answers if isinstance(answers, list) else [] if answers is None else [answers]
    texts = [answer.get("answer") if isinstance(answer, dict) else answer for answer in listed]
    if not texts or not all(isinstance(text, str | int | float) for text in texts):
        raise row.error("has no answers; are these the files of a test split without them?")
    return tuple(map(str, texts))
