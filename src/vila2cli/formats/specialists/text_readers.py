"""Annotations of text in pictures: TextOCR's words with boxes, DocVQA's questions, answers and words."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import read_json
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.entries import (
    EntryError,
    Json,
    Page,
    Pages,
    box_of,
    id_of,
    list_of,
    lost,
    name_of,
    number_of,
    object_of,
    read_document,
    shown,
    size_of,
    stated,
    text_of,
    unlisted,
)
from vila2cli.formats.specialists.pictures import Box, Picture, Thing


def read_textocr(paths: Sequence[Path]) -> Iterator[Picture]:
    """TextOCR: `imgs` with file names and sizes, `anns` with `bbox` (xywh in pixels) and `utf8_string`."""
    frame = Frame("pixel", "xywh")
    for path in paths:
        document = read_document(path, "imgs", "anns", kind=dict)
        pages: Pages = defaultdict(Page)
        for name, entry in document["anns"].items():
            image = stated(id_of, entry, "image_id")
            key = None if image is None else str(image)
            with pages[key].reading("object", f"{path.name}: anns[{shown(name)}]") as page:
                box, text = box_of(object_of(entry).get("bbox"), "bbox"), text_of(entry, "utf8_string")
                id_of(entry, "image_id")
                page.things.append(Thing(category="text", box=box, text=text))
        for key, entry in document["imgs"].items():
            where = f"{path.name}: imgs[{shown(key)}]"
            try:
                name, size = name_of(object_of(entry), "file_name"), size_of(entry)
            except EntryError as error:
                yield lost(pages[key], where, frame, "malformed", str(error))
                continue
            yield pages[key].picture(name, Frame(frame.unit, frame.form, size))
        yield from unlisted(pages, document["imgs"], frame)


def read_docvqa(paths: Sequence[Path]) -> Iterator[Picture]:
    """DocVQA: `data` with `image`, `question` and `answers`, of which the first that says something counts.

    The questions about one image are one picture. Further files may be the OCR that comes with the data, one
    for each image and named like it: its words are read too.
    """
    pages: Pages = defaultdict(Page)
    words: dict[str, Json] = {}
    for path in paths:
        document = read_json(path)
        if "recognitionResults" in document:
            words[path.stem] = document
            continue
        if not isinstance(document.get("data"), list):
            raise DataError(f"{path} has no list 'data'; is it of another --format?")
        for number, row in enumerate(document["data"]):
            with pages[stated(name_of, row, "image")].reading(
                "question", f"{path.name}: data[{number}]"
            ) as page:
                name_of(object_of(row), "image")
                page.questions.append((text_of(row, "question"), _answer(row)))
    for name in [*pages, *(stem for stem in words if stem not in {_stem(name) for name in pages if name})]:
        if name is None:
            yield from unlisted(pages, pages, Frame("pixel", "xyxy"))
        elif name in pages:
            yield _document_picture(pages[name], name, words.get(_stem(name)))
        else:
            error = f"no question is about an image {name!r}"
            yield lost(Page(), f"{name}.json", Frame("pixel", "xyxy"), "unlisted-image", error)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _document_picture(page: Page, name: str, words: Json | None) -> Picture:
    size = None
    if words is not None:
        with page.reading("object", f"{_stem(name)}.json"):
            results = list_of(words, "recognitionResults")
            result = object_of(results[0] if results else None)
            size = size_of(result)
            for number, line in enumerate(list_of(result, "lines")):
                with page.reading("object", f"{_stem(name)}.json: lines[{number}]"):
                    _read_line(page, line, f"{_stem(name)}.json: lines[{number}]")
    return page.picture(name, Frame("pixel", "xyxy", size))


def _read_line(page: Page, line: Any, where: str) -> None:
    for number, word in enumerate(list_of(object_of(line), "words")):
        with page.reading("object", f"{where}.words[{number}]"):
            box, text = _around(object_of(word).get("boundingBox")), text_of(word, "text")
            page.things.append(Thing(category="text", box=box, text=text))


def _around(corners: Any) -> Box:
    """The box around four corners, x and y of each in turn."""
    if not isinstance(corners, list) or len(corners) != 8:
        raise EntryError(f"boundingBox is {shown(corners)}, not eight numbers", "not-a-box")
    numbers = [number_of(value, "boundingBox", "not-a-box") for value in corners]
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _answer(row: Json) -> str:
    """The first answer that says something, "" where there is none."""
    answers = row.get("answers")
    if isinstance(answers, str):
        return answers
    texts = (str(one) for one in list_of(row, "answers") if isinstance(one, str | int | float))
    return next((text for text in texts if text.strip()), "")
