"""Pictures in tiles: those of the stock processors, and those that POINTS section 3.1 describes."""

import json
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from transformers import AutoProcessor

from vila2cli.errors import ModelError
from vila2cli.model.build import build
from vila2cli.model.chat import Chat
from vila2cli.model.loading import load_processor
from vila2cli.model.reference import ASKED, _own_path, _rows, trial_picture
from vila2cli.model.tiles import KEY, catty_grid, catty_size, cutting, held, starts
from vila2cli.settings import BaseSettings

SIDE = 64
ODD = [(5000, 300), (300, 5000), (10, 10), (1, 1), (64, 64), (128, 128), (65, 64), (2, 199)]


def shapes(seed: int, num: int, longest: float = 600) -> list[tuple[int, int]]:
    """Odd sizes and random ones, small and large, wide and tall."""
    rng = random.Random(seed)
    drawn = [tuple(round(longest ** rng.random()) for _ in "xy") for _ in range(num)]
    return [*ODD, *((x, y) for x, y in drawn if max(x, y) <= 100 * min(x, y))]


def built(method: str, **more: Any) -> Any:
    return build(BaseSettings(tiles={"method": method, "max": 6, **more}), seed=0)[1]


def as_the_paper_says(
    image: Image.Image, side: int, most: int, *, even: bool = False, how: Image.Resampling
) -> list[Image.Image]:
    """CATTY in its own words, for a picture that lies down; of a tall one the axes change places."""
    is_tall = image.height > image.width
    length, breadth = image.size[::-1] if is_tall else image.size

    def placed(*axes: int) -> Any:
        return axes[::-1] if is_tall else axes

    shape = length / breadth
    table = {(long, short): long / short for long in range(1, most + 1) for short in range(1, most // long + 1)}
    # "the image's own ratio" is kept, so the reference grid is as long for its breadth as the image, or longer
    table = {grid: ratio for grid, ratio in table.items() if ratio >= shape} or {(most, 1): most}
    nearest, area = min(table.values()), length * breadth / side**2
    long, short = min((g for g in table if table[g] == nearest), key=lambda g: abs(g[0] * g[1] - area))
    tiles = []
    if long > 1:
        # "resize so the short side matches the reference's"; beyond the longest ratio, to that
        reach = min(long * side, int(length * short * side / breadth + 0.5))
        scaled = image.resize(placed(reach, short * side), how)
        # "slide a window"
        along = [min(i * side, reach - side) for i in range(long)]
        if even:
            along = [int(i * (reach - side) / (long - 1) + 1e-9) for i in range(long)]
        over = [i * side for i in range(short)]
        corners = [(x, y) for x in over for y in along] if is_tall else [(x, y) for y in over for x in along]
        corners.sort(key=lambda corner: corner[::-1])  # row by row
        tiles = [scaled.crop((x, y, x + side, y + side)) for x, y in corners]
    return [*tiles, image.resize((side, side), how)]


def pixels_of(tiles: list[Image.Image]) -> NDArray[np.float64]:
    return np.stack([np.asarray(tile).transpose(2, 0, 1) / 127.5 - 1 for tile in tiles])


@pytest.mark.parametrize("overlap", ["last", "even"])
def test_catty_cuts_what_the_paper_says(overlap: str) -> None:
    """The number of tiles, and their pixels, of 200 shapes."""
    chat = Chat(built("catty", overlap=overlap))
    chat.check()
    counts = set()
    for size in shapes(1, 200) if overlap == "last" else shapes(2, 40):
        image = trial_picture(size)
        expected = as_the_paper_says(image, SIDE, 6, even=overlap == "even", how=Image.Resampling.LANCZOS)
        made = chat.pixel_inputs([[image]])["pixel_values"][0].numpy()
        assert len(made) == len(expected), size
        assert np.abs(made - pixels_of(expected)).max() < 1e-6, size
        told = chat.processor.image_processor.get_number_of_image_patches(image.height, image.width)
        assert max(1, told[0]) == len(made)
        ids = chat.prompt_ids(ASKED, [image])
        assert ids.count(chat.image_token_id) == len(made) * 16
        counts.add(len(made))
    assert counts == {1, 3, 4, 5, 6, 7}
    # What a JPEG need not be larger than: the scaled picture, of which the thumbnail is less.
    assert [chat.made(size) for size in ((5000, 300), (300, 5000), (900, 600))] == [
        (384, 64),
        (64, 384),
        (192, 128),
    ]


def test_catty_keeps_shapes_and_leaves_nothing_out() -> None:
    for most in (1, 2, 6, 8, 12):
        for size in shapes(3, 200):
            (columns, rows), side = catty_grid(size, SIDE, most), SIDE
            assert columns * rows <= most
            scaled = catty_size(size, (columns, rows), side)
            if max(size) <= most * min(size) and (columns, rows) != (1, 1):
                assert abs(size[0] * scaled[1] / size[1] - scaled[0]) <= 1
            for overlap in ("last", "even"):
                across, down = (
                    starts(length, side, number, overlap)  # type: ignore[arg-type]
                    for length, number in zip(scaled, (columns, rows), strict=True)
                )
                for begins, length in ((across, scaled[0]), (down, scaled[1])):
                    assert begins[0] == 0
                    assert begins[-1] + side == max(length, side)
                    gaps = [after - before for before, after in pairwise(begins)]
                    assert all(0 <= gap <= side for gap in gaps)
                    assert overlap == "even" or all(gap == side for gap in gaps[:-1])
                # Along one axis alone, for the short side fills the grid's.
                assert any(list(range(0, n * side, side)) == b for n, b in ((columns, across), (rows, down)))


def test_dynamic_is_what_the_stock_processor_does(tmp_path: Path) -> None:
    """Ids and pixels of 200 shapes, as transformers alone makes them of what is in the checkpoint's folder."""
    built("dynamic").save_pretrained(tmp_path)
    stock, chat = Chat(AutoProcessor.from_pretrained(tmp_path)), Chat(load_processor(tmp_path))
    counts = set()
    for size in shapes(4, 200):
        image = trial_picture(size)
        own = _own_path(stock, [[image]])
        made = chat.pixel_inputs([[image]])
        assert chat.prompt_ids(ASKED, [image]) == _rows(own, "input_ids")[0], size
        assert all(torch.equal(made[name], own[name]) for name in made), size
        counts.add(made["pixel_values"].shape[1])
    assert counts == {3, 5}


def test_catty_lies_in_the_checkpoint_as_plain_data(tmp_path: Path) -> None:
    """transformers opens it and sees the stock rule; loaded and saved again here, it is the same."""
    processor = built("catty", max=5, overlap="even")
    processor.save_pretrained(tmp_path / "one")
    text = (tmp_path / "one" / "processor_config.json").read_text()
    stock = AutoProcessor.from_pretrained(tmp_path / "one")
    assert type(stock.image_processor).__module__.startswith("transformers.")
    assert stock.image_processor.do_image_splitting
    assert json.loads(text)["image_processor"][KEY] == {
        "method": "catty",
        "max": 5,
        "thumbnail": True,
        "overlap": "even",
    }
    again = load_processor(tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "processor_config.json").read_text() == text
    image = trial_picture((300, 100))
    shown = [Chat(one).pixel_inputs([[image]])["pixel_values"].shape[1] for one in (again, stock)]
    assert shown == [4, 3]


@pytest.mark.parametrize(
    "told", [{"method": "catty"}, {"max": 6}, "catty", {"method": "catty", "max": 1000, "code": "x"}, [], 1]
)
def test_a_damaged_rule_is_refused(tmp_path: Path, told: Any) -> None:
    built("catty").save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"][KEY] = told
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=KEY):
        load_processor(tmp_path)


def test_a_checkpoint_without_tiles_has_no_trace_of_them(tmp_path: Path) -> None:
    processor = build(BaseSettings(), seed=0)[1]
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    assert KEY not in config
    assert config["size"] == {"longest_edge": SIDE}
    assert not config["do_image_splitting"]
    assert "row_1" not in (tmp_path / "tokenizer.json").read_text()
    assert "tiles" not in BaseSettings().deciding()


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"architecture": "llava", "tiles": {"method": "dynamic"}}, "llava cannot be shown tiles"),
        ({"tiles": {"method": "dynamic", "max": 3}}, "tiles.max = 4"),
        ({"tiles": {"method": "dynamic", "overlap": "even"}}, "leave overlap out"),
        ({"tiles": {"method": "dynamic", "thumbnail": False}}, "thumbnail = true"),
        ({"tiles": {"method": "catty", "thumbnail": False}}, "idefics3 always has a thumbnail"),
        ({"tiles": {"max": 6}}, "method"),
    ],
)
def test_what_does_not_fit_together_is_refused(base: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        BaseSettings.model_validate(base)


@pytest.mark.parametrize("method", ["dynamic", "catty"])
def test_pictures_are_held_to_fewer_tiles(method: str) -> None:
    """As a model with so many tiles would be shown them, alone or beside others that are not held."""
    chat = Chat(built(method))
    wide, square = trial_picture((300, 100)), trial_picture((200, 200))
    assert chat.pictures.limits == ((1,) if method == "dynamic" else (5, 4, 3, 2, 1))
    for most in chat.pictures.limits:
        fewer = Chat(built(method, max=most)) if most > 1 else Chat(build(BaseSettings(), seed=0)[1])
        shown = held(wide, most)
        assert len(chat.prompt_ids(ASKED, [shown])) == len(fewer.prompt_ids(ASKED, [wide]))
        alone = chat.pixel_inputs([[shown]])["pixel_values"]
        if most == 1 and method == "catty":  # as the model without tiles, which squeezes in two steps
            assert torch.equal(alone[0], chat.pixel_inputs([[wide]])["pixel_values"][0, -1:])
        else:
            assert torch.equal(alone, fewer.pixel_inputs([[wide]])["pixel_values"])
        both = chat.pixel_inputs([[shown], [square]])["pixel_values"]
        assert torch.equal(both[0, : alone.shape[1]], alone[0])
        assert not both[0, alone.shape[1] :].any()
        assert torch.equal(both[1], chat.pixel_inputs([[square]])["pixel_values"][0])


@pytest.mark.torchvision
@pytest.mark.parametrize("thumbnail", [True, False])
def test_catty_on_the_image_processor_of_internvl(thumbnail: bool) -> None:
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    rule = {"method": "catty", "max": 6, "thumbnail": thumbnail, "overlap": "last"}
    stock = GotOcr2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6, **{KEY: rule},
        image_mean=[0.5] * 3, image_std=[0.5] * 3
    )  # fmt: skip
    images = cutting(SimpleNamespace(image_processor=stock)).image_processor
    for size in shapes(5, 60):
        image = trial_picture(size)
        expected = as_the_paper_says(image, SIDE, 6, how=Image.Resampling.BICUBIC)
        expected = expected if thumbnail or len(expected) == 1 else expected[:-1]
        made = images([image], return_tensors="pt")
        assert made["num_patches"].tolist() == [len(expected)], size
        assert images.get_number_of_image_patches(image.height, image.width) == len(expected)
        assert np.abs(made["pixel_values"].numpy() - pixels_of(expected)).max() <= 3 / 127.5, size
