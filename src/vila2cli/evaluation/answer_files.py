"""Answers that other tools wrote: LLaVA's files, lmms-eval's samples, and the result files of VQA and COCO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.reading import read_values

_IDS = ("question_id", "questionId", "sample_id", "image_id", "id", "index")
# "answer" comes last: beside any of the others it is the reference answer (MMMU's output.json).
_TEXTS = ("text", "response", "model_prediction", "prediction", "predict", "caption", "answer")
_IMAGES = ("image_source", "image_id", "imageId", "image_name", "image", "file_name", "filename", "img_path")
_CUT = ("length", "max_tokens", "MAX_TOKENS")
_HALLUSION = ("category", "subcategory", "set_id", "figure_id", "question_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class FiledAnswer:
    """One answer: the id that its tool gave, or the document's number; and what was asked, if it says so.

    `text` is None where the tool noted that no answer came (null in its file), `is_cut` says that it noted an
    end at the longest answer, and `part` what part of the benchmark it is of. `line` is its place in its file,
    where nothing but that says which question it answers (POPE).
    """

    text: str | None
    id: str = ""
    doc: int | None = None
    prompt: str = ""
    image: str = ""
    part: str = ""
    where: str = ""
    file: str = ""
    line: int | None = None
    is_cut: bool = False

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.id or (f"document {self.doc}" if self.line is None else self.where)


def read_answers(paths: Sequence[Path]) -> list[FiledAnswer]:
    """The answers of JSON-lines or JSON files; raises DataError naming file and row for one that has none.

    Known are rows with `question_id` and `text` (LLaVA), `question_id` and `answer` (VQA), `image_id` and
    `caption` (COCO), `image` and `answer` (VizWiz), `id` and `response` (MMMU), `model_prediction`
    (HallusionBench), `doc_id` with `filtered_resps` or `resps` (lmms-eval), `question` and `answer` in the
    order of the labels (POPE), and one object of answers by their ids (MMMU).
    """
    answers = []
    for path in paths:
        for number, row in enumerate(_rows(read_values(path)), 1):
            answers.append(_answer(row, f"{path}, row {number}", str(path), number - 1))
    if not answers:
        raise DataError(f"{', '.join(map(str, paths))} holds no answers")
    return answers


def _rows(values: list[Any]) -> list[Any]:
    """The rows of a file's values: those of its one list, of older lmms-eval's `logs`, or one per id."""
    if len(values) != 1:
        return values
    (value,) = values
    if isinstance(value, dict) and isinstance(value.get("logs"), list):
        return list(value["logs"])
    if isinstance(value, dict) and not {"doc_id", *_IDS} & set(value):
        return [{"id": name, "text": text} for name, text in value.items()]
    return list(value) if isinstance(value, list) else values


def _answer(row: Any, where: str, file: str, line: int) -> FiledAnswer:
    if not isinstance(row, dict):
        raise DataError(f"{where} should be an object with an id and an answer")
    if "doc_id" in row:
        return _lmms_answer(row, where)
    name = _name_of(row)
    key = next((key for key in _TEXTS if key in row), None)
    # NaN is how pandas writes that there is none.
    text = None if key is None or row[key] != row[key] else row[key]
    question = "" if name else _text(row, "question")
    name = name or ("" if question else _text(row, "image"))
    is_known = bool(name or question) and key is not None
    if not is_known or isinstance(text, bool) or not isinstance(text, str | int | float | None):
        raise DataError(
            f"{where} has no answer that is known: question_id and text (LLaVA) or answer (VQA), image_id and "
            "caption (COCO), image and answer (VizWiz), doc_id and filtered_resps (lmms-eval), or question and "
            "answer in the order of the labels (POPE)"
        )
    return FiledAnswer(
        text=None if text is None else str(text),
        id=name,
        prompt=question or _text(row, "prompt"),
        image=_text(row, "image"),
        where=where,
        file=file,
        line=line if question else None,
        is_cut=_is_cut(row),
    )


def _name_of(row: Mapping[str, Any]) -> str:
    """The id of a row: all parts of HallusionBench's, and LLaVA's with the rotation of MMBench's options."""
    if all(key in row for key in _HALLUSION):
        return "_".join(str(row[key]) for key in _HALLUSION)
    name = next((str(row[key]) for key in _IDS if isinstance(row.get(key), str | int)), "")
    return f"{name}-{row['round_id']}" if row.get("round_id") else name


def _lmms_answer(row: Mapping[str, Any], where: str) -> FiledAnswer:
    text = _first_text(row.get("filtered_resps")) if "filtered_resps" in row else None
    text = _first_text(row.get("resps")) if text is None else text
    if text is None or not isinstance(row["doc_id"], int):
        raise DataError(f"{where} has a doc_id, but no text in filtered_resps or resps")
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    name = next((str(doc[key]) for key in _IDS if isinstance(doc.get(key), str | int)), "")
    prompt = _text(row, "input") or _text(doc, "question") or (_first_text(row.get("arguments")) or "")
    image = next((str(doc[key]) for key in _IMAGES if isinstance(doc.get(key), str | int)), "")
    return FiledAnswer(
        text=text,
        id=name,
        doc=row["doc_id"],
        prompt=prompt,
        image=image,
        part=_text(doc, "category"),
        where=where,
        is_cut=_is_cut(row),
    )


def _is_cut(row: Mapping[str, Any]) -> bool:
    return any(row.get(key) in _CUT for key in ("finish_reason", "stop_reason"))


def _first_text(value: Any) -> str | None:
    """The first text in lists of lists."""
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else None


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""
