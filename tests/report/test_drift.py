"""What changes from round to round, counted by hand on two images."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from vila2cli.report.all_captions import ImageCaptions, caption_list, read_all_captions
from vila2cli.report.caption_layers import caption_layers
from vila2cli.report.drift import COUNTS, FACT_COLUMNS, drift_table
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.run_folder import read_run
from vila2cli.report.tables import Cell, Table, TableRow
from vila2cli.score.stats import cautious_share

RED = {"size": "large", "colour": "red", "shape": "star", "place": "top left"}
BLUE = {"size": "small", "colour": "blue", "shape": "circle", "place": "bottom right"}
SCENE = {"objects": [RED, BLUE]}
RIGHT = "A large red star at the top left."
WRONG = "A small blue star at the top left."
OTHER = "A large blue circle at the top left."


def row(images: list[ImageCaptions], number: int) -> dict[str, str]:
    table = drift(images)
    return dict(zip(names(table), texts(table.rows[number]), strict=True))


def drift(images: list[ImageCaptions], num_bootstrap: int = 1000, seed: int = 0) -> Table:
    return drift_table(images, [1, 2], num_bootstrap=num_bootstrap, seed=seed)


def names(table: Table) -> tuple[str, ...]:
    return tuple(name for name, _ in table.columns[1:])


def texts(row: TableRow) -> tuple[str, ...]:
    return tuple(cell.text for cell in row.cells)


def ends(cell: Cell) -> tuple[float, float]:
    low, high = map(float, cell.note.split("\N{EN DASH}"))
    return low, high


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
    table = drift(images)
    assert names(table) == COUNTS
    cells = [texts(row) for row in table.rows]
    assert cells[1] == ("2", "33.3%", "50.0%", "100.0%")
    assert cells[2] == ("6", "100.0%", "100.0%", "100.0%")
    assert "2 images" in table.note


def drifting(num: int, num_images: int | None = None) -> list[ImageCaptions]:
    """Half of the images hallucinate in round 1, half of these again in round 2."""
    found = []
    for i in range(num):
        first = WRONG if i % 2 else RIGHT
        second = WRONG if i % 4 == 1 else RIGHT
        image = f"{i % num_images}" if num_images else ""
        captions = {0: RIGHT, 1: first, 2: second}
        found.append(ImageCaptions(f"{i}", captions, scene=SCENE, image_sha256=image))
    return found


def test_means_and_shares_over_images_have_intervals() -> None:
    table = drift(drifting(400), num_bootstrap=400)
    one = dict(zip(names(table), table.rows[1].cells, strict=True))
    two = dict(zip(names(table), table.rows[2].cells, strict=True))
    assert (one["Hallucinated"].text, two["Inherited"].text, two["Put right"].text) == (
        "50.0%",
        "100.0%",
        "50.0%",
    )
    # The standard error of a share of 400 images is 2.5 points, that of one among 200 of them 3.5.
    assert ends(one["Hallucinated"]) == pytest.approx((50 - 4.9, 50 + 4.9), abs=0.8)
    assert ends(two["Put right"]) == pytest.approx((50 - 6.9, 50 + 6.9), abs=1.2)
    assert ends(one["Omitted"]) == pytest.approx((75 - 2.45, 75 + 2.45), abs=0.6)
    counts = ("Vocabulary", "Distinct 1-grams", "Distinct 2-grams", "Distinct 3-grams")
    assert not any(row.cells[names(table).index(name)].note for row in table.rows for name in counts)
    assert "vocabulary and distinct n-grams have none" in table.note
    again = drift(drifting(400), num_bootstrap=400)
    assert again == table
    assert drift(drifting(400), num_bootstrap=400, seed=1) != table


def test_captions_of_one_picture_are_drawn_together() -> None:
    """The same 400 captions of 100 pictures say less than of 400."""
    wide, narrow = (drift(drifting(400, num), num_bootstrap=400).rows[1].cells[-4] for num in (100, 400))
    assert ends(wide)[1] - ends(wide)[0] > 1.6 * (ends(narrow)[1] - ends(narrow)[0])


def test_a_share_of_few_images_has_a_cautious_interval() -> None:
    """All of six hallucinated facts were handed down: a bootstrap alone would be certain of 100%."""
    images = [ImageCaptions(f"{i}", {1: WRONG, 2: WRONG}, scene=SCENE) for i in range(6)]
    images += [ImageCaptions(f"right {i}", {1: RIGHT, 2: RIGHT}, scene=SCENE) for i in range(150)]
    table = drift(images)
    inherited = table.rows[1].cells[names(table).index("Inherited")]
    expected = cautious_share(1.0, 6)
    assert (inherited.text, ends(inherited)) == ("100.0%", (pytest.approx(100 * expected.low, abs=0.05), 100.0))
    assert ends(inherited)[0] < 60


def test_without_captions_of_every_round_there_is_no_table() -> None:
    assert drift([ImageCaptions("a", {1: "cat"})]).rows == ()
    assert drift_table([], [], num_bootstrap=10, seed=0).rows == ()


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
