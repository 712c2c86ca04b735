"""Annotations of text in pictures: TextOCR's words with boxes, DocVQA's questions and answers."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.builders.boxes import Frame
from vila2cli.builders.pictures import Picture, Thing
from vila2cli.builders.readers import unlisted
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
            key = str(word["image_id"])
            things[key].append(Thing(category="text", box=(x, y, width, height), text=text))
        for key, image in images.items():
            name = str(image["file_name"])
            frame = Frame("pixel", "xywh", (float(image["width"]), float(image["height"])))
            yield Picture(name=name, image=Path(name), frame=frame, things=tuple(things[key]))
        yield from unlisted(things, images)


def read_docvqa(paths: Sequence[Path]) -> Iterator[Picture]:
    """DocVQA: `data` with `image`, `question` and `answers`, of which the first that says something counts.

    The questions about one image are one picture.
    """
    questions: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        rows = read_json(path).get("data")
        if not isinstance(rows, list):
            raise DataError(f"{path} has no list 'data'; is it of another --format?")
        for row in rows:
            questions.setdefault(str(row["image"]), []).append((str(row["question"]), _answer(row)))
    for name, those in questions.items():
        frame = Frame("pixel", "xyxy")
        yield Picture(name=name, image=Path(name), frame=frame, questions=tuple(those))


def _answer(row: Mapping[str, Any]) -> str:
    """The first answer that says something, "" where there is none."""
    answers = row.get("answers") or ()
    texts = [answers] if isinstance(answers, str) else [str(one) for one in answers if one is not None]
    return next((text for text in texts if text.strip()), "")
