"""AMBER: its queries, annotations.json, and for descriptions relation.json and safe_words.txt, in any order."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.questions import SHORT_PROMPT, BenchmarkQuestion, BenchmarkTask, question_of
from vila2cli.formats.reading import Row, read_rows, read_text, read_values

_FILES = "AMBER's query_all.json (or another query_*.json), annotations.json, relation.json and safe_words.txt"
_DIMENSIONS = {"discriminative-hallucination": "existence", "discriminative-relation": "relation"}


def read_amber(paths: Sequence[Path], split: str) -> Iterator[BenchmarkTask]:
    """The descriptions and the yes/no questions among the queries, each as a task of its own."""
    safe_words = [word for path in paths if path.suffix == ".txt" for word in read_text(path).splitlines()]
    relations = {path: _relations(path) for path in paths if path.suffix != ".txt"}
    words = next((table for table in relations.values() if table is not None), None)
    rows = [row for path, table in relations.items() if table is None for row in read_rows(path)]
    asked = [row for row in rows if "query" in row]
    annotations = {row.string("id"): row for row in rows if "truth" in row}
    if not asked or not annotations:
        raise DataError(f"give {_FILES}")
    pairs = [(row, _annotation(row, annotations)) for row in asked]
    to_describe = [pair for pair in pairs if pair[1].get("type") == "generative"]
    if to_describe:
        if words is None:
            raise DataError(
                f"the queries ask for descriptions, and no relation.json is among the files: give {_FILES}"
            )
        objects = sorted({word for name, others in words.items() for word in (name, *others)})
        shared = {"objects": objects, "safe_words": [word for word in safe_words if word]}
        yield BenchmarkTask(
            name="amber-generative",
            answer_type="caption",
            scorer="amber",
            split=split,
            questions=(_description(*pair, words, shared) for pair in to_describe),
        )
    if len(to_describe) < len(pairs):
        yield BenchmarkTask(
            name="amber-discriminative",
            answer_type="yesno",
            scorer="amber-yesno",
            split=split,
            prompt=SHORT_PROMPT,
            questions=(_yesno(*pair) for pair in pairs if pair[1].get("type") != "generative"),
        )


def _relations(path: Path) -> dict[str, list[str]] | None:
    """The words that go with each object; None for a file of another kind."""
    values = read_values(path)
    if len(values) != 1 or not isinstance(values[0], dict) or not values[0]:
        return None
    table = Row(values[0], str(path))
    if not all(isinstance(words, list) for words in table.fields.values()):
        return None
    return {name: table.strings(name) for name in table.fields}


def _annotation(row: Row, annotations: Mapping[str, Row]) -> Row:
    if (name := row.string("id")) not in annotations:
        raise row.error(f"asks query {name}, and the annotations have no such id")
    return annotations[name]


def _description(
    row: Row, annotation: Row, words: Mapping[str, list[str]], shared: Mapping[str, Any]
) -> BenchmarkQuestion:
    sides = {key: annotation.strings(key) for key in ("truth", "hallu")}
    groups = {key: [[name, *words.get(name, [])] for name in names] for key, names in sides.items()}
    return _question(row, (), {**groups, **shared})


def _yesno(row: Row, annotation: Row) -> BenchmarkQuestion:
    truth, kind = annotation.need("truth"), annotation.string("type")
    if truth not in ("yes", "no"):
        raise annotation.wrong("truth", "yes or no")
    is_attribute = kind.startswith("discriminative-attribute")
    dimension = "attribute" if is_attribute else _DIMENSIONS.get(kind, "relation")
    return _question(row, (truth,), {"category": dimension, "type": kind})


def _question(row: Row, answers: tuple[str, ...], meta: Mapping[str, Any]) -> BenchmarkQuestion:
    return question_of(row, row.string("id"), question="query", answers=answers, meta=meta)
