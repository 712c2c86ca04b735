"""Stock families in vLLM: what it says and scores is what the hf engine does, whoever wrote the checkpoint."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vila2cli.engine import Engine, EngineSettings, Request, Result, ScoreRequest, open_engine
from vila2cli.errors import ModelError
from vila2cli.image import Decode, decode_image
from vila2cli.settings import AskedSettings
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter
from vila2cli.shards.annotations import read_annotations
from vila2cli.shards.sample import Turn
from vila2cli.stages.recaption import recaption
from zoo import NAMES, picture
from zoo_training import tuned

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Zoo = Callable[[str], Path]
SETTINGS = EngineSettings(dtype="float32", batch_size=8)
ASKED = (Turn("user", "What is shown?"),)
NUM_PICTURES = 24
ONE_IMAGE = ("llava_onevision",)
"""Families whose processor lays several pictures out otherwise than vLLM does."""
AS_PIXELS = ("llava_onevision", "mistral3")
"""Families of whose pictures a batch is made as a whole."""
PREFIX = ("gemma3", "paligemma")
"""Families whose tokens of a picture see each other."""


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def requests(name: str, decode: Decode) -> list[Request | ScoreRequest]:
    """24 pictures of odd shapes to be described and some to be scored, and two in one prompt."""
    shown = [decode(png(picture(seed)), max_pixels=10**6, draft=0) for seed in range(NUM_PICTURES)]
    asked: list[Request | ScoreRequest] = [
        Request(id=f"text {i}", messages=ASKED, images=(image,), max_new_tokens=12)
        for i, image in enumerate(shown)
    ]
    asked += [
        ScoreRequest(id=f"score {i}", messages=ASKED, images=(shown[i],), text=f"It shows {i} red bars.")
        for i in range(6)
    ]
    if name not in ONE_IMAGE:
        asked += [
            Request(id=f"two {i}", messages=ASKED, images=(shown[i], shown[i + 1]), max_new_tokens=12)
            for i in range(4)
        ]
    return asked


def opened(kind: str, name: str, folder: Path) -> Engine:
    torch.set_num_threads(1)
    return open_engine(kind, folder, replace(SETTINGS, max_images=int(name in ONE_IMAGE)))


def answers(engine: Engine, asked: list[Request | ScoreRequest]) -> dict[str, Result]:
    return {result.id: result for result in engine.generate(asked)}


def assert_alike(name: str, folder: Path) -> None:
    if name in PREFIX and not torch.cuda.is_available():
        with pytest.raises(ModelError, match="see each other, for which vLLM has no kernel on a CPU"):
            opened("vllm", name, folder)
        return
    engines = [opened(kind, name, folder) for kind in ("hf", "vllm")]
    assert any("in its own thread" in note for note in engines[1].notes) == (name in AS_PIXELS)
    ours = answers(engines[0], requests(name, decode_image))
    theirs = answers(engines[1], requests(name, engines[1].preparing.decode))
    assert not [one.error for one in ours.values() if one.error]
    assert {key: (one.text, one.error) for key, one in theirs.items()} == {
        key: (one.text, one.error) for key, one in ours.items()
    }
    assert len({ours[f"text {i}"].text for i in range(NUM_PICTURES)}) > NUM_PICTURES // 2
    for key, one in ours.items():
        assert theirs[key].token_logprobs == pytest.approx(one.token_logprobs, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_checkpoint_answers_as_in_transformers(name: str, zoo: Zoo) -> None:
    assert_alike(name, zoo(name))


@pytest.mark.parametrize("name", NAMES)
def test_what_training_writes_answers_as_in_transformers(name: str, zoo: Zoo, tmp_path: Path) -> None:
    assert_alike(name, tuned(zoo(name), tmp_path / "out"))


@pytest.mark.parametrize("name", ONE_IMAGE)
def test_several_pictures_are_left_to_transformers(name: str, zoo: Zoo) -> None:
    with pytest.raises(ModelError, match="other tokens in the place of a picture"):
        open_engine("vllm", zoo(name), SETTINGS)
    assert open_engine("auto", zoo(name), SETTINGS).name == "hf"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_bounds_of_pixels_reach_the_model(name: str, zoo: Zoo) -> None:
    large = [Request(id="", messages=ASKED, images=(picture(1, (300, 200)),), max_new_tokens=12)]
    texts = []
    for bounds in (AskedSettings(), AskedSettings(min_pixels=32 * 32, max_pixels=48 * 48)):
        settings = replace(SETTINGS, asked=bounds)
        ours, theirs = (answers(open_engine(kind, zoo(name), settings), large) for kind in ("hf", "vllm"))
        assert theirs[""].text == ours[""].text
        texts.append(ours[""].text)
    assert texts[0] != texts[1]


def test_two_replicas_write_what_one_engine_writes(zoo: Zoo, tmp_path: Path) -> None:
    for shard in range(4):
        with TarWriter(tmp_path / "data" / f"{shard:06}.tar") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                tar.write_sample(f"{number:02}", {"png": png(picture(number)), "txt": b"a picture"})
    texts = []
    for engine, replicas in (("hf", 1), ("vllm", 1), ("vllm", 2)):
        sets = [f"recaption.engine={engine}", f"engine.replicas={replicas}", "recaption.max_new_tokens=12"]
        sets += ["recaption.retry_temperatures=[]", "recaption.max_reject_rate=1.0"]
        out = tmp_path / f"{engine}-{replicas}"
        recipe = load_recipe(None, sets)
        recaption(recipe, shards=[str(tmp_path / "data")], model=zoo("idefics3"), out=out, round=1)
        found = dict(read_annotations(out))
        texts.append({key: [one.text, *said(one.decision)] for key, one in found.items()})
    assert texts[0] == texts[1] == texts[2]
    assert len({str(text) for text in texts[0].values()}) > 6


def said(decision: dict[str, Any]) -> list[str]:
    """What the model wrote where it was not good enough."""
    return [attempt["text"] for attempt in decision.get("attempts", ())]
