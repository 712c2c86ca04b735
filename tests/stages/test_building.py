"""Shards built from annotations: every picture counted, boxes in one frame, pictures with boxes drawn."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.errors import DataError, RecipeError
from vila2cli.formats.specialists.pictures import BuildSettings
from vila2cli.score.box import parse_boxes
from vila2cli.shards import ShardStats, open_source, read_shard
from vila2cli.stages.build import build
from vila2cli.text.compose import Composition, conversations
from vila2cli.world.draw import encode_jpeg

RED, GREEN = (10, 20, 40, 60), (60, 20, 90, 60)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures with a red and a green patch: upright, lying on its side, and one that is not there."""
    picture = Image.new("RGB", (120, 80), "white")
    picture.paste((255, 0, 0), RED)
    picture.paste((0, 128, 0), GREEN)
    folder = tmp_path / "images" / "part"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encode_jpeg(picture))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "b.png", exif=exif)
    names = ["a.jpg", "b.png", "gone.jpg"]
    document = {
        "images": [{"id": i, "file_name": n, "width": 120, "height": 80} for i, n in enumerate(names)],
        "categories": [{"id": 1, "name": "red patch"}, {"id": 2, "name": "green patch"}],
        "annotations": [
            {"id": 3 * i + j, "image_id": i, "category_id": category, "bbox": box}
            for i in range(3)
            for j, (category, box) in enumerate([(1, xywh(RED)), (2, xywh(GREEN)), (2, [500, 500, 9, 9])])
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    return tmp_path


def xywh(box: tuple[int, int, int, int]) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def run(data: Path, specialist: str = "spatial", **more: Any) -> dict[str, Any]:
    paths = {"annotations": [data / "instances.json"], "images": data / "images", "out": data / "out"}
    return build(specialist, format="coco", **{**paths, **more}).to_json()


def test_every_picture_and_object_is_accounted_for(data: Path) -> None:
    summary = run(data)
    assert (summary["in"], summary["out"], summary["dropped"]) == (3, 2, {"unreadable-image": 1})
    objects = summary["objects"]
    assert objects.pop("in") == 9 == sum(objects.values())
    assert objects == {"named": 4, "outside": 2, "image-rejected": 3, "not-asked-about": 0}
    (reject,) = (data / "out" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["error"].startswith("gone.jpg: there is no gone.jpg below")
    lines = (data / "out" / "000000.objects.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["outside", "outside"]
    stats = ShardStats.read(data / "out" / "000000.stats.json")
    assert stats.num_in == stats.num_out + sum(stats.dropped.values())


def test_an_object_that_a_description_names_twice_counts_once(data: Path) -> None:
    objects = run(data, settings=BuildSettings(describe=True))["objects"]
    assert objects.pop("in") == 9 == sum(objects.values())
    assert objects["not-asked-about"] == 0
    (shard,) = open_source([str(data / "out")]).shards
    for sample in read_shard(shard, on_reject=pytest.fail):
        assert sorted(one["category"] for one in sample.meta["objects"]) == ["green patch", "red patch"]


def test_boxes_of_both_pictures_land_on_the_patches(data: Path) -> None:
    run(data)
    (shard,) = open_source([str(data / "out")]).shards
    samples = list(read_shard(shard, on_reject=lambda reject: pytest.fail(str(reject))))
    assert len(samples) == 2
    for sample in samples:
        assert sample.meta["box_frame"] == "xyxy-999"
        boxes = {one["category"]: one["box"] for one in sample.meta["objects"]}
        assert boxes["red patch"] == [83, 250, 333, 749]
        assert boxes["green patch"] == [500, 250, 749, 749]
        (turns,) = conversations(sample, Composition())
        asked = {tuple(box) for turn in turns for box in parse_boxes(turn.text)}
        assert asked == {tuple(map(float, box)) for box in boxes.values()}


def test_the_drawn_pictures_show_the_boxes_where_they_are(data: Path) -> None:
    run(data, draw=data / "drawn")
    drawn = sorted((data / "drawn").iterdir())
    assert len(drawn) == 2
    for path in drawn:
        picture = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        assert picture.size == (720, 480)
        first = next(iter(_edge_colours(picture)))
        assert first not in ((255, 255, 255), (255, 0, 0), (0, 128, 0))


def _edge_colours(picture: Image.Image) -> set[Any]:
    """What is on the left edge of the red patch, half way down."""
    return {picture.getpixel((round(83 * 720 / 999), 240))}


def test_the_same_inputs_give_the_same_bytes_and_shards_that_are_there_stay(data: Path) -> None:
    settings = BuildSettings(samples_per_shard=1)
    run(data, settings=settings)
    first = {path.name: path.read_bytes() for path in sorted((data / "out").glob("*.tar"))}
    assert len(first) == 3
    (data / "out" / "000001.tar").unlink()
    kept = (data / "out" / "000000.tar").stat().st_mtime_ns
    summary = run(data, settings=settings)
    assert {path.name: path.read_bytes() for path in (data / "out").glob("*.tar")} == first
    assert (data / "out" / "000000.tar").stat().st_mtime_ns == kept
    assert (summary["in"], summary["out"]) == (3, 2)


def test_other_annotations_or_settings_are_refused(data: Path) -> None:
    run(data)
    with pytest.raises(RecipeError, match=r"settings\.seed was 0, now 1"):
        run(data, settings=BuildSettings(seed=1))
    path = data / "instances.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(RecipeError, match="annotations"):
        run(data)


def test_pictures_outside_of_the_folder_are_not_read(data: Path) -> None:
    (data / "secret.jpg").write_bytes((data / "images" / "part" / "a.jpg").read_bytes())
    path = data / "instances.json"
    path.write_text(path.read_text().replace('"gone.jpg"', '"../secret.jpg"'))
    assert run(data)["dropped"] == {"unreadable-image": 1}


@pytest.mark.parametrize("name", ["a\\u0000b.jpg", "a" * 300 + ".jpg", "note.txt"])
def test_names_that_no_picture_has_are_rejected_like_pictures_that_are_not_there(data: Path, name: str) -> None:
    (data / "images" / "note.txt").write_text("not a picture")
    path = data / "instances.json"
    path.write_text(path.read_text().replace('"gone.jpg"', f'"{name}"'))
    assert run(data)["dropped"] == {"unreadable-image": 1}


def test_of_two_pictures_of_one_name_none_is_taken_for_the_other(data: Path) -> None:
    (data / "images" / "other").mkdir()
    (data / "images" / "other" / "a.jpg").write_bytes((data / "images" / "part" / "a.jpg").read_bytes())
    summary = run(data)
    assert (summary["out"], summary["dropped"]) == (1, {"unreadable-image": 2})
    reject = json.loads((data / "out" / "rejects.jsonl").read_text().splitlines()[0])
    assert "are both named so" in reject["error"]


def test_names_that_could_colour_a_screen_are_not_used(data: Path) -> None:
    path = data / "instances.json"
    path.write_text(path.read_text().replace("green patch", "green\\u001b[31m patch"))
    assert run(data)["objects"]["unprintable-name"] == 6 - 2  # of the picture that is gone none is looked at
    (shard,) = open_source([str(data / "out")]).shards
    for sample in read_shard(shard, on_reject=pytest.fail):
        assert "\x1b" not in json.dumps(sample.meta, ensure_ascii=False)


def test_people_s_questions_are_accounted_for(data: Path) -> None:
    rows = [
        {"image": "a.jpg", "question": "What colour?", "answers": ["red"]},
        {"image": "a.jpg", "question": "How many?", "answers": ["two", "2"]},
        {"image": "a.jpg", "question": "Where?", "answers": []},
        {"image": "a.jpg", "question": " ", "answers": ["here"]},
        {"image": "a.jpg", "question": "Which?", "answers": ["\x1b[2J"]},
        {"image": "gone.jpg", "question": "Why?", "answers": ["so"]},
    ]
    (data / "documents.json").write_text(json.dumps({"data": rows}))
    summary = build(
        "ocr",
        format="docvqa",
        annotations=[data / "documents.json"],
        images=data / "images",
        out=data / "out",
        settings=BuildSettings(max_questions=1),
    ).to_json()
    asked = summary["people_asked"]
    assert asked.pop("in") == 6 == sum(asked.values())
    reasons = {"no-answer": 1, "no-question": 1, "unprintable-text": 1, "not-drawn": 1}
    assert asked == {"asked": 1, "image-rejected": 1, **reasons}


def test_nothing_built_is_an_error_that_says_why(data: Path) -> None:
    with pytest.raises(DataError, match="no sample came of 3 pictures: 3 unreadable-image"):
        run(data, images=data / "nowhere")
    with pytest.raises(DataError, match="needs --images"):
        run(data, images=None, out=data / "other")


def test_the_command_prints_what_was_left_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shards", "build", "grounding", "--format", "coco", "--annotations", str(data / "instances.json")]
    assert main([*words, "--images", str(data / "images"), "--out", str(data / "out")]) == 0
    printed = capsys.readouterr().out
    assert "dropped: unreadable-image 1" in printed
    assert "outside 2" in printed


@pytest.mark.parametrize("how", ["changed", "gone", "arrived"])
def test_a_picture_that_changed_under_a_finished_shard(data: Path, how: str) -> None:
    run(data)
    folder = data / "images" / "part"
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes())  # no annotation names it
    run(data)
    name = "gone.jpg" if how == "arrived" else "a.jpg"
    if how == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(encode_jpeg(Image.new("RGB", (120, 80), "blue")))
    with pytest.raises(
        DataError, match=rf"000000\.tar was built from other .*: that of {name} differs; .* remove 000000"
    ):
        run(data)
    assert not (data / "out" / ".again.partial").exists()
    (data / "out" / "000000.stats.json").unlink()
    summary = run(data)
    run(data, out=data / "fresh")
    assert (data / "out" / "000000.tar").read_bytes() == (data / "fresh" / "000000.tar").read_bytes()
    assert summary["out"] == {"changed": 2, "gone": 1, "arrived": 3}[how]


def test_touched_pictures_are_the_same(data: Path) -> None:
    summary = run(data)
    for path in (data / "images").rglob("*"):
        os.utime(path, (1, 1))
    taken = json.loads((data / "out" / "000000.stats.json").read_text())["taken"]
    before = (data / "out" / "000000.tar").stat().st_mtime_ns
    assert run(data) == summary
    assert (data / "out" / "000000.tar").stat().st_mtime_ns == before
    assert json.loads((data / "out" / "000000.stats.json").read_text())["taken"] != taken
    (data / "out" / "000000.tar").write_bytes((data / "out" / "000000.tar").read_bytes()[:512])
    with pytest.raises(DataError, match=r"000000\.tar is damaged or cut off"):
        run(data)
