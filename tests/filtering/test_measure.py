"""What a filter finds wrong with a caption, before any model sees it."""

import io

import pytest
from PIL import Image

from vila2cli.filtering.measure import Measure
from vila2cli.shards.sample import Annotation, EncodedImage, Sample

GOOD = "A red star stands on a white ground next to a small blue circle."


def measured(text: str) -> dict[str, list[str]]:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(stream, "PNG")
    caption = Annotation(layer="recaption", kind="caption", text=text)
    sample = Sample(key="0", images=(EncodedImage(stream.getvalue(), "png"),), annotations=(caption,))
    return Measure(["recaption"])(sample).scores


@pytest.mark.parametrize(
    ("text", "defects"),
    [
        (GOOD, []),
        (f"<think>A star? Yes.</think>{GOOD}", ["reasoning"]),
        (f"A star? Yes.\n</think>\n{GOOD}", ["reasoning"]),
        ("<think>A star? Yes. A", ["reasoning"]),
        (f'{GOOD} A sign reads "</think>".', []),
        ("Es tut mir leid, aber ich kann dieses Bild nicht beschreiben.", ["refusal"]),
        (f"{GOOD}\n| a | b |\n|-------------------|-------------------|", []),
    ],
)
def test_defects(text: str, defects: list[str]) -> None:
    assert measured(text)["defects"] == defects


def test_languages() -> None:
    assert measured(GOOD)["languages"] == ["en"]
    assert measured(f"{GOOD} 白色背景上有一颗红色的星星，旁边有一个蓝色的小圆圈。")["languages"] == []
