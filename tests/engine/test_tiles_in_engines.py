"""Pictures in tiles on both engines: the same answers, and fewer tiles where a prompt would not fit."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.internvl import InternVLVisionConfig, InternVLVisionModel

from tiny_vlm import picture
from vila2cli.engine import EngineSettings, Request, Result, ScoreRequest, open_engine
from vila2cli.model.build import build
from vila2cli.model.chat import Chat
from vila2cli.model.loading import load_processor
from vila2cli.model.saving import save_checkpoint
from vila2cli.model.tiles import most_tokens
from vila2cli.settings import BaseSettings
from vila2cli.shards.sample import Turn

ASKED = (Turn("user", "What is shown?"),)
ODD = [(5000, 300), (300, 5000), (10, 10), (1, 1)]
SHORT = 100
"""Tokens of a context in which the pictures with most tiles do not fit."""


def internvit(folder: Path) -> str:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    InternVLVisionModel(InternVLVisionConfig(**shape, image_size=[64, 64], patch_size=[8, 8])).save_pretrained(
        folder
    )
    return str(folder)


@pytest.fixture(
    scope="module",
    params=[
        ("idefics3", "dynamic"),
        ("idefics3", "catty"),
        pytest.param(("internvl", "dynamic"), marks=pytest.mark.torchvision),
        pytest.param(("internvl", "catty"), marks=pytest.mark.torchvision),
    ],
    ids="-".join,
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture, method = request.param
    base: dict[str, Any] = {"architecture": architecture, "tiles": {"method": method, "max": 6}}
    if architecture == "internvl":
        base |= {"projector": "mlp", "vision_tower": internvit(tmp_path_factory.mktemp("internvit"))}
    folder = tmp_path_factory.mktemp(method)
    save_checkpoint(*build(BaseSettings(**base), seed=0), folder)
    return folder


def asked() -> list[Request | ScoreRequest]:
    """64 pictures of mixed shapes, some of them scored, and two in one prompt."""
    rng = random.Random(0)
    sizes = [*ODD, *((rng.randrange(2, 400), rng.randrange(2, 400)) for _ in range(60))]
    shown = [picture(number).resize(size) for number, size in enumerate(sizes)]
    requests: list[Request | ScoreRequest] = [
        Request(id=f"{i}", messages=ASKED, images=(image,), max_new_tokens=10) for i, image in enumerate(shown)
    ]
    requests += [
        ScoreRequest(id=f"score {i}", messages=ASKED, images=(shown[i],), text="a red ball") for i in range(8)
    ]
    return [
        *requests,
        *(
            Request(id=f"two {i}", messages=ASKED, images=(shown[i], shown[i + 1]), max_new_tokens=10)
            for i in range(4, 8)
        ),
    ]


def answers(kind: str, folder: Path, context: int) -> tuple[dict[str, Result], int]:
    """The results by id, and how many were asked in fewer tiles."""
    settings = EngineSettings(dtype="float32", batch_size=16, max_model_len=context)
    engine = open_engine(kind, folder, settings)
    results = {result.id: result for result in engine.generate(iter(asked()))}
    return results, engine.num_fewer_tiles


def test_a_prompt_that_does_not_fit_is_shown_in_fewer_tiles(checkpoint: Path) -> None:
    chat = Chat(load_processor(checkpoint))
    long = [one for one in asked() if len(chat.prompt_ids(ASKED, one.images)) >= SHORT]
    assert len(long) > 8
    found, num_fewer = answers("hf", checkpoint, SHORT)
    assert not [one.error for one in found.values() if one.error]
    assert len(long) <= num_fewer <= len(long) + 8  # some of those that are scored
    found, num_fewer = answers("hf", checkpoint, 20)
    assert (found["0"].error is None, num_fewer) == (False, 0)  # not even one tile


def test_layers_of_one_pass_share_what_the_tower_makes_of_tiles(checkpoint: Path) -> None:
    shown = [picture(number).resize(size) for number, size in enumerate([(200, 64), (64, 64), (90, 300)])]
    questions = ("What is shown?", "Describe the picture.")

    def ask(engine: Any, question: str) -> list[str]:
        turns = (Turn("user", question),)
        requests = [
            Request(id=f"{i}", messages=turns, images=(image,), max_new_tokens=8, group="0")
            for i, image in enumerate(shown)
        ]
        return [result.text for result in engine.generate(iter(requests))]

    together = open_engine("hf", checkpoint, EngineSettings(dtype="float32", batch_size=2, parts=2))
    seen: list[int] = []
    tower = together._net.model.vision_model if hasattr(together._net.model, "vision_model") else None
    if tower is not None:
        tower.register_forward_hook(lambda module, args, kwargs, out: seen.append(1), with_kwargs=True)
    found = [ask(together, question) for question in questions]
    alone = open_engine("hf", checkpoint, EngineSettings(dtype="float32", batch_size=2))
    assert found == [ask(alone, question) for question in questions]
    assert len(seen) == (2 if tower is not None else 0)  # both batches of the first layer


def test_the_most_tokens_of_a_picture_are_known_by_its_files(checkpoint: Path) -> None:
    chat = Chat(load_processor(checkpoint))
    taken = max(len(chat.pictures.ids(one.images[0], 1)) for one in asked())
    assert taken <= most_tokens(checkpoint) <= taken + 40


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("context", [0, SHORT])
def test_vllm_answers_as_transformers(checkpoint: Path, context: int) -> None:
    (one, num_fewer), (other, num_other) = (answers(kind, checkpoint, context) for kind in ("hf", "vllm"))
    assert num_fewer == num_other
    assert (num_fewer > 0) == bool(context)
    assert len({result.text for result in one.values()}) > 8
    for id, result in one.items():
        assert (other[id].text, other[id].error) == (result.text, None), id
        assert other[id].token_logprobs == pytest.approx(result.token_logprobs, abs=1e-3), id
