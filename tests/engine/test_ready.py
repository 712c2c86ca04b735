"""Pictures that are made ready in threads: to the bit what is made of their pixels when they are asked for."""

import io
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Idefics3ImageProcessorPil

from tiny_vlm import picture
from vila2cli.engine import Engine, EngineSettings, Request, Result, open_engine
from vila2cli.errors import DataError
from vila2cli.files import DEFAULT_MAX_PIXELS
from vila2cli.image import decode_image
from vila2cli.model.chat import Chat
from vila2cli.model.ready import Preparer, ReadyPicture, can_join, release

Ask = Callable[..., Request]
SIZES = ((64, 64), (300, 200), (90, 210), (64, 64))
FAMILIES = ("idefics3", "llava_1_5", "llava_next", "qwen2_vl", "internvl3", "gemma3", "mistral3", "smolvlm")


def encoded(number: int, size: tuple[int, int] = (64, 64)) -> bytes:
    stream = io.BytesIO()
    picture(number).resize(size).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def chat(random_vlm: Path) -> Chat:
    return Chat(AutoProcessor.from_pretrained(random_vlm))


def check_batches(chat: Chat) -> int:
    """How many of some pictures are ready, whose tensors in batches are those of their pixels."""
    preparer = Preparer(chat)
    files = [encoded(number, size) for number, size in enumerate(SIZES)]
    plain = [decode_image(data) for data in files]
    ready = [preparer(data, max_pixels=DEFAULT_MAX_PIXELS) for data in files]
    mixed = [plain[0], *ready[1:]]
    for images in (ready, mixed):
        ours = chat.pixel_inputs([[image] for image in images])
        theirs = chat.pixel_inputs([[image] for image in plain])
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
    return sum(isinstance(image, ReadyPicture) for image in ready)


def test_ready_pictures_make_the_tensors_of_their_pixels(chat: Chat) -> None:
    assert check_batches(chat) == len(SIZES)


def test_ready_pictures_of_different_numbers_of_tiles_are_joined(
    random_vlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not made once more for the batch."""
    processor = AutoProcessor.from_pretrained(random_vlm)
    sides = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    processor.image_processor = Idefics3ImageProcessorPil(**sides)
    chat = Chat(processor)
    assert check_batches(chat) == len(SIZES)
    ready = [Preparer(chat).of(picture(number).resize(size)) for number, size in enumerate(SIZES)]
    assert len({image.tensors["pixel_values"].shape for image in ready if isinstance(image, ReadyPicture)}) > 1
    monkeypatch.delattr(chat.pictures, "_processor")
    assert len(chat.pixel_inputs([[image] for image in ready])["pixel_values"]) == len(SIZES)


@pytest.mark.parametrize("family", FAMILIES)
def test_ready_pictures_of_other_families(zoo: Callable[[str], Path], family: str) -> None:
    chat = Chat(AutoProcessor.from_pretrained(zoo(family)))
    assert check_batches(chat) == (len(SIZES) if can_join(chat) else 0)


def test_a_ready_picture_decodes_its_pixels_when_they_are_asked_for(chat: Chat) -> None:
    data = encoded(3, (120, 80))
    ready = Preparer(chat)(data, max_pixels=DEFAULT_MAX_PIXELS)
    assert isinstance(ready, ReadyPicture)
    assert (ready.size, ready.mode, ready.is_decoded) == ((120, 80), "RGB", False)
    assert ready.convert("L").tobytes() == decode_image(data).convert("L").tobytes()
    release([ready])
    assert ready.tensors is None
    theirs = chat.pixel_inputs([[decode_image(data)]])
    assert all(torch.equal(value, theirs[name]) for name, value in chat.pixel_inputs([[ready]]).items())


def test_without_room_pictures_wait_as_pixels(chat: Chat) -> None:
    preparer = Preparer(chat, most_bytes=1)
    first, second = (preparer(encoded(number), max_pixels=DEFAULT_MAX_PIXELS) for number in (1, 2))
    assert isinstance(first, ReadyPicture)
    assert not isinstance(second, ReadyPicture)
    release([first])
    assert isinstance(preparer(encoded(3), max_pixels=DEFAULT_MAX_PIXELS), ReadyPicture)


def test_a_damaged_file_is_an_error_of_its_own(chat: Chat) -> None:
    with pytest.raises(DataError, match="not an image"):
        Preparer(chat)(b"no picture", max_pixels=DEFAULT_MAX_PIXELS)


def answers(engine: Engine, ask: Ask, decode: Callable[..., Image.Image]) -> dict[str, Result]:
    sizes = [SIZES[number % len(SIZES)] for number in range(20)]
    images = [decode(encoded(number, size), max_pixels=DEFAULT_MAX_PIXELS) for number, size in enumerate(sizes)]
    requests = [ask(number, images=(image,), max_new_tokens=8) for number, image in enumerate(images)]
    requests.append(ask(90, images=(images[0], images[1]), max_new_tokens=8))
    return {result.id: result for result in engine.generate(requests)}


def test_hf_answers_are_those_about_pixels(random_vlm: Path, ask: Ask) -> None:
    engine = open_engine("hf", random_vlm, EngineSettings(dtype="float32", batch_size=4))
    assert answers(engine, ask, engine.preparing.decode) == answers(engine, ask, decode_image)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("requests_per_image", [1, 2])
def test_vllm_takes_pictures_that_are_ready(random_vlm: Path, ask: Ask, requests_per_image: int) -> None:
    settings = EngineSettings(dtype="float32", batch_size=8, requests_per_image=requests_per_image)
    engine = open_engine("vllm", random_vlm, settings)
    assert not any("in its own thread" in note for note in engine.notes)
    theirs = answers(engine, ask, decode_image)
    touched: list[ReadyPicture] = []

    def decode(data: bytes, *, max_pixels: int) -> Image.Image:
        image = engine.preparing.decode(data, max_pixels=max_pixels)
        assert isinstance(image, ReadyPicture)
        touched.append(image)
        return image

    ours = answers(engine, ask, decode)
    assert {key: (one.text, one.num_tokens) for key, one in ours.items()} == {
        key: (one.text, one.num_tokens) for key, one in theirs.items()
    }
    assert all(one.error is None for one in ours.values())
    # But for the two that are asked about together.
    assert not any(image.is_decoded for image in touched[2:])


def test_threads_may_make_pictures_ready_at_the_same_time(chat: Chat) -> None:
    preparer, files = Preparer(chat), [encoded(number, (200, 150 + number)) for number in range(16)]
    expected = [chat.pixel_inputs([[decode_image(data)]])["pixel_values"] for data in files]
    together = threading.Barrier(4)
    made: dict[int, Image.Image] = {}

    def work(first: int) -> None:
        together.wait()
        for number in range(first, len(files), 4):
            made[number] = preparer(files[number], max_pixels=DEFAULT_MAX_PIXELS)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, pixels in enumerate(expected):
        assert torch.equal(chat.pixel_inputs([[made[number]]])["pixel_values"], pixels)
