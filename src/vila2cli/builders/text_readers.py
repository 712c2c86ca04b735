"""Annotations of text in pictures: TextOCR's words with boxes, DocVQA's questions and answers."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vila2cli.builders.boxes import Frame
from vila2cli.builders.pictures import Picture, Thing
from vila2cli.errors import DataError
from vila2cli.files import read_json


def read_textocr(paths: Sequence[Path]) -> Iterator[Picture]:
    """TextOCR: `imgs` with file names and sizes, `anns` with `bbox` (xywh in pixels) and `utf8_string`."""
    for path in paths:
        document = read_json(path)
        images, words = document.get("imgs"), document.get("anns")
        if not isinstance(images, dict) or not isinstance(words, dict):
            raise DataError(f"{path} has no objects 'imgs' and 'anns'; is it of another --format?")
        things: dict[Any, list[Thing]] = defaultdict(list)
        for word in words.values():
            x, y, width, height = (float(value) for value in word["bbox"])
            text = str(word["utf8_string"])
            things[word["image_id"]].append(Thing(category="text", box=(x, y, width, height), text=text))
        for key, image in images.items():
            name = str(image["file_name"])
            frame = Frame("pixel", "xywh", (float(image["width"]), float(image["height"])))
            yield Picture(name=name, image=Path(name), frame=frame, things=tuple(things[key]))


def read_docvqa(paths: Sequence[Path]) -> Iterator[Picture]:
    """DocVQA: `data` with `image`, `question` and `answers`, of which the first is taken; one picture each."""
    questions: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        rows = read_json(path).get("data")
        if not isinstance(rows, list):
            raise DataError(f"{path} has no list 'data'; is it of another --format?")
        for row in rows:
            answers = row.get("answers") or [""]
            questions.setdefault(str(row["image"]), []).append((str(row["question"]), str(answers[0])))
    for name, those in questions.items():
        frame = Frame("pixel", "xyxy")
        yield Picture(name=name, image=Path(name), frame=frame, questions=tuple(those))
