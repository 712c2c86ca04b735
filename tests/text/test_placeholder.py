"""Alt-texts that say nothing, told from those that say little."""

import json
from pathlib import Path
from random import Random

import pytest

from vila2cli.text.placeholder import is_placeholder
from vila2cli.world.sayings import alt_text
from vila2cli.world.scenes import draw_scene


@pytest.mark.parametrize(
    "text",
    [
        "IMG_1234.jpg",
        "DSC00012",
        "golden-retriever-2.JPEG",
        "final_2031 (1).png",
        "image 1",
        "Photo #3",
        "Stock photo",
        "Royalty free stock image - download now",
        "Click to enlarge the image, all rights reserved",
        "Image may be subject to copyright of its owner",
        "Untitled",
        "N/A",
        "20140503_121022",
        "1024x768",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "https://example.org/a/b?c=1",
        " ... ",
    ],
)
def test_what_says_nothing(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        "Stock photo of a red kite",
        "Boeing 747",
        "Apollo 11 image",
        "dog.",
        "Click beetle",
        "Rotes Auto",
        "red kite.jpg over the hills",
        "日本の写真",
        "deadbeef",
        "The best cat photo of 2014",
        "Figure 2: orbits of the planets",
    ],
)
def test_what_says_little(text: str) -> None:
    assert not is_placeholder(text)


def test_of_the_worlds_alt_texts_none_that_names_a_thing() -> None:
    random = Random(0)
    scenes = [draw_scene(random, "pretrain") for _ in range(400)]
    assert not any(is_placeholder(alt_text(scene, random, wrong=0.3, boilerplate=0.0)) for scene in scenes)
    empty = [is_placeholder(alt_text(scene, random, wrong=0.3, boilerplate=1.0)) for scene in scenes]
    assert sum(empty) > 0.8 * len(empty)


def test_captions_that_people_wrote(real_data: Path) -> None:
    files = sorted((real_data / "coco_ccby" / "annotations").glob("captions*.json"))
    texts = [one["caption"] for path in files for one in json.loads(path.read_text())["annotations"]]
    assert texts
    assert not any(map(is_placeholder, texts))
