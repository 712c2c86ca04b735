"""Ids made of sizes alone, and tensors made quickly: those of the processor itself, for any size."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    Gemma3ImageProcessorPil,
    GotOcr2ImageProcessorPil,
    Idefics3ImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaNextImageProcessorPil,
    PixtralImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from vila2cli.errors import DataError
from vila2cli.image import inexact
from vila2cli.model.backends import quick, sized
from vila2cli.model.build import build
from vila2cli.model.chat import Chat
from vila2cli.model.reference import ASKED, _own_path, _rows, trial_picture
from vila2cli.model.rendering import ODD
from vila2cli.model.scaling import _Shared, levels_of, scaled
from vila2cli.settings import BaseSettings
from zoo import NAMES

ODD_SIZES = [(1, 1), (5, 300), (300, 5), (1200, 16), (64, 64), (33, 33), (3, 3), (7, 2)]
SQUARE = {"size": {"height": 48, "width": 48}}
CROPS = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 16,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
PIL_PROCESSORS = {
    "clip": (CLIPImageProcessorPil, {"size": {"shortest_edge": 48}, "crop_size": 40}),
    "siglip": (SiglipImageProcessorPil, SQUARE),
    "vit": (ViTImageProcessorPil, SQUARE),
    "llava": (LlavaImageProcessorPil, {"size": {"shortest_edge": 48}, "crop_size": 48}),
    "llava-padded": (LlavaImageProcessorPil, {"size": {"shortest_edge": 48}, "crop_size": 48, "do_pad": True}),
    "llava-next": (LlavaNextImageProcessorPil, {"size": {"shortest_edge": 48}, "crop_size": 48}),
    "gemma3": (Gemma3ImageProcessorPil, SQUARE),
    "gemma3-crops": (
        Gemma3ImageProcessorPil,
        {**SQUARE, **CROPS},
    ),
    "internvl": (GotOcr2ImageProcessorPil, {**SQUARE, "crop_to_patches": False}),
    "pixtral": (PixtralImageProcessorPil, {"size": {"longest_edge": 96}, "patch_size": 8}),
    "idefics3": (
        Idefics3ImageProcessorPil,
        {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 48}, "do_image_splitting": False},
    ),
    "idefics3-tiles": (
        Idefics3ImageProcessorPil,
        {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}},
    ),
    "not-normalised": (SiglipImageProcessorPil, {**SQUARE, "do_normalize": False}),
    "not-rescaled": (SiglipImageProcessorPil, {**SQUARE, "do_rescale": False}),
}


def sizes(seed: int, num: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    return [*ODD_SIZES, *((rng.randrange(1, 400), rng.randrange(1, 400)) for _ in range(num))]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def check(processor: Any, num: int) -> None:
    """Ids and tensors of odd and random sizes are the processor's; an image that it fails on is told of."""
    chat = Chat(processor)
    chat.check()
    for size in sizes(7, num):
        image = trial_picture(size)
        try:
            own = _own_path(chat, [[image]])
        except ODD:
            with pytest.raises(DataError):
                chat.pixel_inputs([[image]])
            continue
        assert chat.prompt_ids(ASKED, [image]) == _rows(own, "input_ids")[0], size
        ours = chat.pixel_inputs([[image]])
        assert all(same(ours[name], own[name]) for name in ours), size


@pytest.mark.parametrize("architecture", ["idefics3", "llava"])
def test_a_built_model_is_given_what_its_processor_makes(architecture: str) -> None:
    check(build(BaseSettings(architecture=architecture), seed=0)[1], 30)


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_model_is_given_what_its_processor_makes(zoo: Callable[[str], Path], name: str) -> None:
    check(AutoProcessor.from_pretrained(zoo(name)), 12)


@pytest.mark.parametrize("name", PIL_PROCESSORS)
def test_quick_steps_are_those_of_pillow_to_the_bit(name: str) -> None:
    """And their sizes are known without pixels."""
    kind, settings = PIL_PROCESSORS[name]
    processor = kind(**settings)
    quickly, outline = quick(processor), sized(processor)
    assert quickly is not None
    assert outline is not None
    for size in sizes(3, 6):
        image = trial_picture(size)
        try:
            expected = processor([image], return_tensors="pt")
        except (RuntimeError, ValueError, ZeroDivisionError):
            continue
        made = quickly([image], return_tensors="pt")
        assert made.keys() == expected.keys()
        assert all(same(made[key], expected[key]) for key in made), size
        shapes = outline([np.zeros((*size[::-1], 3), np.uint8)], return_tensors="pt")
        assert shapes["pixel_values"][0].shape == expected["pixel_values"][0].shape


