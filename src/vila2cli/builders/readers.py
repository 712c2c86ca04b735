"""Annotations of objects to pictures: COCO, RefCOCO, Visual Genome, GRIT, NLVR, and lines of boxes."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.builders.boxes import Frame
from vila2cli.builders.pictures import Box, Picture, Thing
from vila2cli.errors import DataError
from vila2cli.files import parse_json
from vila2cli.sample import Reject
from vila2cli.shards import open_source, read_shard

Json = Mapping[str, Any]


def read_coco(paths: Sequence[Path]) -> Iterator[Picture]:
    """COCO instances and, from further files, captions; pictures in the order of the first file.

    A region is a crowd where `iscrowd` is set, unless it is outlined by polygons: some data sets set it on
    single things. Annotations of an image that is not listed are a picture with a problem.
    """
    images: dict[Any, Json] = {}
    names: dict[Any, str] = {}
    things: dict[Any, list[Thing]] = defaultdict(list)
    captions: dict[Any, list[str]] = defaultdict(list)
    for path in paths:
        document = _document(path, "images", "annotations")
        images = {image["id"]: image for image in document["images"]} | images
        names |= {one["id"]: str(one["name"]) for one in document.get("categories", ())}
        for one in document["annotations"]:
            if "caption" in one:
                captions[one["image_id"]].append(str(one["caption"]))
            elif "bbox" in one:
                things[one["image_id"]].append(_coco_thing(one, names))
    for key, image in images.items():
        yield Picture(
            name=str(image["file_name"]),
            image=Path(str(image["file_name"])),
            frame=Frame("pixel", "xywh", _size(image)),
            things=tuple(things[key]),
            captions=tuple(captions[key]),
        )
    yield from unlisted(things, images)


def unlisted(things: Mapping[Any, Sequence[Thing]], images: Mapping[Any, Any]) -> Iterator[Picture]:
    """What is annotated on images that the annotations do not list, so that it is counted."""
    for key, those in things.items():
        if key not in images:
            problem = ("unlisted-image", f"no image has the id {key!r}")
            yield Picture(
                name=f"image {key}",
                image=Path(),
                frame=Frame("pixel", "xywh"),
                things=tuple(those),
                problem=problem,
            )


def _coco_thing(one: Json, names: Mapping[Any, str], phrases: Sequence[str] = ()) -> Thing:
    outline = one.get("segmentation")
    is_crowd = bool(one.get("iscrowd")) and not (outline and isinstance(outline, list))
    category = names.get(one.get("category_id"), "").lower()
    return Thing(category=category, box=_box(one["bbox"]), phrases=tuple(phrases), is_crowd=is_crowd)


def read_refcoco(paths: Sequence[Path]) -> Iterator[Picture]:
    """COCO instances first, then references as a JSON list of `{ann_id, image_id, sentences: [{sent}]}`.

    Only pictures with references are read; a reference to an annotation that is not there counts as a thing
    without a box. The published `refs(unc).p` is a pickle, which is not read.
    """
    for path in paths:
        if path.suffix == ".p":
            raise DataError(
                f"{path} is a pickle, which may run any program when it is read; turn it into JSON where you "
                "trust it: python -c 'import json, pickle, sys; json.dump(pickle.load(open(sys.argv[1], "
                '"rb")), sys.stdout)\' FILE > refs.json'
            )
    if len(paths) < 2:
        raise DataError("RefCOCO needs two --annotations: COCO's instances, and the references as JSON")
    document = _document(paths[0], "images", "annotations")
    names = {one["id"]: str(one["name"]) for one in document.get("categories", ())}
    phrases: dict[Any, list[str]] = defaultdict(list)
    wanted: dict[Any, None] = {}
    pictures: dict[Any, Any] = {}
    for path in paths[1:]:
        for reference in _list(path):
            wanted[reference["image_id"]] = None
            phrases[reference["ann_id"]] += [str(one["sent"]) for one in reference["sentences"]]
            pictures[reference["ann_id"]] = reference["image_id"]
    things: dict[Any, list[Thing]] = defaultdict(list)
    for one in document["annotations"]:
        if one["image_id"] in wanted and "bbox" in one:
            things[one["image_id"]].append(_coco_thing(one, names, phrases.get(one["id"], ())))
            pictures.pop(one["id"], None)
    for key in pictures.values():
        things[key].append(Thing(category="unknown", box=(math.nan,) * 4))
    images = {image["id"]: image for image in document["images"]}
    yield from unlisted({key: things[key] for key in wanted}, images)
    for image in (images[key] for key in wanted if key in images):
        frame = Frame("pixel", "xywh", _size(image))
        name = str(image["file_name"])
        yield Picture(name=name, image=Path(name), frame=frame, things=tuple(things[image["id"]]))


def read_visual_genome(paths: Sequence[Path]) -> Iterator[Picture]:
    """Visual Genome's objects.json, with image_data.json for sizes and region_descriptions.json for phrases.

    A region is of a category of its own, its phrase: a picture has dozens, and they are no instances of one.
    """
    sizes: dict[Any, tuple[float, float]] = {}
    things: dict[Any, list[Thing]] = {}
    for path in paths:
        for one in _list(path):
            key = one.get("image_id", one.get("id"))
            if "width" in one and "height" in one:
                sizes[key] = (float(one["width"]), float(one["height"]))
            for thing in one.get("objects", ()):
                found = Thing(category=str((thing.get("names") or [""])[0]).lower(), box=_genome_box(thing))
                things.setdefault(key, []).append(found)
            for region in one.get("regions", ()):
                phrase = str(region["phrase"])
                box = (region["x"], region["y"], region["width"], region["height"])
                category = phrase.strip().rstrip(".").lower()
                found = Thing(category=category, box=_box(box), phrases=(phrase,))
                things.setdefault(key, []).append(found)
    for key, those in things.items():
        frame = Frame("pixel", "xywh", sizes.get(key))
        yield Picture(name=f"{key}.jpg", image=Path(f"{key}.jpg"), frame=frame, things=tuple(those))


def _genome_box(one: Json) -> Box:
    return _box((one["x"], one["y"], one["w"], one["h"]))


def read_grit(specs: Sequence[str]) -> Iterator[Picture]:
    """GRIT as img2dataset writes it: shards whose JSON holds a caption, noun chunks and referring expressions.

    Each is `[start, end, x1, y1, x2, y2, score]`: a span of the caption and a box in 0-1.
    """
    for shard in open_source(specs).shards:
        problems: list[Reject] = []
        for sample in read_shard(shard, on_reject=problems.append):
            caption = str(sample.meta.get("caption") or sample.text or "")
            size = _size(sample.meta) if "original_width" not in sample.meta else None
            problem = None if len(sample.images) == 1 else ("not-one-image", f"{len(sample.images)} images")
            things = tuple(
                _grit_thing(caption, one)
                for key in ("noun_chunks", "ref_exps")
                for one in sample.meta.get(key) or ()
            )
            yield Picture(
                name=f"{shard.name}/{sample.key}",
                image=sample.images[0] if sample.images else Path(),
                frame=Frame("unit", "xyxy", size),
                things=things,
                captions=(caption,) if caption else (),
                problem=problem,
            )
        for one in problems:
            yield Picture(
                name=f"{shard.name}/{one.key}",
                image=Path(),
                frame=Frame("unit", "xyxy"),
                problem=(one.reason, one.error),
            )


def _grit_thing(caption: str, one: Sequence[float]) -> Thing:
    if not isinstance(one, list) or len(one) < 6:
        raise ValueError(f"a GRIT phrase is [start, end, x1, y1, x2, y2, score], not {one!r}")
    start, end = int(one[0]), int(one[1])
    words = caption[start:end].split()
    # The last word of a noun phrase names what it is of.
    category = words[-1].strip(".,;:!?").lower() if words else ""
    return Thing(category=category, box=_box(one[2:6]), span=(start, end))


NLVR_PANEL, NLVR_STEP = 100, 150
"""Side of one of the three panels of an NLVR picture, and how far apart their left edges are, in pixels."""
NLVR_COLOURS = {"#0099ff": "blue"}


def read_nlvr(paths: Sequence[Path]) -> Iterator[Picture]:
    """NLVR's structured scenes, `{"structured_rep": [[{x_loc, y_loc, size, type, color}]], "images": [...]}`.

    The first picture of a statement has the panels in the order of the scene; those of the others are
    shuffled and nothing says how, so they are not used.
    """
    frame = Frame("pixel", "xywh", (2 * NLVR_STEP + NLVR_PANEL, NLVR_PANEL))
    for path in paths:
        for one in _lines(path):
            things = tuple(
                _nlvr_thing(panel, shape)
                for panel, shapes in enumerate(one["structured_rep"])
                for shape in shapes
            )
            for number, name in enumerate(one["images"]):
                problem = ("shuffled-panels", "the order of its panels is not stated") if number else None
                yield Picture(name=name, image=Path(name), frame=frame, things=things, problem=problem)


def _nlvr_thing(panel: int, shape: Json) -> Thing:
    colour, size = NLVR_COLOURS.get(shape["color"], shape["color"]), shape["size"]
    box = _box((NLVR_STEP * panel + shape["x_loc"], shape["y_loc"], size, size))
    return Thing(category=f"{colour} {shape['type']}".lower(), box=box)


def read_lines(paths: Sequence[Path]) -> Iterator[Picture]:
    """JSON lines of other data: `{"image", "frame": "pixel-xyxy", "width", "height", "caption", "objects"}`.

    An object is `{"category", "box"}` with, where known, `phrases`, `span`, `depth`, `centre` (both in
    metres) and `text`; `frame` is as `boxes.Frame.parse` reads it.
    """
    for path in paths:
        for number, one in enumerate(_lines(path), 1):
            try:
                frame = Frame.parse(str(one["frame"]), _size(one))
                things = tuple(_line_thing(thing) for thing in one.get("objects", ()))
                caption, name = one.get("caption"), str(one["image"])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}, line {number}: {type(error).__name__} {error}") from None
            captions = (str(caption),) if caption else ()
            yield Picture(name=name, image=Path(name), frame=frame, things=things, captions=captions)


def _line_thing(one: Json) -> Thing:
    centre, span = one.get("centre"), one.get("span")
    depth = _depth(centre[2]) if centre and all(map(math.isfinite, centre)) else None
    return Thing(
        category=str(one.get("category", "text" if "text" in one else "")),
        box=_box(one["box"]),
        phrases=tuple(map(str, one.get("phrases", ()))),
        span=(int(span[0]), int(span[1])) if span else None,
        depth=_depth(one.get("depth")),
        centre=(float(centre[0]), float(centre[1]), depth) if centre and depth is not None else None,
        text=str(one["text"]) if one.get("text") is not None else None,
        is_crowd=bool(one.get("is_crowd")),
    )


def _depth(value: Any) -> float | None:
    """Metres; None for what sensors write where they saw nothing: zero, less, NaN or infinity."""
    metres = math.nan if value is None else float(value)
    return metres if math.isfinite(metres) and metres > 0 else None


def _box(values: Sequence[Any]) -> Box:
    if len(values) != 4:
        raise ValueError(f"a box has four numbers, not {list(values)!r}")
    a, b, c, d = (float(value) for value in values)
    return a, b, c, d


def _size(one: Json) -> tuple[float, float] | None:
    if not one.get("width") or not one.get("height"):
        return None
    return float(one["width"]), float(one["height"])


def _document(path: Path, *keys: str) -> dict[str, Any]:
    document = parse_json(_bytes(path), str(path))
    if missing := [key for key in keys if not isinstance(document.get(key), list)]:
        raise DataError(f"{path} has no list {missing[0]!r}; is it of another --format?")
    return document


def _list(path: Path) -> list[Json]:
    try:
        value = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(f"{path} should hold a JSON list of objects; is it of another --format?")
    return value


def _lines(path: Path) -> Iterator[Json]:
    for number, line in enumerate(_bytes(path).splitlines(), 1):
        if line.strip():
            yield parse_json(line, f"{path}, line {number}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
