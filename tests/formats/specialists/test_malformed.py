"""One bad entry of an annotation file is counted with its reason, and the rest is built."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.formats.specialists.draft import read_pictures
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.stages.build import build
from vila2cli.world.draw import encode_jpeg

Json = dict[str, Any]
HUGE = 10**400
BAD_BOXES: list[Any] = [
    [1, 2, 3],
    [1, 2, 3, float("nan")],
    [1, 2, float("inf"), 4],
    [10, 10, -5, 5],
    [10, 10, 0, 5],
    ["10", "10", "5", "5"],
    "1234",
    None,
    [1, 2, None, 4],
    {"x": 1, "y": 2, "w": 3, "h": 4},
    [1, 2, HUGE, 4],
    [True, True, True, True],
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encode_jpeg(Image.new("RGB", (100, 50), "white")))
    return folder


def coco(*more: Any, **changes: Any) -> Json:
    """A cup on the left and a table on the right, and more annotations."""
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "table"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 10, 20, 20]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [60, 10, 20, 20]},
            *more,
        ],
    } | changes


def made(
    tmp_path: Path, document: Any, specialist: str = "spatial", format: str = "coco"
) -> tuple[Json, Counter]:
    """The summary, and how many rejects there are of each reason; everything is accounted for."""
    path = tmp_path / "annotations.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    out = tmp_path / "out"
    summary = build(
        specialist, format=format, annotations=[path], images=tmp_path / "images", out=out
    ).to_json()
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert summary["in"] == summary["out"] + sum(summary["dropped"].values())
    objects = Counter(summary["objects"])
    assert objects.pop("in") == objects.total()
    assert len(rejects) == sum(summary["dropped"].values()) + sum(summary.get("malformed", {}).values())
    assert all(one["key"] and one["error"] for one in rejects)
    return summary, Counter(one["reason"] for one in rejects)


@pytest.mark.parametrize("box", BAD_BOXES, ids=range(len(BAD_BOXES)))
def test_a_bad_box_stops_nothing_and_is_named(tmp_path: Path, images: Path, box: Any) -> None:
    bad = {"id": 3, "image_id": 1, "category_id": 1, "bbox": box}
    summary, rejects = made(tmp_path, coco(bad))
    assert (summary["out"], summary["objects"]["not-a-box"]) == (1, 1)
    assert summary["malformed"] == {"object not-a-box": 1}
    assert rejects == {"not-a-box": 1}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (None, "malformed"),
        (7, "malformed"),
        ("text", "malformed"),
        ({"image_id": 1, "category_id": 1}, "not-a-box"),
        ({"image_id": 1, "bbox": [1, 1, 9, 9]}, "malformed"),
        ({"image_id": 1, "category_id": 99, "bbox": [1, 1, 9, 9]}, "unknown-category"),
        ({"image_id": 1, "category_id": [1], "bbox": [1, 1, 9, 9]}, "malformed"),
        ({"image_id": [1], "category_id": 1, "bbox": [1, 1, 9, 9]}, "malformed"),
        ({"category_id": 1, "bbox": [1, 1, 9, 9]}, "malformed"),
        ({"id": 2, "image_id": 1, "category_id": 2, "bbox": [60, 10, 20, 20]}, "duplicate-id"),
        ({"image_id": 1, "caption": None}, "malformed"),
        ({"image_id": 1, "caption": 7}, "malformed"),
    ],
)
def test_a_bad_annotation_is_counted_with_its_reason(
    tmp_path: Path, images: Path, entry: Any, reason: str
) -> None:
    summary, rejects = made(tmp_path, coco(entry))
    assert summary["out"] == 1
    assert rejects[reason] == 1
    assert sum(summary["malformed"].values()) == 1


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "malformed"),
        ({"id": 5}, "malformed"),
        ({"id": 5, "file_name": 7}, "malformed"),
        ({"id": 5, "file_name": " "}, "malformed"),
        ({"file_name": "a.jpg"}, "malformed"),
        ({"id": {}, "file_name": "a.jpg"}, "malformed"),
        ({"id": 5, "file_name": "a.jpg", "width": -1, "height": 3}, "malformed"),
        ({"id": 5, "file_name": "a.jpg", "width": "wide", "height": 3}, "malformed"),
        ({"id": 5, "file_name": "a.jpg", "width": HUGE, "height": 3}, "malformed"),
        ({"id": 1, "file_name": "a.jpg"}, "duplicate-id"),
        ({"id": 5, "file_name": "none.jpg"}, "unreadable-image"),
        ({"id": 5, "file_name": "a.jpg"}, "no-relation"),
    ],
)
def test_a_bad_image_is_counted_with_its_reason(tmp_path: Path, images: Path, image: Any, reason: str) -> None:
    summary, rejects = made(tmp_path, coco(images=[*coco()["images"], image]))
    assert (summary["in"], summary["out"], summary["dropped"]) == (2, 1, {reason: 1})
    assert rejects == {reason: 1}


def test_annotations_of_an_id_that_two_pictures_have_are_not_used(tmp_path: Path, images: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco(images=[*coco()["images"], {"id": 1, "file_name": "b.jpg"}])))
    pictures = list(read_pictures("coco", "spatial", [path]))
    assert [one.name for one in pictures] == ["a.jpg", "b.jpg"]
    assert [one.problem and one.problem[0] for one in pictures] == ["duplicate-id"] * 2


def test_captions_of_images_that_are_not_listed_are_counted(tmp_path: Path, images: Path) -> None:
    summary, rejects = made(tmp_path, coco({"image_id": 9, "caption": "Who?"}))
    assert (summary["in"], summary["out"], rejects) == (2, 1, {"unlisted-image": 1})


def test_a_line_that_is_none_stops_no_other(tmp_path: Path, images: Path) -> None:
    things = [{"category": "cup", "box": [5, 10, 25, 30]}, {"category": "table", "box": [60, 10, 80, 30]}]
    good = {"image": "a.jpg", "frame": "pixel-xyxy", "objects": things}
    bad: list[Json] = [
        {**good, "frame": "pixels"},
        {**good, "frame": None},
        {**good, "objects": 7},
        {**good, "image": None},
        {**good, "caption": ["A cup."]},
    ]
    objects: list[Any] = [
        {"category": "cup", "box": [1, 2, 3]},
        {"category": None, "box": [1, 2, 3, 4]},
        {"category": "cup", "box": [1, 2, 30, 40], "depth": "far"},
        {"category": "cup", "box": [1, 2, 30, 40], "centre": [1, 2]},
        {"category": "cup", "box": [1, 2, 30, 40], "span": [1]},
        {"category": "cup", "box": [1, 2, 30, 40], "phrases": [7]},
        {"text": 7, "box": [1, 2, 30, 40]},
        None,
    ]
    lines = [json.dumps(one) for one in [good, *bad, {**good, "objects": [*things, *objects]}]]
    summary, rejects = made(tmp_path, "\n".join([*lines, lines[0][:-9], "7"]), format="lines")
    assert (summary["out"], summary["dropped"]) == (2, {"malformed": len(bad) + 2})
    assert sum(summary["malformed"].values()) == len(objects)
    assert rejects["not-a-box"] == 1


def test_bad_words_and_questions_are_counted(tmp_path: Path, images: Path) -> None:
    word = {"image_id": "a", "bbox": [1, 2, 30, 20], "utf8_string": "STOP"}
    words: Json = {
        "a": word,
        "b": {**word, "bbox": [1]},
        "c": {**word, "utf8_string": None},
        "d": None,
        "e": {**word, "image_id": "z"},
    }
    listed = {"a": {"file_name": "a.jpg", "width": 100, "height": 50}, "b": {}, "c": 7}
    summary, rejects = made(tmp_path, {"imgs": listed, "anns": words}, "ocr", "textocr")
    assert summary["dropped"] == {"malformed": 2, "unlisted-image": 2}
    assert rejects == {"malformed": 4, "unlisted-image": 2, "not-a-box": 1}
    assert summary["out"] == 1


def test_bad_questions_are_counted(tmp_path: Path, images: Path) -> None:
    row = {"image": "a.jpg", "question": "What?", "answers": ["That"]}
    rows = [
        row,
        None,
        {**row, "question": 7},
        {**row, "answers": 7},
        {**row, "image": None},
        {**row, "image": []},
    ]
    summary, rejects = made(tmp_path, {"data": rows}, "ocr", "docvqa")
    asked = Counter(summary["people_asked"])
    assert asked.pop("in") == 6 == asked.total()
    assert (asked["asked"], asked["malformed"], rejects["malformed"]) == (1, 5, 5)


def test_bad_regions_and_objects_are_counted(tmp_path: Path, images: Path) -> None:
    (images / "1.jpg").write_bytes((images / "a.jpg").read_bytes())
    good = {"object_id": 1, "names": ["cup"], "x": 5, "y": 10, "w": 20, "h": 20}
    objects = [
        good,
        {**good, "object_id": 2, "names": ["table"], "x": 60},
        good,
        {**good, "object_id": 3, "w": None},
        {**good, "object_id": 4, "x": "5"},
        None,
    ]
    document = [
        {"image_id": 1, "objects": objects},
        {"objects": []},
        {"image_id": 2},
        7,
        {"image_id": 3, "objects": 7},
    ]
    summary, rejects = made(tmp_path, document, format="visual-genome")
    assert (summary["out"], summary["dropped"]) == (1, {"malformed": 4})
    assert rejects == {"malformed": 5, "duplicate-id": 1, "not-a-box": 2}


def test_bad_phrases_of_grit_are_counted(tmp_path: Path, images: Path) -> None:
    caption = "a dog and a ball"
    chunks: list[Any] = [
        [0, 5, 0.1, 0.1, 0.4, 0.4, 0.9],
        [0, 5, 0.1],
        None,
        [0, 99, 0, 0, 1, 1, 1],
        [5, 0, 0, 0, 1, 1, 1],
    ]
    chunks += [[10, 16, 0.5, 0.5, "x", 0.9, 1], [float("nan"), 16, 0.5, 0.5, 0.9, 0.9, 1]]
    image = (images / "a.jpg").read_bytes()
    with TarWriter(tmp_path / "000.tar") as tar:
        for key, chosen in {"a": chunks, "b": 7}.items():
            meta = json.dumps({"caption": caption, "noun_chunks": chosen}).encode()
            tar.write_sample(key, {"jpg": image, "json": meta})
    good, bad = read_pictures("grit", "grounding", [tmp_path / "000.tar"])
    assert ([one.category for one in good.things], len(good.malformed)) == (["dog"], 6)
    assert bad.problem is not None
    assert bad.problem[0] == "malformed"


def test_bad_references_are_counted(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(coco()))
    good = {"ann_id": 1, "image_id": 1, "sentences": [{"sent": "left cup"}, {"raw": "?"}, {"sent": 7}, None]}
    references = [good, None, {"image_id": 1}, {"ann_id": 1}, {**good, "ann_id": 2, "sentences": 7}]
    references.append({**good, "image_id": 2})
    (tmp_path / "refs.json").write_text(json.dumps(references))
    pictures = list(
        read_pictures("refcoco", "grounding", [tmp_path / "instances.json", tmp_path / "refs.json"])
    )
    known, *others = pictures
    assert [one.phrases for one in known.things] == [("left cup",), ()]
    assert [one.kind for one in known.malformed] == ["phrase"] * 5
    assert {one.problem[0] for one in others if one.problem} == {"unlisted-image"}
    assert [len(one.malformed) for one in others] == [2, 4]


@pytest.mark.parametrize(
    "text", ["", "{", '{"images": [], "annotations": [', "[]", '{"images": {}, "annotations": []}']
)
def test_a_file_that_cannot_be_read_at_all_is_an_error(
    tmp_path: Path, images: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text)
    assert main(command(path, images, tmp_path / "out")) == 4
    printed = capsys.readouterr()
    assert "annotations.json" in printed.err
    assert "Traceback" not in printed.err


def test_a_mended_file_is_built_in_the_same_folder(tmp_path: Path, images: Path) -> None:
    path = tmp_path / "annotations.json"
    with pytest.raises(DataError, match="there is no such file"):
        made_of(path, images, tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        made_of(path, images, tmp_path)
    path.write_text(json.dumps(coco()))
    assert made_of(path, images, tmp_path)["out"] == 1


def made_of(path: Path, images: Path, folder: Path) -> Json:
    return build("spatial", format="coco", annotations=[path], images=images, out=folder / "out").to_json()


def test_the_terminal_says_what_is_malformed(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco({"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]})))
    assert main(command(path, images, tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert "malformed: object not-a-box 1" in printed
    assert "rejects.jsonl" in printed


def test_pictures_that_models_are_compared_on_are_left_out(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [{"id": number, "file_name": "a.jpg", "width": 100, "height": 50} for number in (1, 2)]
    boxes = [{"id": number, "image_id": number, "category_id": 1, "bbox": [5, 10, 20, 20]} for number in (1, 2)]
    references = [
        {"ann_id": number, "image_id": number, "split": split, "sentences": [{"sent": "the cup"}]}
        for number, split in ((1, "train"), (2, "testB"))
    ]
    files = {"instances": coco(images=listed, annotations=boxes), "refs": references}
    words = ["shards", "build", "grounding", "--format", "refcoco", "--images", str(images)]
    for name, document in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
        words += ["--annotations", str(tmp_path / f"{name}.json")]
    for split, key in (("train", "000000000"), ("testB", "000000001")):
        out = tmp_path / split
        assert main([*words, "--split", split, "--out", str(out)]) == 0
        assert json.loads((out / "summary.json").read_text())["dropped"] == {"other-split": 1}
        (shard,) = open_source([str(out)]).shards
        assert [one.key.rpartition("-")[2] for one in read_shard(shard, on_reject=pytest.fail)] == [key]
    assert "other-split" in capsys.readouterr().out
    assert main([*words, "--split", "val", "--out", str(tmp_path / "val")]) == 4
    assert "--split train takes it" in capsys.readouterr().err


def test_one_id_for_all_annotations_loses_none(tmp_path: Path, images: Path) -> None:
    document = coco({"id": 3, "image_id": 1, "category_id": 1, "bbox": [30, 10, 20, 20]})
    for one in document["annotations"]:
        one["id"] = 0
    summary, rejects = made(tmp_path, document, "grounding")
    assert (summary["out"], summary["objects"]["in"], rejects) == (1, 3, {})


@pytest.mark.parametrize("bad", [{"bbox": [1, 2, 3]}, {"iscrowd": 1}])
def test_what_is_left_of_a_category_does_not_stand_alone(tmp_path: Path, images: Path, bad: Json) -> None:
    dog = {"id": 4, "image_id": 1, "category_id": 3, "bbox": [30, 10, 9, 9]}
    more = [dog, {"id": 5, "image_id": 1, "category_id": 1} | bad]
    document = coco(*more, categories=[{"id": i, "name": n} for i, n in enumerate(("", "cup", "table", "dog"))])
    summary, _ = made(tmp_path, document)
    assert summary["out"] == 1
    assert summary["objects"]["one-is-unplaced"] == 1
    tar = (tmp_path / "out" / "000000.tar").read_bytes()
    assert b"dog" in tar
    assert b"cup" not in tar, "there is another one, nobody knows where"


def test_a_thing_without_a_place_counts_among_the_instances(tmp_path: Path, images: Path) -> None:
    cups = [{"image_id": 1, "category_id": 1, "bbox": [x, 30, 5, 5]} for x in (1, 31)]
    assert made(tmp_path, coco(*cups), "grounding")[0]["out"] == 1
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match="too-many-instances"):
        made(tmp_path, coco(*cups, {"image_id": 1, "category_id": 1, "bbox": None}), "grounding")


def command(path: Path, images: Path, out: Path) -> list[str]:
    words = ["shards", "build", "spatial", "--format", "coco", "--annotations", str(path)]
    return [*words, "--images", str(images), "--out", str(out)]


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "RGBA", "P", "1"])
def test_pictures_of_every_kind_are_built(tmp_path: Path, images: Path, mode: str) -> None:
    picture = Image.new(mode, (100, 50))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    (images / "a.jpg").write_bytes(buffer.getvalue())
    assert made(tmp_path, coco())[0]["out"] == 1


def test_what_is_written_in_a_picture_is_no_placeholder(tmp_path: Path, images: Path) -> None:
    word = {"image_id": "a", "bbox": [1, 2, 30, 20], "utf8_string": "<image>"}
    listed = {"a": {"file_name": "a.jpg", "width": 100, "height": 50}}
    summary, _ = made(tmp_path, {"imgs": listed, "anns": {"a": word}}, "ocr", "textocr")
    assert summary["out"] == 1
    assert b"<image>" not in (tmp_path / "out" / "000000.tar").read_bytes()


def test_hostile_names_reach_no_line_of_their_own(tmp_path: Path, images: Path) -> None:
    names = ["<image>", "a\nb", "<script>alert(1)</script>", "[1,2,3,4]", "\ud800", "犬", "<|im_end|>"]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    things = [{"image_id": 1, "category_id": n, "bbox": [12 * n, 10, 10, 20]} for n in range(len(names))]
    summary, _ = made(tmp_path, coco(categories=categories, annotations=things))
    assert summary["objects"]["unprintable-name"] == 1
    data = (tmp_path / "out" / "000000.tar").read_bytes()
    assert b"<image>" not in data
    assert b"[1,2,3,4]" not in data
