"""Multiple choice: VLMEvalKit's tables (MMBench, AI2D, MMStar, RealWorldQA), ScienceQA, SEED, MMMU."""

import ast
import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.questions import (
    CHOICE_PROMPT,
    LETTERS,
    SHORT_PROMPT,
    BenchmarkQuestion,
    by_file,
    one_file,
    one_task,
    picture,
    with_options,
)
from vila2cli.formats.reading import Row, RowError, read_object, read_rows, stream_rows

_ROTATION = 1_000_000
"""What MMBench's files add to the index of a question for each rotation of its options."""
_PLACEHOLDER = "<image {}>"
_MMMU_IMAGES = range(1, 8)
_MOST_OPTIONS = 9
_SPLIT = re.compile("^(?:dev|validation|val|test)_")


@one_task(by_file("mmbench"), "choice", "mmbench", CHOICE_PROMPT)
def read_mmbench(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """MMBench: a table of questions, each asked once for every rotation of its options (CircularEval).

    Most of its files hold the rotations as rows of their own; they are made here only where none does.
    """
    return _tsv(one_file(paths, "MMBench_DEV_EN.tsv or another of its tables"), circular=True)


@one_task(by_file(), "choice", "mcq", CHOICE_PROMPT)
def read_vlmevalkit(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """AI2D, MMStar, RealWorldQA and others that VLMEvalKit publishes as a table with options A, B, C ..."""
    return _tsv(one_file(paths, "AI2D_TEST.tsv, MMStar.tsv or RealWorldQA.tsv"), circular=False)


def _tsv(path: Path, *, circular: bool) -> Iterator[BenchmarkQuestion]:
    pictures: dict[str, str] = {}
    indices = (str(row.get("index", "")) for row in _rows(path)) if circular else ()
    rotates = circular and not any(index.isdecimal() and int(index) >= _ROTATION for index in indices)
    for row in _rows(path):
        index, question = row.string("index"), row.string("question")
        options = [(letter, row.get(letter)) for letter in LETTERS if _is_given(row.get(letter))]
        answer = str(row.get("answer") or "").strip()
        letters = [letter for letter, _ in options]
        if answer not in letters:
            raise row.error(f"question {index} has answer {answer!r}, its options are {letters}")
        pictures[index] = row.string("image")
        group = str(int(index) % _ROTATION) if index.isdecimal() else index
        image = _picture(pictures, index, row)
        hint = row.get("hint") if _is_given(row.get("hint")) else ""
        meta = {"category": row.get("category") or "", "group": group}
        for turn in range(len(options) if rotates else 1):
            turned = options[turn:] + options[:turn]
            choices = [text for _, text in turned]
            place = [letter for letter, _ in turned].index(answer)
            yield BenchmarkQuestion(
                id=index if turn == 0 else f"{index}-{turn}",
                question=with_options(question, choices, hint),
                answers=(LETTERS[place],),
                images=(image,),
                meta={**meta, "choices": choices},
            )


def _rows(path: Path) -> Iterator[Row]:
    for row in stream_rows(path):
        if isinstance(row, RowError):
            raise row
        yield row


def _is_given(text: str | None) -> bool:
    return text is not None and text.strip() not in ("", "nan")


def _picture(pictures: Mapping[str, str], index: str, row: Row) -> bytes:
    """The image of a question; one that is a number names the question that has it."""
    text = pictures[index]
    text = pictures.get(text, text) if len(text) < 64 else text
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise row.error(f"the image of question {index} is no base64") from None


@one_task("scienceqa", "choice", "scienceqa", CHOICE_PROMPT, default_split="test")
def read_scienceqa(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """ScienceQA: problems.json and pid_splits.json; the test split, images and all, unless --split is given."""
    objects = [read_object(path) for path in paths]
    problems = next((table for table in objects if split not in table), None)
    chosen = next((table.strings(split) for table in objects if split in table), None)
    if problems is None or chosen is None:
        raise DataError(f"give ScienceQA's problems.json and a pid_splits.json that has {split!r}")
    for name in chosen:
        row = problems.child(name)
        choices, answer = row.strings("choices"), row.need("answer")
        if not isinstance(answer, int) or not 0 <= answer < len(choices) <= len(LETTERS):
            raise row.error(f"has answer {answer!r} of {len(choices)} choices")
        image, hint = row.get("image"), row.get("hint")
        yield BenchmarkQuestion(
            id=name,
            question=with_options(row.string("question"), choices, f"Context: {hint}" if hint else ""),
            answers=(LETTERS[answer],),
            images=(f"{split}/{name}/{image}",) if image else (),
            meta={"choices": choices, "has_image": bool(image), "category": str(row.get("subject", ""))},
        )


@one_task(lambda path, split: f"seed-{split}", "choice", "seed", CHOICE_PROMPT, default_split="image")
def read_seed(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """SEED-Bench.json: an object with `questions` and their types; image questions, or --split video or all."""
    table = read_object(one_file(paths, "SEED-Bench.json"))
    names = table.get("question_type")
    types = {str(number): name for name, number in names.items()} if isinstance(names, dict) else {}
    rows = [row for row in table.need_rows("questions") if split in ("all", row.get("data_type"))]
    if not rows:
        raise table.error(f"there are no questions whose data_type is {split!r}")
    for row in rows:
        options = [row.get(f"choice_{letter}") for letter in "abcd"]
        choices = [str(option) for option in options if option is not None]
        kind = str(row.get("question_type_id", ""))
        yield BenchmarkQuestion(
            id=row.string("question_id"),
            question=with_options(row.string("question"), choices),
            answers=(row.string("answer"),),
            images=(row.string("data_id"),),
            meta={"choices": choices, "category": types.get(kind, kind)},
        )


@one_task("mmmu", "choice", "mmmu")
def read_mmmu(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """MMMU: Parquet files or JSON lines, one per subject, with id, question, options, answer and images.

    Its own output.json has answers, and mostly options, its answer_dict_val.json answers alone: by them answers
    can be scored, but no model asked, and where options are missing only those that are letters.
    """
    for path in paths:
        for row in _mmmu_rows(path):
            yield _mmmu(row)


def _mmmu_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; of answers by their ids each as a row."""
    rows = read_rows(path)
    if len(rows) > 1 or "id" in rows[0]:
        yield from rows
        return
    for name, row in rows[0].items():
        if isinstance(row.value, dict):
            kind, answer = row.need("question_type"), row.need("ground_truth")
            yield Row({"id": name, "question_type": kind, "answer": answer}, row.where)


def _mmmu(row: Row) -> BenchmarkQuestion:
    """A question with its options and instruction; its images stand where it names them, or before it."""
    name, answers = row.string("id"), _list(row.need("answer"))
    if answers in (["?"], []):
        raise row.error(f"question {name} has no answer: is it of the test split, which is kept hidden?")
    is_answered = "question" not in row  # an answer file, by which no model can be asked
    question = "" if is_answered else row.string("question")
    images = [image for number in _MMMU_IMAGES if (image := picture(row.get(f"image_{number}")))]
    meta: dict[str, Any] = {"category": _SPLIT.sub("", name).rpartition("_")[0]}
    choices = _mmmu_choices(row, is_answered)
    if row.get("question_type", "multiple-choice") == "multiple-choice" and choices:
        asked = CHOICE_PROMPT.format(question=with_options(question, choices))
        meta["choices"] = choices
    else:
        asked = "" if is_answered else SHORT_PROMPT.format(question=question)
    for number in _MMMU_IMAGES:
        asked = asked.replace(_PLACEHOLDER.format(number), f"image {number}")
    return BenchmarkQuestion(id=name, question=asked, answers=tuple(answers), images=tuple(images), meta=meta)


def _mmmu_choices(row: Row, is_answered: bool) -> list[str]:
    """The options; where an answer file does not say them, their letters in a form that no text has."""
    options = row.get("index2ans")
    if isinstance(options, dict) and options:
        return list(map(str, options.values()))
    if choices := _list(row.get("options")):
        return choices
    letters = _list(row.get("all_choices")) or list(LETTERS[:_MOST_OPTIONS])
    return [f"({letter})" for letter in letters] if is_answered else []


def _list(value: Any) -> list[str]:
    """A list of texts, given as one, as its Python form in a text, or as a text alone."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = [value]
    return [str(text) for text in value] if isinstance(value, list | tuple) else [str(value)] if value else []
