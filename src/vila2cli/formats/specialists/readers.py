"""Annotations of objects to pictures: Visual Genome, GRIT, NLVR, and lines of boxes."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.entries import (
    EntryError,
    Json,
    Page,
    Pages,
    box_of,
    box_of_parts,
    id_of,
    list_of,
    lost,
    name_of,
    number_of,
    object_of,
    read_lines,
    read_list,
    shown,
    size_of,
    text_of,
    value_of,
)
from vila2cli.formats.specialists.pictures import Picture, Thing
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Reject, Sample


def read_visual_genome(paths: Sequence[Path]) -> Iterator[Picture]:
    """Visual Genome's objects.json, with image_data.json for sizes and region_descriptions.json for phrases.

    A region is of a category of its own, its phrase: a picture has dozens, and they are no instances of one.
    """
    sizes: dict[Any, tuple[float, float] | None] = {}
    problems: dict[Any, tuple[str, str]] = {}
    pages: Pages = defaultdict(Page)
    for path in paths:
        for number, entry in enumerate(read_list(path)):
            where = f"{path.name}[{number}]"
            try:
                key = id_of(object_of(entry), "image_id" if "image_id" in entry else "id")
            except EntryError as error:
                yield lost(Page(), where, Frame("pixel", "xywh"), "malformed", str(error))
                continue
            try:
                _genome_entry(entry, pages[key], where, path.name)
                if "width" in entry or "height" in entry:
                    sizes[key] = size_of(entry)
            except EntryError as error:
                problems[key] = ("malformed", f"{where} {error}")
    for key, page in pages.items():
        yield page.picture(f"{key}.jpg", Frame("pixel", "xywh", sizes.get(key)), problem=problems.get(key))


def _genome_entry(entry: Json, page: Page, where: str, name: str) -> None:
    if not {"objects", "regions", "width"} & entry.keys():
        raise EntryError("has neither objects nor regions nor a width")
    for number, one in enumerate(list_of(entry, "objects")):
        with page.reading("object", f"{where}: objects[{number}]"):
            names = [name for name in list_of(object_of(one), "names") if isinstance(name, str)]
            category = (names or [""])[0].lower()
            with page.placing(category):
                box = box_of_parts(one, "x", "y", "w", "h")
            page.note_id(f"{name} objects", one, "object_id", (category, box))
            page.things.append(Thing(category=category, box=box))
    for number, one in enumerate(list_of(entry, "regions")):
        with page.reading("object", f"{where}: regions[{number}]"):
            box, phrase = box_of_parts(object_of(one), "x", "y", "width", "height"), text_of(one, "phrase")
            page.note_id(f"{name} regions", one, "region_id", (phrase, box))
            category = phrase.strip().rstrip(".").lower()
            page.things.append(Thing(category=category, box=box, phrases=(phrase,), is_region=True))


def read_grit(specs: Sequence[str]) -> Iterator[Picture]:
    """GRIT as img2dataset writes it: shards whose JSON holds a caption, noun chunks and referring expressions.

    Each is `[start, end, x1, y1, x2, y2, score]`: a span of the caption and a box in 0-1 of the picture as it
    was before img2dataset resized it. A referring expression that has the box of a noun chunk in it is
    another phrase for that thing.
    """
    for shard in open_source(specs).shards:
        problems: list[Reject] = []
        for sample in read_shard(shard, on_reject=problems.append):
            yield _grit_picture(f"{shard.name}/{sample.key}", sample)
        for one in problems:
            yield lost(Page(), f"{shard.name}/{one.key}", Frame("unit", "xyxy"), one.reason, one.error)


def _grit_picture(name: str, sample: Sample) -> Picture:
    page, caption = Page(), sample.meta.get("caption") or sample.text or ""
    problem = None if len(sample.images) == 1 else ("not-one-image", f"{len(sample.images)} images")
    size = None
    try:
        original = "original_" if "original_width" in sample.meta else ""
        size = size_of(sample.meta, f"{original}width", f"{original}height")
        if not isinstance(caption, str):
            raise EntryError(f"caption is {shown(caption)}, not text")
        for key in ("noun_chunks", "ref_exps"):
            for number, one in enumerate(list_of(sample.meta, key)):
                with page.reading("object", f"{key}[{number}]"):
                    page.things.append(_grit_thing(caption, one, page.things if key == "ref_exps" else ()))
        page.captions += [caption] if caption else []
    except EntryError as error:
        problem = problem or ("malformed", str(error))
    image = sample.images[0] if sample.images else Path()
    return replace(page.picture(name, Frame("unit", "xyxy", size), problem=problem), image=image)


def _grit_thing(caption: str, one: object, chunks: Sequence[Thing]) -> Thing:
    if not isinstance(one, list) or len(one) < 6:
        raise EntryError(f"is {shown(one)}, not [start, end, x1, y1, x2, y2, score]")
    start, end = (int(number_of(value, "span")) for value in one[:2])
    if not 0 <= start < end <= len(caption):
        raise EntryError(f"span {start} to {end} is not in the caption of {len(caption)} characters")
    box = box_of(one[2:6], "box")
    for chunk in chunks:
        if chunk.box == box and chunk.span and start <= chunk.span[0] and chunk.span[1] <= end:
            return replace(chunk, span=(start, end), is_again=True)
    # The last word of a noun phrase names what it is of.
    words = caption[start:end].split()
    category = words[-1].strip(".,;:!?").lower() if words else ""
    return Thing(category=category, box=box, span=(start, end))


NLVR_PANEL, NLVR_STEP = 100, 150
"""Side of one of the three panels of an NLVR picture, and how far apart their left edges are, in pixels."""
NLVR_COLOURS = {"#0099ff": "blue"}


def read_nlvr(paths: Sequence[Path]) -> Iterator[Picture]:
    """NLVR's structured scenes, `{"structured_rep": [[{x_loc, y_loc, size, type, color}]], "images": [...]}`.

    The first picture of a statement has the panels in the order of the scene; those of the others are
    shuffled and nothing says how, so they are not used. Without `images` it is the one that the published
    files are named by, `SPLIT-IDENTIFIER-0.png` where the annotations are SPLIT.json.
    """
    frame = Frame("pixel", "xywh", (2 * NLVR_STEP + NLVR_PANEL, NLVR_PANEL))
    for path in paths:
        for where, one in read_lines(path, frame):
            if isinstance(one, Picture):
                yield one
                continue
            page = Page()
            try:
                names = _nlvr_images(one, path.stem)
                _nlvr_shapes(one, page)
            except EntryError as error:
                yield lost(page, where, frame, "malformed", str(error))
                continue
            for number, name in enumerate(names):
                problem = ("shuffled-panels", "the order of its panels is not stated") if number else None
                yield page.picture(name, frame, problem=problem)


def _nlvr_images(one: Json, split: str) -> list[str]:
    if "images" not in one:
        return [f"{split}-{id_of(one, 'identifier')}-0.png"]
    names = list_of(one, "images")
    if not names or not all(isinstance(name, str) and name for name in names):
        raise EntryError(f"images is {shown(names)}, not a list of names")
    return names


def _nlvr_shapes(one: Json, page: Page) -> None:
    value_of(one, "structured_rep")
    for panel, shapes in enumerate(list_of(one, "structured_rep")):
        if not isinstance(shapes, list):
            raise EntryError(f"structured_rep[{panel}] is {shown(shapes)}, not a list")
        for number, shape in enumerate(shapes):
            with page.reading("object", f"structured_rep[{panel}][{number}]"):
                colour, form = text_of(object_of(shape), "color"), text_of(shape, "type")
                x, y, size = box_of_parts({**shape, "_": 0}, "x_loc", "y_loc", "size", "_")[:3]
                category = f"{NLVR_COLOURS.get(colour, colour)} {form}".lower()
                box = (NLVR_STEP * panel + x, y, size, size)
                page.things.append(Thing(category=category, box=box))


def read_lines_of_boxes(paths: Sequence[Path]) -> Iterator[Picture]:
    """JSON lines of other data: `{"image", "frame": "pixel-xyxy", "width", "height", "caption", "objects"}`.

    An object is `{"category", "box"}` with, where known, `phrases`, `span`, `depth`, `centre` (both in
    metres) and `text`; `frame` is as `boxes.Frame.parse` reads it.
    """
    unknown = Frame("pixel", "xyxy")
    for path in paths:
        for where, one in read_lines(path, unknown):
            if isinstance(one, Picture):
                yield one
                continue
            page = Page()
            try:
                name = name_of(one, "image")
                frame = Frame.parse(text_of(one, "frame"), size_of(one))
                page.captions += [text_of(one, "caption")] if one.get("caption") else []
                for number, thing in enumerate(list_of(one, "objects")):
                    with page.reading("object", f"objects[{number}]"):
                        page.things.append(_line_thing(page, object_of(thing)))
            except (EntryError, DataError) as error:
                yield lost(page, where, unknown, "malformed", str(error))
                continue
            yield page.picture(name, frame)


def _line_thing(page: Page, one: Json) -> Thing:
    centre, span, depth = one.get("centre"), one.get("span"), _depth(one.get("depth"), "depth")
    if centre is not None and (not isinstance(centre, list) or len(centre) != 3):
        raise EntryError(f"centre is {shown(centre)}, not three numbers")
    if span is not None and (not isinstance(span, list) or len(span) != 2):
        raise EntryError(f"span is {shown(span)}, not two numbers")
    ahead = None if centre is None else _depth(centre[2], "centre[2]")
    text = text_of(one, "text") if one.get("text") is not None else None
    phrases = list_of(one, "phrases")
    if not all(isinstance(phrase, str) for phrase in phrases):
        raise EntryError(f"phrases is {shown(phrases)}, not a list of texts")
    category = text_of(one, "category") if text is None or "category" in one else "text"
    with page.placing(category):
        box = box_of(one.get("box"), "box")
    return Thing(
        category=category,
        box=box,
        phrases=tuple(phrases),
        span=None if span is None else (int(number_of(span[0], "span")), int(number_of(span[1], "span"))),
        depth=depth,
        centre=None if centre is None or ahead is None else _centre(centre, ahead),
        text=text,
        is_crowd=bool(one.get("is_crowd")),
    )


def _centre(values: Sequence[Any], ahead: float) -> tuple[float, float, float] | None:
    """A point in metres, None where its sides are not measured."""
    right, down = (
        math.nan
        if value is None
        else value
        if isinstance(value, float) and not math.isfinite(value)
        else number_of(value, "centre")
        for value in values[:2]
    )
    return (right, down, ahead) if math.isfinite(right) and math.isfinite(down) else None


def _depth(value: Any, name: str) -> float | None:
    """Metres; None for what sensors write where they saw nothing: zero, less, NaN or infinity."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    metres = number_of(value, name)
    return metres if metres > 0 else None
