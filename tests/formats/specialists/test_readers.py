"""Each public format, hand-made and small, to the same pictures; files of another format are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.errors import DataError, RecipeError
from vila2cli.formats.specialists import grounding
from vila2cli.formats.specialists.draft import read_pictures
from vila2cli.formats.specialists.pictures import BuildSettings, Picture
from vila2cli.formats.specialists.rules import settle
from vila2cli.shards import TarWriter
from vila2cli.world.draw import encode_jpeg

COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "7.jpg", "width": 640, "height": 480}],
    "categories": [{"id": 1, "name": "Dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": [[1]]},
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": {}},
    ],
}


def read(tmp_path: Path, format: str, specialist: str, *documents: Any) -> list[Picture]:
    paths = []
    for number, document in enumerate(documents):
        path = tmp_path / f"{number}.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        paths.append(path)
    return list(read_pictures(format, specialist, paths))


def test_coco_with_captions_of_another_file(tmp_path: Path) -> None:
    captions = {"images": COCO["images"], "annotations": [{"id": 1, "image_id": 7, "caption": "A dog."}]}
    (picture,) = read(tmp_path, "coco", "spatial", COCO, captions)
    assert picture.captions == ("A dog.",)
    assert picture.frame.size == (640, 480)
    assert [thing.category for thing in picture.things] == ["dog"] * 3
    assert picture.things[0].box == (10, 20, 30, 40)
    assert [thing.is_crowd for thing in picture.things] == [False, False, True]


def test_refcoco_keeps_the_phrases_of_each_object(tmp_path: Path) -> None:
    references = [{"ann_id": 1, "image_id": 7, "sentences": [{"sent": "left dog"}, {"sent": "brown one"}]}]
    (picture,) = read(tmp_path, "refcoco", "grounding", COCO, references)
    assert picture.things[0].phrases == ("left dog", "brown one")
    assert picture.things[1].phrases == ()


def test_refcoco_tells_which_pictures_are_for_training(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in range(4)]
    box = {"category_id": 1, "bbox": [1, 2, 30, 20]}
    annotations = [{"id": number, "image_id": number} | box for number in range(4)]
    splits = [(0, "train"), (1, "testA"), (1, "train"), (2, "train"), (2, "val"), (3, None)]
    nameless = {"image_id": 0, "ann_id": None, "split": "testB", "sentences": []}
    references = [
        {"ann_id": image, "image_id": image, "sentences": [{"sent": "dog"}]}
        | ({"split": split} if split else {})
        for image, split in splits
    ]
    document = COCO | {"images": images, "annotations": annotations}
    pictures = read(tmp_path, "refcoco", "grounding", document, references)
    assert [one.split for one in pictures] == ["train", "testA", "val", ""]
    (first, *_) = read(tmp_path, "refcoco", "grounding", document, [*references, nameless])
    assert first.split == "testB"


def test_a_crowd_needs_no_outline_to_be_one(tmp_path: Path) -> None:
    crowd = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    outlines: list[dict[str, Any]] = [{}, {"segmentation": None}, {"segmentation": []}]
    outlines.append({"segmentation": [[1, 2]]})
    annotations = [crowd | outline for outline in outlines]
    (picture,) = read(tmp_path, "coco", "spatial", COCO | {"annotations": annotations})
    assert [thing.is_crowd for thing in picture.things] == [True, True, True, False]


def test_annotations_of_images_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    lost = {"id": 4, "image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9]}
    known, unknown = read(tmp_path, "coco", "spatial", COCO | {"annotations": [*COCO["annotations"], lost]})
    assert (len(known.things), len(unknown.things)) == (3, 1)
    assert unknown.problem == ("unlisted-image", "no image has the id 8")
    words = {"w": {"image_id": "x", "bbox": [0, 0, 9, 9], "utf8_string": "STOP"}}
    (unknown,) = read(tmp_path, "textocr", "ocr", {"imgs": {}, "anns": words})
    assert unknown.problem == ("unlisted-image", "no image has the id 'x'")


def test_references_to_what_is_not_there_are_counted(tmp_path: Path) -> None:
    references = [
        {"ann_id": 1, "image_id": 7, "sentences": [{"sent": "left dog"}]},
        {"ann_id": 99, "image_id": 7, "sentences": [{"sent": "no such dog"}]},
        {"ann_id": 5, "image_id": 6, "sentences": [{"sent": "dog elsewhere"}]},
    ]
    pictures = {one.name: one for one in read(tmp_path, "refcoco", "grounding", COCO, references)}
    kept, dropped = settle(pictures["7.jpg"], (640, 480), 1, BuildSettings(), for_grounding=True)
    assert (kept, [one.reason for one in dropped]) == ([], ["crowd"] * 3)
    (malformed,) = pictures["7.jpg"].malformed
    assert (malformed.kind, malformed.reason) == ("object", "unknown-annotation")
    assert pictures["image 6"].problem == ("unlisted-image", "no image has the id 6")


def test_regions_of_visual_genome_are_no_instances_of_one_category(tmp_path: Path) -> None:
    region = {"width": 30, "height": 40, "x": 1, "y": 2}
    regions = [{"id": 3, "regions": [region | {"phrase": f"Tree number {n}."} for n in range(5)]}]
    (picture,) = read(tmp_path, "visual-genome", "grounding", regions)
    things, _ = settle(picture, (640, 480), 1, BuildSettings(), for_grounding=True)
    talk = grounding.converse(picture, things, BuildSettings())
    assert talk.problem is None
    assert "tree number 4 [" in talk.turns[1].text


@pytest.mark.parametrize("depth", [0, -1, float("nan"), float("inf"), None])
def test_a_depth_that_no_sensor_measured_is_none(tmp_path: Path, depth: float | None) -> None:
    objects = [
        {"category": "cup", "box": [0, 0, 9, 9], "depth": depth},
        {"category": "jug", "box": [0, 0, 9, 9], "centre": [0, 0, depth] if depth is not None else None},
    ]
    line = json.dumps({"image": "a.jpg", "frame": "999-xyxy", "objects": objects})
    (picture,) = read(tmp_path, "lines", "spatial", line)
    assert [thing.distance for thing in picture.things] == [None, None]


@pytest.mark.parametrize(
    ("answers", "taken"),
    [("whole text", "whole text"), ([None, " ", "42"], "42"), ([], ""), (None, ""), ([7], "7")],
)
def test_the_answer_of_a_document_is_the_first_that_says_something(
    tmp_path: Path, answers: Any, taken: str
) -> None:
    row = {"image": "a.png", "question": "How much?", "answers": answers}
    (picture,) = read(tmp_path, "docvqa", "ocr", {"data": [row]})
    assert picture.questions == (("How much?", taken),)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    paths = [tmp_path / "instances.json", tmp_path / "refs(unc).p"]
    with pytest.raises(DataError, match="is a pickle"):
        list(read_pictures("refcoco", "grounding", paths))


def test_visual_genome_objects_sizes_and_regions(tmp_path: Path) -> None:
    objects = [{"image_id": 3, "objects": [{"x": 1, "y": 2, "w": 3, "h": 4, "names": ["Tree", "plant"]}]}]
    sizes = [{"image_id": 3, "width": 800, "height": 600}]
    regions = [
        {"id": 3, "regions": [{"phrase": "a tall tree", "x": 1, "y": 2, "width": 3, "height": 4}]},
    ]
    (picture,) = read(tmp_path, "visual-genome", "grounding", objects, sizes, regions)
    assert picture.frame.size == (800, 600)
    assert [(one.category, one.phrases) for one in picture.things] == [
        ("tree", ()),
        ("a tall tree", ("a tall tree",)),
    ]


def test_grit_shards_with_phrases_in_the_caption(tmp_path: Path) -> None:
    caption = "A brown dog chases a ball"
    meta = {
        "caption": caption,
        "noun_chunks": [[0.0, 11.0, 0.1, 0.2, 0.5, 0.6, 0.9]],
        "width": 64,
        "height": 64,
    }
    jpeg = encode_jpeg(Image.new("RGB", (64, 64)))
    with TarWriter(tmp_path / "000.tar") as tar:
        tar.write_sample("a", {"jpg": jpeg, "json": json.dumps(meta).encode()})
        tar.write_sample("b", {"json": json.dumps(meta).encode()})
    first, second = read_pictures("grit", "grounding", [tmp_path / "000.tar"])
    (thing,) = first.things
    assert (thing.category, thing.span, thing.box) == ("dog", (0, 11), (0.1, 0.2, 0.5, 0.6))
    assert first.captions == (caption,)
    assert second.problem is not None


def grit(tmp_path: Path, **meta: Any) -> Picture:
    with TarWriter(tmp_path / "000.tar") as tar:
        jpeg = encode_jpeg(Image.new("RGB", (64, 64)))
        tar.write_sample("000000010", {"jpg": jpeg, "json": json.dumps(meta).encode()})
    (picture,) = read_pictures("grit", "grounding", [tmp_path / "000.tar"])
    return picture


def test_a_referring_expression_is_of_the_noun_chunk_it_is_built_on(tmp_path: Path) -> None:
    """The last word of the whole expression is of another thing."""
    dog, field = [0, 5, 0.1, 0.2, 0.5, 0.6, 0.9], [9, 16, 0.0, 0.5, 0.9, 0.9, 0.9]
    expression = [0, 16, 0.1, 0.2, 0.5, 0.6, 0.9]
    picture = grit(tmp_path, caption="A dog in a field", noun_chunks=[dog, field], ref_exps=[expression])
    assert [(one.category, one.is_again) for one in picture.things] == [
        ("dog", False),
        ("field", False),
        ("dog", True),
    ]
    kept, _ = settle(picture, (64, 64), 1, BuildSettings(), for_grounding=True)
    text = grounding.converse(picture, kept, BuildSettings()).turns[1].text
    assert text == "A dog in a field [100,200,500,599]"


def test_boxes_are_of_the_picture_before_it_was_padded(tmp_path: Path) -> None:
    chunk = [0, 5, 0.1, 0.2, 0.5, 0.6, 0.9]
    sizes = {"width": 64, "height": 64, "original_width": 1280}
    for height, reasons in ((1280, []), (640, ["size-mismatch"])):
        picture = grit(tmp_path, caption="A dog", noun_chunks=[chunk], original_height=height, **sizes)
        _, dropped = settle(picture, (64, 64), 1, BuildSettings(), for_grounding=True)
        assert [one.reason for one in dropped] == reasons


def test_described_places_are_not_asked_for_as_things(tmp_path: Path) -> None:
    region = {"region_id": 1, "phrase": "the sky is blue", "x": 1, "y": 2, "width": 30, "height": 4}
    (picture,) = read(tmp_path, "visual-genome", "spatial", [{"id": 3, "regions": [region]}])
    kept, dropped = settle(picture, (640, 480), 1, BuildSettings(), for_grounding=False)
    assert (kept, [one.reason for one in dropped]) == ([], ["region"])


def test_nlvr_files_are_named_by_their_identifier(tmp_path: Path) -> None:
    shape = {"x_loc": 10, "y_loc": 20, "size": 30, "type": "square", "color": "Black"}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"structured_rep": [[shape], [], []], "identifier": "3430-0", "directory": "2"}))
    (picture,) = read_pictures("nlvr", "spatial", [path])
    assert picture.image == Path("dev-3430-0-0.png")


def test_nlvr_takes_the_picture_whose_panels_are_in_order(tmp_path: Path) -> None:
    shape = {"x_loc": 10, "y_loc": 20, "size": 30, "type": "square", "color": "#0099ff"}
    line = json.dumps({"structured_rep": [[], [shape], []], "images": ["a-0.png", "a-1.png"]})
    first, second = read(tmp_path, "nlvr", "spatial", line)
    assert (first.things[0].category, first.things[0].box) == ("blue square", (160, 20, 30, 30))
    assert first.frame.size == (400, 100)
    assert second.problem is not None
    assert second.problem[0] == "shuffled-panels"


def test_lines_carry_depth_text_and_a_frame_of_their_own(tmp_path: Path) -> None:
    thing = {"category": "chair", "box": [0, 0, 0.5, 0.5], "centre": [0, 0, 2.5]}
    word = {"text": "EXIT", "box": [0, 0, 1, 1]}
    line = {"image": "a.jpg", "frame": "unit-xyxy", "objects": [thing, word], "caption": "A chair."}
    (picture,) = read(tmp_path, "lines", "ocr", json.dumps(line))
    assert (picture.frame.unit, picture.frame.form) == ("unit", "xyxy")
    assert picture.things[0].distance == 2.5
    assert (picture.things[1].category, picture.things[1].text) == ("text", "EXIT")


def test_textocr_and_docvqa(tmp_path: Path) -> None:
    image = {"id": "a", "file_name": "train/a.jpg", "width": 100, "height": 50}
    words = {"a_1": {"image_id": "a", "bbox": [1, 2, 3, 4], "utf8_string": "EXIT"}}
    (picture,) = read(tmp_path, "textocr", "ocr", {"imgs": {"a": image}, "anns": words})
    assert (picture.image, picture.things[0].text) == (Path("train/a.jpg"), "EXIT")
    rows = [{"image": "documents/b.png", "question": "Date?", "answers": ["May 5", "5 May"]}] * 2
    (picture,) = read(tmp_path, "docvqa", "ocr", {"data": rows})
    assert picture.questions == (("Date?", "May 5"),) * 2


def test_words_of_a_document_come_from_its_ocr(tmp_path: Path) -> None:
    rows = [{"image": "documents/b_1.png", "question": "Date?", "answers": ["May 5"]}]
    corners = [10, 20, 50, 22, 49, 40, 9, 38]
    line = {"text": "May 5", "boundingBox": corners, "words": [{"boundingBox": corners, "text": "May"}]}
    page = {"page": 1, "width": 1695, "height": 2025, "unit": "pixel", "lines": [line, {"words": [{}]}]}
    (tmp_path / "train.json").write_text(json.dumps({"data": rows}))
    for name in ("b_1", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"recognitionResults": [page]}))
    paths = [tmp_path / f"{name}.json" for name in ("train", "b_1", "other")]
    picture, other = read_pictures("docvqa", "ocr", paths)
    assert [(one.text, one.box) for one in picture.things] == [("May", (9, 20, 50, 40))]
    assert (picture.frame.size, len(picture.malformed)) == ((1695, 2025), 1)
    assert other.problem == ("unlisted-image", "no question is about an image 'other'")


@pytest.mark.parametrize(
    ("format", "specialist", "document"),
    [
        ("coco", "spatial", "not json"),
        ("coco", "spatial", {"images": []}),
        ("coco", "spatial", ""),
        ("coco", "spatial", [1]),
        ("visual-genome", "spatial", {"objects": []}),
        ("textocr", "ocr", {"imgs": [], "anns": {}}),
        ("docvqa", "ocr", {"rows": [{"question": "?"}]}),
        ("lines", "ocr", "\n"),
    ],
)
def test_a_file_of_another_format_is_one_clear_error(
    tmp_path: Path, format: str, specialist: str, document: Any
) -> None:
    with pytest.raises(DataError, match=r"0\.json"):
        read(tmp_path, format, specialist, document)


def test_a_format_without_the_specialist_s_data_is_refused() -> None:
    with pytest.raises(RecipeError, match="no data for the ocr specialist; these have: textocr"):
        read_pictures("coco", "ocr", [])
    with pytest.raises(RecipeError, match="known are coco"):
        read_pictures("voc", "ocr", [])
