"""The training loop against plain transformers, and its parts against each other."""

import copy
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.model.chat import Chat
from vila2cli.model.freeze import part_of
from vila2cli.progress import Progress
from vila2cli.sample import EncodedImage, Sample, Turn
from vila2cli.settings import TrainSettings
from vila2cli.train.data import TrainSample, encode_sample
from vila2cli.train.features import TowerFeatures
from vila2cli.train.loop import Objective, fit, micro_batches, to_tensors
from vila2cli.world.draw import draw_picture, encode_jpeg
from vila2cli.world.language import caption, interview
from vila2cli.world.scenes import draw_scene

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def chat(tiny_checkpoint: Path) -> Chat:
    return Chat(AutoProcessor.from_pretrained(tiny_checkpoint))


@pytest.fixture
def model(tiny_checkpoint: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype="float32")


@pytest.fixture(scope="module")
def samples(chat: Chat) -> list[TrainSample]:
    """Twelve conversations, a third of them without a picture, of different lengths."""
    random = Random(5)
    made = []
    for i in range(12):
        scene = draw_scene(random, "sft")
        turns = [Turn("user", "Describe."), Turn("assistant", caption(scene))]
        turns += interview(scene, random, ["colour"] * (i % 4))
        images = () if i % 3 == 0 else (EncodedImage(encode_jpeg(draw_picture(scene, random)), "jpg"),)
        made.append(encode_sample(Sample(key=str(i), images=images), chat, turns, 2048))
    return made


def loss_of(
    model: torch.nn.Module, chat: Chat, batch: list[TrainSample], features: TowerFeatures | None = None
):
    tensors, keys = to_tensors(batch, chat, features, CPU)
    return Objective(model, features)(tensors, keys)


def test_loss_is_that_of_a_plain_forward(model, chat: Chat, samples: list[TrainSample]) -> None:
    tensors, _ = to_tensors(samples, chat, None, CPU)
    num_trained = int((tensors["labels"][:, 1:] != -100).sum())
    reference = model(**tensors).loss * num_trained
    assert loss_of(model, chat, samples).item() == pytest.approx(reference.item(), rel=1e-5)


def test_cached_features_change_neither_loss_nor_gradients(model, chat: Chat, samples) -> None:
    twin = copy.deepcopy(model)
    loss_of(model, chat, samples).backward()
    features = TowerFeatures(twin)
    for _ in range(2):  # filled on the first pass, read on the second
        twin.zero_grad()
        loss = loss_of(twin, chat, samples, features)
        loss.backward()
    for (name, one), (_, other) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if part_of(name) != "vision_tower":
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_micro_batches_give_the_gradients_of_the_whole_batch(model, chat: Chat, samples) -> None:
    twin = copy.deepcopy(model)
    loss_of(model, chat, samples).backward()
    parts = micro_batches(samples, 5)
    assert sorted(s.key for part in parts for s in part) == sorted(s.key for s in samples)
    for part in parts:
        loss_of(twin, chat, part).backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "trained", [("projector",), ("projector", "llm"), ("vision_tower", "projector", "llm")]
)
def test_only_the_named_parts_change(model, chat: Chat, samples, trained) -> None:
    before = {name: value.clone() for name, value in model.named_parameters()}
    settings = TrainSettings(train=trained, learning_rate=1e-3, epochs=1, batch_size=6)
    with Progress("test", total=2, unit="steps") as progress:
        fit(model, chat, samples, settings, seed=0, progress=progress)
    changed = {
        part_of(name) for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed == set(trained)


def test_the_same_seed_gives_the_same_weights(model, chat: Chat, samples) -> None:
    twin = copy.deepcopy(model)
    settings = TrainSettings(train=("projector", "llm"), learning_rate=1e-3, epochs=2, batch_size=5)
    losses = []
    for one in (model, twin):
        with Progress("test", total=6, unit="steps") as progress:
            losses.append(fit(one, chat, samples, settings, seed=4, progress=progress).final_loss)
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
