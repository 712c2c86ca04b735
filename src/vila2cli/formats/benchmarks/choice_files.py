"""Multiple choice: VLMEvalKit's tables (MMBench, AI2D, MMStar, RealWorldQA), ScienceQA, SEED, MMMU."""

import ast
import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.reading import (
    CHOICE_PROMPT,
    LETTERS,
    Question,
    Table,
    need,
    need_rows,
    need_texts,
    one_file,
    picture,
    read_object,
    read_rows,
    read_tsv,
    stem_name,
    with_options,
)

_ROTATION = 1_000_000
"""What MMBench's files add to the index of a question for each rotation of its options."""
_PLACEHOLDER = "<image {}>"
_MMMU_IMAGES = range(1, 8)
_MOST_OPTIONS = 9
_SPLIT = re.compile("^(?:dev|validation|val|test)_")


def read_mmbench(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """MMBench: a table of questions, each asked once for every rotation of its options (CircularEval).

    Most of its files hold the rotations as rows of their own; they are made here only where none does.
    """
    path = one_file(paths, "MMBench_DEV_EN.tsv or another of its tables")
    yield _choice(stem_name(paths, "mmbench"), "mmbench", split, _tsv(path, circular=True))


def read_vlmevalkit(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """AI2D, MMStar, RealWorldQA and others that VLMEvalKit publishes as a table with options A, B, C ..."""
    path = one_file(paths, "AI2D_TEST.tsv, MMStar.tsv or RealWorldQA.tsv")
    name = "".join(c if c.isalnum() else "-" for c in path.stem.lower())
    yield _choice(name, "mcq", split, _tsv(path, circular=False))


def _tsv(path: Path, *, circular: bool) -> Iterator[Question]:
    pictures: dict[str, str] = {}
    rotates = circular and not any(_is_rotation(str(row.get("index", ""))) for row in read_tsv(path))
    for row in read_tsv(path):
        index, question = str(need(row, "index", path)), str(need(row, "question", path))
        options = [(letter, row[letter]) for letter in LETTERS if _is_given(row.get(letter))]
        answer = str(row.get("answer") or "").strip()
        letters = [letter for letter, _ in options]
        if answer not in letters:
            raise DataError(f"{path}: question {index} has answer {answer!r}, its options are {letters}")
        pictures[index] = str(need(row, "image", path))
        group, image = _group(index), _picture(pictures, index, path)
        hint = row.get("hint") or ""
        meta = {"category": row.get("category") or "", "group": group}
        for turn in range(len(options) if rotates else 1):
            turned = options[turn:] + options[:turn]
            choices = [text for _, text in turned]
            place = [letter for letter, _ in turned].index(answer)
            yield Question(
                id=index if turn == 0 else f"{index}-{turn}",
                question=with_options(question, choices, hint if _is_given(hint) else ""),
                answers=(LETTERS[place],),
                images=(image,),
                meta={**meta, "choices": choices},
            )


def _is_rotation(index: str) -> bool:
    return index.isdecimal() and int(index) >= _ROTATION


def _group(index: str) -> str:
    return str(int(index) % _ROTATION) if index.isdecimal() else index


def _is_given(text: str | None) -> bool:
    return text is not None and text.strip() not in ("", "nan")


def _picture(pictures: Mapping[str, str], index: str, path: Path) -> bytes:
    """The image of a question; one that is a number names the question that has it."""
    text = pictures[index]
    text = pictures.get(text, text) if len(text) < 64 else text
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise DataError(f"{path}: the image of question {index} is no base64") from None


def read_scienceqa(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """ScienceQA: problems.json and pid_splits.json; the test split, images and all, unless --split is given."""
    split = split or "test"
    objects = [(path, read_object(path)) for path in paths]
    problems = next((pair for pair in objects if split not in pair[1]), None)
    chosen = next((need_texts(table, split, path) for path, table in objects if split in table), None)
    if problems is None or chosen is None:
        raise DataError(f"give ScienceQA's problems.json and a pid_splits.json that has {split!r}")
    path, rows = problems
    yield _choice("scienceqa", "scienceqa", split, (_scienceqa(rows, name, path, split) for name in chosen))


def _scienceqa(rows: Mapping[str, Any], name: str, path: Path, split: str) -> Question:
    row = need(rows, name, path)
    choices, answer = need_texts(row, "choices", path), need(row, "answer", path)
    if not isinstance(answer, int) or not 0 <= answer < len(choices) <= len(LETTERS):
        raise DataError(f"{path}: problem {name} has answer {answer!r} of {len(choices)} choices")
    hint = f"Context: {row['hint']}" if row.get("hint") else ""
    has_image = bool(row.get("image"))
    return Question(
        id=name,
        question=with_options(str(need(row, "question", path)), choices, hint),
        answers=(LETTERS[answer],),
        images=(f"{split}/{name}/{row['image']}",) if has_image else (),
        meta={"choices": choices, "has_image": has_image, "category": str(row.get("subject", ""))},
    )


def read_seed(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """SEED-Bench.json: an object with `questions` and their types; image questions, or --split video or all."""
    path = one_file(paths, "SEED-Bench.json")
    kind = split or "image"
    table = read_object(path)
    names = table.get("question_type")
    types = {str(number): name for name, number in names.items()} if isinstance(names, dict) else {}
    rows = [row for row in need_rows(table, "questions", path) if kind in ("all", row.get("data_type"))]
    if not rows:
        raise DataError(f"{path} holds no questions whose data_type is {kind!r}")
    yield _choice(f"seed-{kind}", "seed", kind, (_seed(row, types, path) for row in rows))


def _seed(row: Mapping[str, Any], types: Mapping[str, str], path: Path) -> Question:
    choices = [str(row[f"choice_{letter}"]) for letter in "abcd" if row.get(f"choice_{letter}") is not None]
    kind = str(row.get("question_type_id", ""))
    return Question(
        id=str(need(row, "question_id", path)),
        question=with_options(str(need(row, "question", path)), choices),
        answers=(str(need(row, "answer", path)),),
        images=(str(need(row, "data_id", path)),),
        meta={"choices": choices, "category": types.get(kind, kind)},
    )


def read_mmmu(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """MMMU: Parquet files or JSON lines, one per subject, with id, question, options, answer and images.

    Its own output.json has answers, and mostly options, its answer_dict_val.json answers alone: by them answers
    can be scored, not asked for, and where options are missing only those that are letters.
    """

    def questions() -> Iterator[Question]:
        for path in paths:
            for row in _mmmu_rows(path):
                yield _mmmu(row, path)

    yield _choice("mmmu", "mmmu", split, questions(), prompt="{question}")


def _mmmu_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; of answers by their ids each as a row."""
    rows = read_rows(path)
    if len(rows) > 1 or "id" in rows[0]:
        return rows
    return [
        {
            "id": name,
            "question_type": need(row, "question_type", path),
            "answer": need(row, "ground_truth", path),
        }
        for name, row in rows[0].items()
        if isinstance(row, dict)
    ]


def _mmmu(row: Mapping[str, Any], path: Path) -> Question:
    """A question with its options and instruction; its images stand where it names them, or before it."""
    name, answers = str(need(row, "id", path)), _list(need(row, "answer", path))
    if answers in (["?"], []):
        raise DataError(
            f"{path}: question {name} has no answer: is it of the test split, which is kept hidden?"
        )
    is_answered = "question" not in row  # an answer file, by which none can be asked for
    question = "" if is_answered else str(need(row, "question", path))
    images = [image for number in _MMMU_IMAGES if (image := picture(row.get(f"image_{number}")))]
    meta: dict[str, Any] = {"category": _SPLIT.sub("", name).rpartition("_")[0]}
    choices = _mmmu_choices(row, is_answered)
    if row.get("question_type", "multiple-choice") == "multiple-choice" and choices:
        asked = CHOICE_PROMPT.format(question=with_options(question, choices))
        meta["choices"] = choices
    else:
        asked = "" if is_answered else f"{question}\nAnswer the question using a single word or phrase."
    for number in _MMMU_IMAGES:
        asked = asked.replace(_PLACEHOLDER.format(number), f"image {number}")
    return Question(id=name, question=asked, answers=tuple(answers), images=tuple(images), meta=meta)


def _mmmu_choices(row: Mapping[str, Any], is_answered: bool) -> list[str]:
    """The options; where an answer file does not say them, their letters in a form that no text has."""
    options = row.get("index2ans")
    if isinstance(options, dict) and options:
        return list(map(str, options.values()))
    if found := _list(row.get("options")):
        return found
    letters = _list(row.get("all_choices")) or list(LETTERS[:_MOST_OPTIONS])
    return [f"({letter})" for letter in letters] if is_answered else []


def _list(value: Any) -> list[str]:
    """A list of texts, given as one, as its Python form in a text, or as a text alone."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = [value]
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)] if value else []


def _choice(
    name: str, scorer: str, split: str, questions: Iterator[Question], prompt: str = CHOICE_PROMPT
) -> Table:
    return Table(
        name=name, answer_type="choice", scorer=scorer, split=split, questions=questions, prompt=prompt
    )