@pytest.mark.parametrize("name", PIL_PROCESSORS)
def test_a_jpeg_is_scaled_as_pillow_does_but_for_rounding(name: str) -> None:
    """Whatever a quicker way of scaling does, and in Pillow's order of sides, on the hardest of pictures."""
    kind, settings = PIL_PROCESSORS[name]
    processor = kind(**settings)
    quickly = quick(processor)
    assert quickly is not None
    level = (1 / 255 if processor.do_rescale else 1) / min(processor.image_std)
    noise = np.random.default_rng(5)
    for size in [*sizes(7, 4), (90, 400), (400, 90), (49, 300)]:
        image = Image.fromarray(noise.integers(0, 256, (*size[::-1], 3), np.uint8))
        try:
            expected = processor([image], return_tensors="pt")["pixel_values"][0]
        except (RuntimeError, ValueError, ZeroDivisionError):
            continue
        made = quickly([inexact(image)], return_tensors="pt")["pixel_values"][0]
        apart = (made - expected).abs()
        assert apart.max() < 3.1 * level, size  # a level of what is scaled twice becomes up to three
        assert apart.mean() < 0.1 * level, size


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (641, 480), (2048, 2047), (2500, 1800)])
def test_levels_that_pillow_shares_are_those_of_a_copy(size: tuple[int, int]) -> None:
    """In one block of memory or several, and after the picture itself is gone."""
    noise = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8)
    levels = levels_of(Image.fromarray(noise))
    copied = noise.transpose(2, 0, 1)
    assert (levels[:3] == copied).all()
    small = max(1, size[0] // 2), max(1, size[1] // 3)
    assert (scaled(levels, small, "bicubic")[:3] == scaled(copied, small, "bicubic")).all()


@pytest.mark.parametrize("mode", ["L", "F", "I", "1", "P"])
def test_memory_of_another_layout_is_not_shared(mode: str) -> None:
    with pytest.raises(ValueError, match=f"lays out {mode} otherwise"):
        _Shared(Image.new(mode, (7, 5)))


@pytest.mark.parametrize(
    ("name", "made"),
    {
        "clip": (64, 48),
        "siglip": (48, 48),
        "idefics3": (48, 36),
        "idefics3-tiles": (96, 72),
        "gemma3-crops": (96, 48),
        "pixtral": (96, 72),
    }.items(),
)
def test_the_size_that_an_image_is_scaled_to_is_known(name: str, made: tuple[int, int]) -> None:
    """Of one that is made smaller and larger again it is the smaller, of one that is cut that of the whole."""
    kind, settings = PIL_PROCESSORS[name]
    outline = sized(kind(**settings))
    assert outline is not None
    outline([np.zeros((600, 800, 3), np.uint8)], return_tensors="pt")
    assert outline.course.made == made


def test_plans_are_used_and_follow_odd_sizes_to_the_bit() -> None:
    """Where every size takes the same steps but for the first, only that one is worked out."""
    chat = Chat(build(BaseSettings(architecture="idefics3"), seed=0)[1])
    chat.check()
    outlines = chat.pictures._outlines
    assert chat.pictures._plans
    assert outlines is not None
    assert outlines._first is not None
    for size in sizes(11, 20):
        image = trial_picture(size)
        own = chat.processor.image_processor([[image]], return_tensors="pt")
        made = outlines.tensors(image)
        assert made is not None
        assert all(same(made[name], own[name]) for name in own), size


def test_a_thread_waits_until_it_is_settled_how_pictures_are_made() -> None:
    """Else what it decodes meanwhile would be of another size than what is decoded later."""
    chat = Chat(build(BaseSettings(architecture="idefics3"), seed=0)[1])
    together, made = threading.Barrier(4), []

    def look() -> None:
        together.wait()
        made.append(chat.made((900, 700)))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [chat.made((900, 700))] * 4
    assert made[0] is not None
