"""Benchmarks whose answers a judge scores: MM-Vet, and LLaVA-Bench (in the wild)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.questions import BenchmarkQuestion, one_file, one_task, question_of
from vila2cli.formats.reading import Row, read_object, read_rows


@one_task("mmvet", "open", "mmvet")
def read_mmvet(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """MM-Vet: an object of questions by their id; LLaVA's answers to them are numbered in its order from 0."""
    for number, (name, row) in enumerate(read_object(one_file(paths, "mm-vet.json")).items()):
        meta = {
            "question_id": name.rpartition("_")[2] if "_" in name else str(number),
            "capability": row.strings("capability"),
            "source": str(row.get("imagesource", "")),
        }
        yield question_of(row, name, image="imagename", meta=meta)


@one_task("llava-bench", "open", "llava-bench")
def read_llava_bench(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """LLaVA-Bench (in the wild): questions, descriptions of the images and GPT-4's answers, in any order."""
    if len(paths) != 3:
        raise DataError(
            f"give LLaVA-Bench's questions.jsonl, context.jsonl and answers_gpt4.jsonl, not {len(paths)} files"
        )
    tables = {_kind(rows[0]): (path, rows) for path in paths for rows in [read_rows(path)]}
    missing = [kind for kind in ("questions", "context", "answers") if kind not in tables]
    if missing:
        raise DataError(
            f"{', '.join(map(str, paths))} hold no {missing[0]}: give questions.jsonl, with category, "
            "context.jsonl, with caption, and answers_gpt4.jsonl, with question_id and text"
        )
    (context_file, images), (answer_file, answered) = tables["context"], tables["answers"]
    contexts = {row.string("image"): row.need("caption") for row in images}
    answers = {row.string("question_id"): row for row in answered}
    for row in tables["questions"][1]:
        name, image = row.string("question_id"), row.string("image")
        if image not in contexts:
            raise DataError(f"{context_file} says nothing of the image {image} of question {name}")
        if name not in answers:
            raise DataError(f"{answer_file} does not answer question {name}")
        context = contexts[image]
        meta = {
            "category": row.string("category"),
            "context": "\n".join(map(str, context)) if isinstance(context, list) else str(context),
        }
        yield question_of(row, name, question="text", answers=(answers[name].string("text"),), meta=meta)


def _kind(row: Row) -> str:
    if "caption" in row:
        return "context"
    row.need("question_id")
    return "questions" if "category" in row else "answers"
