"""Annotations of objects to pictures: Visual Genome, GRIT, NLVR, and lines of boxes."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import parse_json
from vila2cli.formats.reading import Row, RowError, read_bytes, read_list, shown
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.draft import Draft, Drafts, PictureReader
from vila2cli.formats.specialists.pictures import Boxed, Picture
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Reject, Sample


def read_genome(paths: Sequence[Path]) -> Iterator[Picture]:
    """Visual Genome's objects.json, with image_data.json for sizes and region_descriptions.json for phrases.

    A region is of a category of its own, its phrase: a picture has dozens, and they are no instances of one.
    """
    sizes: dict[Any, tuple[float, float] | None] = {}
    problems: dict[Any, tuple[str, str]] = {}
    drafts: Drafts = defaultdict(Draft)
    for path in paths:
        for row in read_list(path):
            try:
                key = row.id("image_id" if "image_id" in row else "id")
            except RowError as error:
                yield Draft().lost(row.where, error.error)
                continue
            try:
                _genome_row(row, drafts[key], path.name)
                if "width" in row or "height" in row:
                    sizes[key] = row.size()
            except RowError as error:
                problems[key] = ("malformed", f"{row.where} {error.error}")
    for key, draft in drafts.items():
        yield draft.picture(f"{key}.jpg", Frame("pixel", "xywh", sizes.get(key)), problem=problems.get(key))


def _genome_row(row: Row, draft: Draft, source: str) -> None:
    if not {"objects", "regions", "width"} & row.fields.keys():
        raise row.error("has neither objects nor regions nor a width")
    for named in row.rows("objects"):
        with draft.reading("object"):
            names = [name for name in named.listed("names") if isinstance(name, str)]
            category = (names or [""])[0].lower()
            with draft.placing(category):
                box = named.box_of_parts("x", "y", "w", "h")
            draft.note_id(f"{source} objects", named, "object_id", (category, box))
            draft.things.append(Boxed(category=category, box=box))
    for region in row.rows("regions"):
        with draft.reading("object"):
            box, phrase = region.box_of_parts("x", "y", "width", "height"), region.text("phrase")
            draft.note_id(f"{source} regions", region, "region_id", (phrase, box))
            category = phrase.strip().rstrip(".").lower()
            draft.things.append(Boxed(category=category, box=box, phrases=(phrase,), is_region=True))


def read_grit(paths: Sequence[Path]) -> Iterator[Picture]:
    """GRIT as img2dataset writes it: shards whose JSON holds a caption, noun chunks and referring expressions.

    Each is `[start, end, x1, y1, x2, y2, score]`: a span of the caption and a box in 0-1 of the picture as it
    was before img2dataset resized it. A referring expression that has the box of a noun chunk in it is
    another phrase for that object.
    """
    for shard in open_source([str(path) for path in paths]).shards:
        problems: list[Reject] = []
        for sample in read_shard(shard, on_reject=problems.append):
            yield _grit_picture(f"{shard.name}/{sample.key}", sample)
        for reject in problems:
            yield Draft().lost(f"{shard.name}/{reject.key}", reject.error, reject.reason)


def _grit_picture(name: str, sample: Sample) -> Picture:
    draft, row, caption = Draft(), Row(sample.meta, ""), sample.meta.get("caption") or sample.text or ""
    problem = None if len(sample.images) == 1 else ("not-one-image", f"{len(sample.images)} images")
    size = None
    try:
        original = "original_" if "original_width" in row else ""
        size = row.size(f"{original}width", f"{original}height")
        if not isinstance(caption, str):
            raise row.wrong("caption", "text")
        for phrase in row.rows("noun_chunks"):
            with draft.reading("object"):
                draft.things.append(_grit_thing(caption, phrase, ()))
        for phrase in row.rows("ref_exps"):
            with draft.reading("object"):
                draft.things.append(_grit_thing(caption, phrase, draft.things))
        draft.captions += [caption] if caption else []
    except RowError as error:
        problem = problem or ("malformed", error.error)
    image = sample.images[0] if sample.images else Path()
    return replace(draft.picture(name, Frame("unit", "xyxy", size), problem=problem), image=image)


def _grit_thing(caption: str, phrase: Row, chunks: Sequence[Boxed]) -> Boxed:
    values = phrase.value
    if not isinstance(values, list) or len(values) < 6:
        raise phrase.error(f"is {shown(values)}, not [start, end, x1, y1, x2, y2, score]")
    start, end = (int(phrase.number(value, "span")) for value in values[:2])
    if not 0 <= start < end <= len(caption):
        raise phrase.error(f"span {start} to {end} is not in the caption of {len(caption)} characters")
    box = phrase.box(values[2:6], "box")
    for chunk in chunks:
        if chunk.box == box and chunk.span and start <= chunk.span[0] and chunk.span[1] <= end:
            return replace(chunk, span=(start, end), is_again=True)
    # The last word of a noun phrase names what it is of.
    words = caption[start:end].split()
    category = words[-1].strip(".,;:!?").lower() if words else ""
    return Boxed(category=category, box=box, span=(start, end))


def _by_line(pictures: Callable[[Row, Draft, Path], list[Picture]]) -> PictureReader:
    """Read JSON lines by what `pictures` makes of each; one that cannot be used is a picture with a problem."""

    @wraps(pictures)
    def read(paths: Sequence[Path]) -> Iterator[Picture]:
        for path in paths:
            for number, line in enumerate(read_bytes(path).splitlines(), 1):
                if not line.strip():
                    continue
                draft = Draft()
                try:
                    yield from pictures(Row(parse_json(line, "the line"), ""), draft, path)
                except DataError as error:
                    yield draft.lost(f"{path.name}, line {number}", str(error))

    return read


NLVR_PANEL, NLVR_STEP = 100, 150
"""Side of one of the three panels of an NLVR picture, and how far apart their left edges are, in pixels."""
NLVR_FRAME = Frame("pixel", "xywh", (2 * NLVR_STEP + NLVR_PANEL, NLVR_PANEL))
NLVR_COLOURS = {"#0099ff": "blue"}


@_by_line
def read_nlvr(row: Row, draft: Draft, path: Path) -> list[Picture]:
    """NLVR's structured scenes, `{"structured_rep": [[{x_loc, y_loc, size, type, color}]], "images": [...]}`.

    The first picture of a statement has the panels in the order of the scene; those of the others are
    shuffled and nothing says how, so they are not used. Without `images` it is the one that the published
    files are named by, `SPLIT-IDENTIFIER-0.png` where the annotations are SPLIT.json.
    """
    names = row.listed("images") if "images" in row else [f"{path.stem}-{row.id('identifier')}-0.png"]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise row.wrong("images", "a list of names")
    for panel, shapes in enumerate(row.child("structured_rep").elements()):
        for shape in shapes.elements():
            with draft.reading("object"):
                colour, form = shape.text("color"), shape.text("type")
                x, y, size, _ = shape.box_of_parts("x_loc", "y_loc", "size", "size")
                category = f"{NLVR_COLOURS.get(colour, colour)} {form}".lower()
                draft.things.append(Boxed(category=category, box=(NLVR_STEP * panel + x, y, size, size)))
    shuffled = ("shuffled-panels", "the order of its panels is not stated")
    return [draft.picture(name, NLVR_FRAME, problem=shuffled if i else None) for i, name in enumerate(names)]


@_by_line
def read_boxes(row: Row, draft: Draft, path: Path) -> list[Picture]:
    """JSON lines of other data: `{"image", "frame": "pixel-xyxy", "width", "height", "caption", "objects"}`.

    An object is `{"category", "box"}` with, where known, `phrases`, `span`, `depth`, `centre` (both in
    metres) and `text`; `frame` is as `boxes.Frame.parse` reads it.
    """
    name = row.filled("image")
    frame = Frame.parse(row.text("frame"), row.size())
    draft.captions += [row.text("caption")] if row.get("caption") else []
    for thing in row.rows("objects"):
        with draft.reading("object"):
            draft.things.append(_line_thing(draft, thing))
    return [draft.picture(name, frame)]


def _line_thing(draft: Draft, row: Row) -> Boxed:
    centre, span, depth = row.get("centre"), row.get("span"), _depth(row, row.get("depth"), "depth")
    if centre is not None and (not isinstance(centre, list) or len(centre) != 3):
        raise row.wrong("centre", "three numbers")
    if span is not None and (not isinstance(span, list) or len(span) != 2):
        raise row.wrong("span", "two numbers")
    phrases = row.listed("phrases")
    if not all(isinstance(phrase, str) for phrase in phrases):
        raise row.wrong("phrases", "a list of texts")
    text = None if row.get("text") is None else row.text("text")
    category = row.text("category") if text is None or "category" in row else "text"
    with draft.placing(category):
        box = row.box(row.get("box"), "box")
    return Boxed(
        category=category,
        box=box,
        phrases=tuple(phrases),
        span=None if span is None else (int(row.number(span[0], "span")), int(row.number(span[1], "span"))),
        depth=depth,
        centre=None if centre is None else _centre(row, *centre),
        text=text,
        is_crowd=bool(row.get("is_crowd")),
    )


def _centre(row: Row, right: Any, down: Any, ahead: Any) -> tuple[float, float, float] | None:
    if (depth := _depth(row, ahead, "centre[2]")) is None:
        return None
    x, y = (_measured(row, side, "centre") for side in (right, down))
    return None if x is None or y is None else (x, y, depth)


def _depth(row: Row, value: Any, name: str) -> float | None:
    """Metres; None for what sensors write where they saw nothing: zero, less, NaN or infinity."""
    metres = _measured(row, value, name)
    return metres if metres is not None and metres > 0 else None


def _measured(row: Row, value: Any, name: str) -> float | None:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return row.number(value, name)
