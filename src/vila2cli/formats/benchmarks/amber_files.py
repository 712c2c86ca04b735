"""AMBER: its queries, annotations.json, and for descriptions relation.json and safe_words.txt, in any order."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.reading import (
    SHORT_PROMPT,
    Question,
    Table,
    need,
    need_texts,
    read_rows,
    read_text,
    read_values,
)

_FILES = "AMBER's query_all.json (or another query_*.json), annotations.json, relation.json and safe_words.txt"
_DIMENSIONS = {"discriminative-hallucination": "existence", "discriminative-relation": "relation"}


def read_amber(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """The descriptions and the yes/no questions among the queries, each as a task of its own."""
    safe_words = [word for path in paths if path.suffix == ".txt" for word in read_text(path).splitlines()]
    files = [path for path in paths if path.suffix != ".txt"]
    words = next((table for path in files if (table := _relations(path)) is not None), None)
    tables = [(path, read_rows(path)) for path in files if _relations(path) is None]
    asked = [(path, row) for path, rows in tables for row in rows if "query" in row]
    known = {str(need(row, "id", path)): (path, row) for path, rows in tables for row in rows if "truth" in row}
    if not asked or not known:
        raise DataError(f"give {_FILES}")
    pairs = [(path, row, *_annotation(row, path, known)) for path, row in asked]
    told = [pair for pair in pairs if pair[3].get("type") == "generative"]
    if told:
        if words is None:
            raise DataError(
                f"the queries ask for descriptions, and no relation.json is among the files: give {_FILES}"
            )
        objects = sorted({word for name, others in words.items() for word in (name, *others)})
        shared = {"objects": objects, "safe_words": [word for word in safe_words if word]}
        yield Table(
            name="amber-generative",
            answer_type="caption",
            scorer="amber",
            split=split,
            questions=(_description(*pair, words, shared) for pair in told),
        )
    if len(told) < len(pairs):
        yield Table(
            name="amber-discriminative",
            answer_type="yesno",
            scorer="amber-yesno",
            split=split,
            prompt=SHORT_PROMPT,
            questions=(_yesno(*pair) for pair in pairs if pair[3].get("type") != "generative"),
        )


def _relations(path: Path) -> dict[str, list[str]] | None:
    """The words that go with each object; None for a file of another kind."""
    values = read_values(path)
    if len(values) != 1 or not isinstance(values[0], dict) or not values[0]:
        return None
    table = values[0]
    if not all(isinstance(words, list) for words in table.values()):
        return None
    return {name: need_texts(table, name, path) for name in table}


def _annotation(
    row: Mapping[str, Any], path: Path, known: Mapping[str, tuple[Path, Mapping[str, Any]]]
) -> tuple[Path, Mapping[str, Any]]:
    name = str(need(row, "id", path))
    if name not in known:
        raise DataError(f"{path} asks query {name}, and the annotations have no such id")
    return known[name]


def _description(
    path: Path,
    row: Mapping[str, Any],
    annotated_in: Path,
    annotation: Mapping[str, Any],
    words: Mapping[str, list[str]],
    shared: Mapping[str, Any],
) -> Question:
    groups = {
        key: [[name, *words.get(name, [])] for name in need_texts(annotation, key, annotated_in)]
        for key in ("truth", "hallu")
    }
    return Question(**_asked(path, row), answers=(), meta={**groups, **shared})


def _yesno(path: Path, row: Mapping[str, Any], annotated_in: Path, annotation: Mapping[str, Any]) -> Question:
    truth, kind = need(annotation, "truth", annotated_in), str(need(annotation, "type", annotated_in))
    if truth not in ("yes", "no"):
        raise DataError(f"{annotated_in}: the truth of query {row['id']} is {truth!r}; it should be yes or no")
    dimension = (
        "attribute" if kind.startswith("discriminative-attribute") else _DIMENSIONS.get(kind, "relation")
    )
    return Question(**_asked(path, row), answers=(truth,), meta={"category": dimension, "type": kind})


def _asked(path: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "question": str(need(row, "query", path)),
        "images": (str(need(row, "image", path)),),
    }
