"""Benchmarks of captions and boxes: COCO and Flickr30k captions, CHAIR, RefCOCO."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.reading import (
    Question,
    Table,
    need,
    need_rows,
    one_file,
    read_object,
    read_rows,
    read_values,
    stem_name,
)
from vila2cli.score.box_frames import AUTO

_CAPTION = "Provide a one-sentence caption for the provided image."
_DESCRIBE = "Describe this image in detail."
_BOX = "Please provide the bounding box coordinate of the region this sentence describes: {question}"


def read_captions(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """COCO's captions_*.json, Karpathy's dataset_*.json, or a list of image_id and caption."""
    path = one_file(paths, "a file of captions")
    questions = (
        Question(id=image, question=_CAPTION, answers=tuple(texts), images=(file,), meta={"image_id": image})
        for image, file, texts in _captions(path, split)
    )
    yield _caption_table(stem_name(paths, "captions"), "cider", split, questions)


def read_chair(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """CHAIR: COCO's captions_*.json and instances_*.json of the same images."""
    tables = [(path, read_object(path)) for path in paths]
    labels = next(((path, table) for path, table in tables if "categories" in table), None)
    texts = next((path for path, table in tables if "categories" not in table), None)
    if labels is None or texts is None:
        raise DataError("give COCO's captions_*.json and instances_*.json")
    instances_in, instances = labels
    classes = {
        str(need(row, "id", instances_in)): str(need(row, "name", instances_in))
        for row in need_rows(instances, "categories", instances_in)
    }
    objects: dict[str, set[str]] = defaultdict(set)
    for row in need_rows(instances, "annotations", instances_in):
        category = str(need(row, "category_id", instances_in))
        objects[str(need(row, "image_id", instances_in))].add(need(classes, category, instances_in))
    questions = (
        Question(
            id=image,
            question=_DESCRIBE,
            answers=tuple(captions),
            images=(file,),
            meta={"image_id": image, "objects": sorted(objects[image])},
        )
        for image, file, captions in _captions(texts, split)
    )
    yield _caption_table("chair", "chair", split, questions)


def _captions(path: Path, split: str) -> Iterator[tuple[str, str, list[str]]]:
    """Image id, file name and captions of every image that has captions."""
    values = read_values(path)
    table = values[0] if len(values) == 1 else values
    captions: dict[str, list[str]] = defaultdict(list)
    files: dict[str, str] = {}
    if isinstance(table, dict) and "annotations" in table:
        files = {
            str(need(row, "id", path)): str(need(row, "file_name", path))
            for row in (need_rows(table, "images", path) if "images" in table else ())
        }
        table = need_rows(table, "annotations", path)
    elif isinstance(table, dict):  # Karpathy's splits
        rows = [row for row in need_rows(table, "images", path) if row.get("split") == (split or "test")]
        for row in rows:
            image = str(row["cocoid"] if "cocoid" in row else need(row, "imgid", path))
            files[image] = str(need(row, "filename", path))
            captions[image] = [str(need(one, "raw", path)) for one in need_rows(row, "sentences", path)]
        table = []
    if not isinstance(table, list):
        raise DataError(f"{path} should hold a list of captions, not {str(table)[:80]!r}")
    for row in table:
        captions[str(need(row, "image_id", path))].append(str(need(row, "caption", path)))
    if not captions:
        raise DataError(f"{path} holds no captions")
    for image, texts in captions.items():
        yield image, files.get(image, image), texts


def _caption_table(name: str, scorer: str, split: str, questions: Iterator[Question]) -> Table:
    return Table(name=name, answer_type="caption", scorer=scorer, split=split, questions=questions)


def read_refcoco(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """RefCOCO: MDETR's finetune_*.json, or JSON lines with image, expression, bbox, width and height.

    MDETR's boxes are left, top, width and height; those of the lines are left, top, right and bottom.
    """
    path = one_file(paths, "one file of expressions")
    values = read_values(path)
    if len(values) == 1 and isinstance(values[0], dict) and "annotations" in values[0]:
        rows = _mdetr(values[0], path)
    else:
        rows = (_line(row, number, path) for number, row in enumerate(read_rows(path)))
    yield Table(
        name=stem_name(paths, "refcoco"),
        answer_type="box",
        scorer="refcoco",
        split=split,
        prompt=_BOX,
        questions=rows,
        box_frame=AUTO,
    )


def _mdetr(table: Mapping[str, Any], path: Path) -> Iterator[Question]:
    images = {str(need(row, "id", path)): row for row in need_rows(table, "images", path)}
    for row in need_rows(table, "annotations", path):
        image = need(images, str(need(row, "image_id", path)), path)
        x, y, width, height = _edges(row, path)
        yield _region(
            str(need(row, "id", path)),
            str(need(image, "caption", path)),
            image,
            (x, y, x + width, y + height),
            path,
        )


def _line(row: Mapping[str, Any], number: int, path: Path) -> Question:
    expression = row.get("expression", row.get("sent"))
    if not isinstance(expression, str):
        raise DataError(f"{path}: row {number + 1} has no 'expression'")
    return _region(str(row.get("question_id", number)), expression, row, _edges(row, path), path)


def _edges(row: Mapping[str, Any], path: Path) -> tuple[float, float, float, float]:
    """The four numbers of a box; raises DataError where there are others."""
    box = need(row, "bbox", path)
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(edge, int | float) for edge in box):
        raise DataError(f"{path}: 'bbox' should be four numbers, not {str(box)[:80]}")
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2


def _region(
    name: str,
    expression: str,
    image: Mapping[str, Any],
    box: tuple[float, float, float, float],
    path: Path,
) -> Question:
    file = next((image[key] for key in ("file_name", "img_path", "image") if key in image), None)
    if not isinstance(file, str):
        raise DataError(f"{path}: {expression!r} has no image")
    meta = {
        "box": f"[{','.join(f'{edge:g}' for edge in box)}]",
        "width": need(image, "width", path),
        "height": need(image, "height", path),
    }
    return Question(id=name, question=expression, answers=(), images=(file,), meta=meta)
