"""Benchmarks of captions and boxes: COCO and Flickr30k captions, CHAIR, RefCOCO."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.questions import BenchmarkQuestion, by_file, one_file, one_task
from vila2cli.formats.reading import Row, read_object, read_rows, read_values
from vila2cli.score.box_frames import AUTO
from vila2cli.text.box_parsing import Box

_CAPTION = "Provide a one-sentence caption for the provided image."
_DESCRIBE = "Describe this image in detail."
_BOX = "Please provide the bounding box coordinate of the region this sentence describes: {question}"


@one_task(by_file("captions"), "caption", "cider")
def read_captions(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """COCO's captions_*.json, Karpathy's dataset_*.json, or a list of image_id and caption."""
    for image, file, texts in _captions(one_file(paths, "a file of captions"), split):
        meta = {"image_id": image}
        yield BenchmarkQuestion(id=image, question=_CAPTION, answers=tuple(texts), images=(file,), meta=meta)


@one_task("chair", "caption", "chair")
def read_chair(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """CHAIR: COCO's captions_*.json and instances_*.json of the same images."""
    tables = [(path, read_object(path)) for path in paths]
    instances = next((table for _, table in tables if "categories" in table), None)
    caption_file = next((path for path, table in tables if "categories" not in table), None)
    if instances is None or caption_file is None:
        raise DataError("give COCO's captions_*.json and instances_*.json")
    names = {row.string("id"): row.string("name") for row in instances.need_rows("categories")}
    objects: dict[str, set[str]] = defaultdict(set)
    for row in instances.need_rows("annotations"):
        if (category := row.string("category_id")) not in names:
            raise row.error(f"no category has the id {category!r}")
        objects[row.string("image_id")].add(names[category])
    for image, file, texts in _captions(caption_file, split):
        meta = {"image_id": image, "objects": sorted(objects[image])}
        yield BenchmarkQuestion(id=image, question=_DESCRIBE, answers=tuple(texts), images=(file,), meta=meta)


def _captions(path: Path, split: str) -> Iterator[tuple[str, str, list[str]]]:
    values = read_values(path)
    table = Row(values[0] if len(values) == 1 else values, str(path))
    captions: dict[str, list[str]] = defaultdict(list)
    files: dict[str, str] = {}
    rows: Iterable[Row] = ()
    if not isinstance(table.value, dict):
        rows = table.elements()
    elif "annotations" in table:
        images = table.need_rows("images") if "images" in table else ()
        files = {row.string("id"): row.string("file_name") for row in images}
        rows = table.need_rows("annotations")
    else:
        for row in table.need_rows("images"):  # Karpathy's splits
            if row.get("split") == (split or "test"):
                image = str(row.get("cocoid")) if "cocoid" in row else row.string("imgid")
                files[image] = row.string("filename")
                captions[image] = [sentence.string("raw") for sentence in row.need_rows("sentences")]
    for row in rows:
        captions[row.string("image_id")].append(row.string("caption"))
    if not captions:
        raise DataError(f"{path} holds no captions")
    for image, texts in captions.items():
        yield image, files.get(image, image), texts


@one_task(by_file("refcoco"), "box", "refcoco", _BOX, box_frame=AUTO)
def read_refcoco(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """RefCOCO: MDETR's finetune_*.json, or JSON lines with image, expression, bbox, width and height.

    MDETR's boxes are left, top, width and height; those of the lines are left, top, right and bottom.
    """
    path = one_file(paths, "one file of expressions")
    values = read_values(path)
    if len(values) == 1 and isinstance(values[0], dict) and "annotations" in values[0]:
        yield from _mdetr(Row(values[0], str(path)))
        return
    for number, row in enumerate(read_rows(path)):
        expression = row.get("expression", row.get("sent"))
        if not isinstance(expression, str):
            raise row.error("has no 'expression'")
        yield _region(str(row.get("question_id", number)), expression, row, row.box(row.need("bbox"), "bbox"))


def _mdetr(table: Row) -> Iterator[BenchmarkQuestion]:
    images = {row.string("id"): row for row in table.need_rows("images")}
    for row in table.need_rows("annotations"):
        if (image := images.get(row.string("image_id"))) is None:
            raise row.error(f"no image has the id {row.string('image_id')!r}")
        x, y, width, height = row.box(row.need("bbox"), "bbox")
        yield _region(row.string("id"), image.string("caption"), image, (x, y, x + width, y + height))


def _region(name: str, expression: str, image: Row, box: Box) -> BenchmarkQuestion:
    file = next((image.get(key) for key in ("file_name", "img_path", "image") if key in image), None)
    if not isinstance(file, str):
        raise image.error(f"has no image for {expression!r}")
    meta = {
        "box": f"[{','.join(f'{edge:g}' for edge in box)}]",
        "width": image.need("width"),
        "height": image.need("height"),
    }
    return BenchmarkQuestion(id=name, question=expression, answers=(), images=(file,), meta=meta)
