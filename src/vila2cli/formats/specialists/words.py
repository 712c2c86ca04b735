"""Annotations of text in pictures: TextOCR's words with boxes, DocVQA's questions, answers and words."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vila2cli.errors import DataError
from vila2cli.formats.reading import Row, RowError, read_document, stated
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.draft import Draft, Drafts, unlisted
from vila2cli.formats.specialists.pictures import Boxed, Picture
from vila2cli.text.box_parsing import Box


def read_textocr(paths: Sequence[Path]) -> Iterator[Picture]:
    """TextOCR: `imgs` with file names and sizes, `anns` with `bbox` (xywh in pixels) and `utf8_string`."""
    frame = Frame("pixel", "xywh")
    for path in paths:
        document = read_document(path, "imgs", "anns", kind=dict)
        drafts: Drafts = defaultdict(Draft)
        for _, row in document.child("anns").items():
            image = stated(row.id, "image_id")
            with drafts[None if image is None else str(image)].reading("object") as draft:
                box, text = row.box(row.get("bbox"), "bbox"), row.text("utf8_string")
                row.id("image_id")
                draft.things.append(Boxed(category="text", box=box, text=text))
        for key, row in document.child("imgs").items():
            try:
                name, size = row.filled("file_name"), row.size()
            except RowError as error:
                yield drafts[key].lost(row.where, error.error)
            else:
                yield drafts[key].picture(name, replace(frame, size=size))
        yield from unlisted(drafts, document.get("imgs"))


def read_docvqa(paths: Sequence[Path]) -> Iterator[Picture]:
    """DocVQA: `data` with `image`, `question` and `answers`, of which the first that says something counts.

    The questions about one image are one picture. Further files may be the OCR that comes with the data, one
    for each image and named like it: its words are read too.
    """
    drafts: Drafts = defaultdict(Draft)
    words: dict[str, Row] = {}
    for path in paths:
        document = read_document(path)
        if "recognitionResults" in document:
            words[path.stem] = document
            continue
        if not isinstance(document.get("data"), list):
            raise DataError(f"{path} has no list 'data'; is it of another --format?")
        for row in document.rows("data"):
            with drafts[stated(row.filled, "image")].reading("question") as draft:
                row.filled("image")
                draft.questions.append((row.text("question"), _answer(row)))
    for name, draft in drafts.items():
        if name is None:
            yield from unlisted({None: draft}, {})
        else:
            yield _document_picture(draft, name, words.get(_stem(name)))
    asked_about = {_stem(name) for name in drafts if name}
    for stem in words:
        if stem not in asked_about:
            yield Draft().lost(f"{stem}.json", f"no question is about an image {stem!r}", "unlisted-image")


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _document_picture(draft: Draft, name: str, document: Row | None) -> Picture:
    size = None
    if document is not None:
        with draft.reading("object"):
            result = next(document.rows("recognitionResults"), Row(None, document.where))
            size = result.size()
            for line in result.rows("lines"):
                with draft.reading("object"):
                    _read_line(draft, line)
    return draft.picture(name, Frame("pixel", "xyxy", size))


def _read_line(draft: Draft, line: Row) -> None:
    for word in line.rows("words"):
        with draft.reading("object"):
            box, text = _around(word), word.text("text")
            draft.things.append(Boxed(category="text", box=box, text=text))


def _around(word: Row) -> Box:
    """The box around four corners, x and y of each in turn."""
    corners = word.get("boundingBox")
    if not isinstance(corners, list) or len(corners) != 8:
        raise word.wrong("boundingBox", "eight numbers", "not-a-box")
    numbers = [word.number(value, "boundingBox", "not-a-box") for value in corners]
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _answer(row: Row) -> str:
    """The first answer that says something, "" where there is none."""
    answers = row.get("answers")
    if isinstance(answers, str):
        return answers
    texts = (str(answer) for answer in row.listed("answers") if isinstance(answer, str | int | float))
    return next((text for text in texts if text.strip()), "")
