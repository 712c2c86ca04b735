"""The fine print: wide and tall pages whose words have the size that the tower knows in tiles alone."""

import hashlib
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from vila2cli.cli.app import main
from vila2cli.errors import RecipeError
from vila2cli.image import decode_image
from vila2cli.model.tiles import catty_grid, catty_size
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Reject, Sample
from vila2cli.world.draw import draw_picture
from vila2cli.world.fine_print import LEAST, MOST, QUESTIONS, draw_page, page_size, write_fine_print
from vila2cli.world.scenes import SIDE
from vila2cli.world.write import write_world

SIZES = [
    *(f"world.num_{name}=6" for name in ("interleaved", "text", "specialist", "dev", "eval")),
    "world.num_pretrain=20",
    "world.num_sft=20",
    "world.samples_per_shard=4",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fine-print")
    write_fine_print(load_recipe(None, SIZES), out)
    return out


def read(folder: Path) -> list[Sample]:
    rejects: list[Reject] = []
    shards = open_source([str(folder)]).shards
    samples = [sample for shard in shards for sample in read_shard(shard, on_reject=rejects.append)]
    assert not rejects
    return samples


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(tar.relative_to(folder)): hashlib.sha256(tar.read_bytes()).hexdigest()
        for tar in folder.rglob("*.tar")
    }


def test_the_command_writes_what_the_function_does(pages: Path, tmp_path: Path) -> None:
    words = ["world", "fine-print", "--out", str(tmp_path / "out"), *(f"--set={text}" for text in SIZES)]
    assert main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert hashes(tmp_path / "out") == hashes(pages)


def test_pages_are_wide_and_tall() -> None:
    random = Random(0)
    shapes = Counter[bool]()
    for _ in range(200):
        page = draw_page(random, "pretrain")
        width, height = page_size(page, random)
        assert LEAST <= min(width, height) <= max(width, height) <= MOST
        assert width * page.size[1] == height * page.size[0]  # not stretched
        shapes[width > height] += width != height
        assert [thing.size for thing in page.objects] == ["small"]
        boxes = [thing.box for thing in page.objects] + ([page.writing.box] if page.writing else [])
        assert all(0 <= x1 < x2 <= page.size[0] and 0 <= y1 < y2 <= page.size[1] for x1, y1, x2, y2 in boxes)
    assert min(shapes.values()) > 50


def test_boxes_hold_all_that_is_drawn() -> None:
    random = Random(1)
    for _ in range(20):
        page = draw_page(random, "eval", with_word=False)
        size = page_size(page, random)
        pixels = np.asarray(draw_picture(page, random, size).convert("L"), dtype=float)
        outside = np.ones_like(pixels, dtype=bool)
        zoom = size[0] / page.size[0]
        for thing in page.objects:
            x1, y1, x2, y2 = (round(value * zoom) for value in thing.box)
            assert pixels[y1:y2, x1:x2].min() < np.median(pixels) - 10
            outside[max(0, y1 - 2) : y2 + 3, max(0, x1 - 2) : x2 + 3] = False
        assert np.ptp(pixels[outside]) < 30


def test_a_word_is_as_large_as_the_tower_knows_it_in_tiles_alone() -> None:
    random = Random(2)
    for _ in range(100):
        page = draw_page(random, "dev")
        size = page_size(page, random)
        tiled = catty_size(size, catty_grid(size, SIDE, 8), SIDE)
        assert tiled == pytest.approx(page.size, abs=1)
        assert (
            page.size[0] * page.size[1] >= 2 * SIDE * SIDE
        )  # in one square it has half of the pixels, or less


def test_another_seed_gives_other_pages(pages: Path, tmp_path: Path) -> None:
    # A setting of the world's other pictures does not decide these.
    write_fine_print(load_recipe(None, [*SIZES, "world.num_text=1"]), pages)
    write_fine_print(load_recipe(None, [*SIZES, "world.seed=1"]), tmp_path / "other")
    assert not set(hashes(pages).values()) & set(hashes(tmp_path / "other").values())


def test_a_folder_of_something_else_is_not_mixed_in(pages: Path) -> None:
    with pytest.raises(RecipeError, match=r"settings\.seed was 0, now 7"):
        write_fine_print(load_recipe(None, [*SIZES, "world.seed=7"]), pages)
    with pytest.raises(RecipeError, match="fine-print"):
        write_world(load_recipe(None, SIZES), pages)


def test_what_is_asked_is_answered_by_the_page(pages: Path) -> None:
    pictures = {task: [sample.image_sha256 for sample in read(pages / "eval" / task)] for task in QUESTIONS}
    assert len({tuple(found) for found in pictures.values()}) == 1
    for sample in read(pages / "eval" / "ocr"):
        assert sample.meta["answers"] == [sample.meta["scene"]["text"]["word"]]
    for task in ("colour", "shape"):
        for sample in read(pages / "eval" / task):
            (thing,) = sample.meta["scene"]["objects"]
            assert (sample.meta["question"], sample.meta["answers"]) == (
                f"What {task} is the object?",
                [thing[task]],
            )
    for sample in read(pages / "eval" / "existence"):
        (thing,) = sample.meta["scene"]["objects"]
        is_named = f" {thing['colour']} {thing['shape']} " in sample.meta["question"]
        assert sample.meta["answers"] == ["yes" if is_named else "no"]


def test_training_data_says_what_is_there(pages: Path) -> None:
    kinds = Counter[bool]()
    for sample in read(pages / "pretrain"):
        scene, is_clipping = sample.meta["scene"], bool(sample.turns)
        kinds[is_clipping] += 1
        assert (decode_image(sample.images[0].data).size == (SIDE, SIDE)) == is_clipping
        if not is_clipping:
            assert f'"{scene["text"]["word"]}"' in sample.text
            assert all(f"{thing['colour']} {thing['shape']}" in sample.text for thing in scene["objects"])
    assert set(kinds) == {True, False}
    asked = Counter[str]()
    for sample in read(pages / "sft"):
        (thing,), word = sample.meta["scene"]["objects"], sample.meta["scene"]["text"]["word"]
        answers = {
            turn.text: answer.text for turn, answer in zip(sample.turns[::2], sample.turns[1::2], strict=True)
        }
        asked.update(answers.keys())
        for question, answer in answers.items():
            name = f"{thing['colour']} {thing['shape']}"
            if "written" in question:
                assert answer == word
            elif "colour" in question or "shape is" in question:
                assert answer == thing["colour" if "colour" in question else "shape"]
            elif question.startswith("Is there"):
                assert answer == ("yes" if f" {name} " in question else "no")
            else:
                assert name in answer
                assert f'"{word}"' in answer
        assert len({question.startswith("Is there") for question in answers if "written" not in question}) == 1
    assert len(asked) > 4
    for sample in read(pages / "specialist-ocr"):
        text = sample.meta["scene"]["text"]
        assert (text["word"] if text else "nothing") in [turn.text for turn in sample.turns]
