"""A picture with an orientation tag is seen upright, once, by whatever looks at it."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoProcessor

from turned_pictures import TURNED_FORMATS, corners, stored_turned
from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.engine.messages import data_url
from vila2cli.image import decode_image
from vila2cli.model.chat import Chat
from vila2cli.shards.sample import EncodedImage
from vila2cli.train.data import TrainSample

KINDS = [(name, orientation) for name in TURNED_FORMATS for orientation in range(1, 9)]
SETTINGS = EngineSettings(dtype="float32", batch_size=16, max_images=1)
needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A file of the same picture for every format and orientation."""
    return {f"{name} {turn}": stored_turned(corners((64, 48)), name, turn) for name, turn in KINDS}


@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=needs_vllm)])
def test_captions_of_a_turned_picture_are_those_of_the_upright_one(
    engine: str, random_vlm: Path, ask: Callable[..., Request], files: dict[str, bytes]
) -> None:
    """The stored pictures get other captions, so that a turn too many or too few shows."""
    torch.set_num_threads(1)
    upright = {name: decode_image(stored_turned(corners((64, 48)), name, 1)) for name in TURNED_FORMATS}
    wrong = {f"wrong {turn}": ImageOps.exif_transpose(_tagged(upright["PNG"], turn)) for turn in range(2, 9)}
    pictures = upright | wrong | {name: decode_image(data) for name, data in files.items()}
    requests = [
        ask(number, images=(image,), max_new_tokens=16, group="one")
        for number, image in enumerate(pictures.values())
    ]
    texts = {result.id: result.text for result in open_engine(engine, random_vlm, SETTINGS).generate(requests)}
    found = {name: texts[str(number)] for number, name in enumerate(pictures)}
    assert {name: found[name] for name in files} == {name: found[name.split()[0]] for name in files}
    assert all(found[name] != found["PNG"] for name in wrong)


def _tagged(image: Image.Image, orientation: int) -> Image.Image:
    tagged = image.copy()
    tagged.getexif()[0x0112] = orientation
    return tagged


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_a_server_gets_upright_pixels_and_nothing_that_turns_them(
    image_format: str, files: dict[str, bytes]
) -> None:
    upright = {name: decode_image(stored_turned(corners((64, 48)), name, 1)) for name in TURNED_FORMATS}
    for name, data in files.items():
        sent = base64.b64decode(data_url(decode_image(data), image_format).partition(",")[2])
        assert sent == base64.b64decode(data_url(upright[name.split()[0]], image_format).partition(",")[2])
        received = Image.open(io.BytesIO(sent))
        assert not {"exif", "xmp", "icc_profile"} & set(received.info)
        assert ImageOps.exif_transpose(received).tobytes() == received.tobytes()


def test_training_sees_the_upright_picture(random_vlm: Path, files: dict[str, bytes]) -> None:
    chat = Chat(AutoProcessor.from_pretrained(random_vlm))
    upright = {name: decode_image(stored_turned(corners((64, 48)), name, 1)) for name in TURNED_FORMATS}
    for name, data in files.items():
        sample = TrainSample("one", [], [], [EncodedImage(data, "")])
        seen = chat.pixel_inputs([sample.decoded()])["pixel_values"]
        assert torch.equal(seen, chat.pixel_inputs([[upright[name.split()[0]]]])["pixel_values"])
