"""What changes from round to round, counted by hand on two images."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from vila2cli.report.all_captions import ImageCaptions, caption_list, read_all_captions
from vila2cli.report.caption_layers import caption_layers
from vila2cli.report.drift import COLUMNS, FACT_COLUMNS, drift_table
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.run_folder import read_run

RED = {"size": "large", "colour": "red", "shape": "star", "place": "top left"}
BLUE = {"size": "small", "colour": "blue", "shape": "circle", "place": "bottom right"}
SCENE = {"objects": [RED, BLUE]}
RIGHT = "A large red star at the top left."
WRONG = "A small blue star at the top left."
OTHER = "A large blue circle at the top left."


def row(images: list[ImageCaptions], number: int) -> dict[str, str]:
    table = drift_table(images, [1, 2])
    return dict(zip(table.columns, table.rows[number].cells, strict=True))


def test_errors_are_invented_left_out_handed_down_and_put_right() -> None:
    first = ImageCaptions("a", {0: WRONG, 1: WRONG, 2: RIGHT}, scene=SCENE)
    second = ImageCaptions("b", {0: RIGHT, 1: f"{RIGHT} {WRONG}", 2: f"{WRONG} {OTHER}"}, scene=SCENE)
    images = [first, second, ImageCaptions("c", {0: WRONG, 1: WRONG}, scene=SCENE)]
    facts = [tuple(row(images, number)[name] for name in FACT_COLUMNS) for number in range(3)]
    assert facts == [
        ("50.0%", "75.0%", "\N{EN DASH}", "\N{EN DASH}"),
        ("66.7%", "75.0%", "50.0%", "0.0%"),
        ("66.7%", "75.0%", "50.0%", "50.0%"),
    ]


def test_wording_is_counted_over_the_images_that_all_rounds_caption() -> None:
    images = [
        ImageCaptions("a", {0: "cat", 1: "a cat a cat", 2: "one two three four"}),
        ImageCaptions("b", {0: "dog", 1: "a cat", 2: "five six"}),
        ImageCaptions("c", {1: "never counted"}),
    ]
    table = drift_table(images, [1, 2])
    assert table.columns == COLUMNS
    cells = [row.cells for row in table.rows]
    assert cells[1] == ("3.0", "2", "33.3%", "50.0%", "100.0%")
    assert cells[2] == ("3.0", "6", "100.0%", "100.0%", "100.0%")
    assert "2 images" in table.note


def test_without_captions_of_every_round_there_is_no_table() -> None:
    assert drift_table([ImageCaptions("a", {1: "cat"})], [1, 2]).rows == ()
    assert drift_table([], []).rows == ()


def test_every_image_of_a_run_is_listed_with_what_was_rejected(make_run: Callable[..., Any]) -> None:
    run = make_run(2)
    reader = JsonReader(run.run_dir)
    images = read_all_captions(caption_layers(read_run(run.run_dir, reader)), reader)
    assert [one.key for one in images] == sorted(run.scenes)
    assert all(one.scene is not None and set(one.texts) >= {0} for one in images)
    rejected = [one for one in images if one.rejects]
    assert len(rejected) == run.num_shards
    assert rejected[0].rejects[2] == "refusal: the model wrote: I cannot see"
    found = caption_list(images, [1, 2])
    assert found is not None
    assert len(found.rows) == len(images)
    assert all(len(captions) == 3 for _, captions, _ in found.rows)


@pytest.mark.parametrize("line", [b"[]", b"{", b"\xff", b'{"key": 3}', json.dumps({"reason": "x"}).encode()])
def test_damaged_rejects_are_left_out(make_run: Callable[..., Any], line: bytes) -> None:
    run = make_run(1)
    path = run.run_dir / "round1" / "recaption" / "000000.rejects.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    reader = JsonReader(run.run_dir)
    images = read_all_captions(caption_layers(read_run(run.run_dir, reader)), reader)
    assert sum(bool(one.rejects) for one in images) == run.num_shards
