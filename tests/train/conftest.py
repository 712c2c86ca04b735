"""Samples and models that several tests of training share."""

from pathlib import Path

import pytest
import torch
from conversing import conversations
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.model.chat import Chat
from vila2cli.settings.recipe import load_recipe
from vila2cli.train.data import TrainSample, encode_sample
from vila2cli.world.write import write_world


@pytest.fixture(scope="session")
def chat(tiny_checkpoint: Path) -> Chat:
    return Chat(AutoProcessor.from_pretrained(tiny_checkpoint))


@pytest.fixture
def model(tiny_checkpoint: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype="float32")


@pytest.fixture(scope="session")
def samples(chat: Chat) -> list[TrainSample]:
    """Twelve of the conversations, tokenised."""
    return [encode_sample(sample, chat, sample.turns, 2048) for sample in conversations(12)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a recipe with instruction data of its own, of which a training takes seconds."""
    root = tmp_path_factory.mktemp("recipe")
    path = root / "recipe.toml"
    few = "".join(f", num_{name} = 2" for name in ("pretrain", "interleaved", "specialist", "dev", "eval"))
    path.write_text(
        f"""
        name = "small"
        runs_dir = "{root}/runs"
        sft = {{ learning_rate = 1e-3, batch_size = 6, micro_batch_size = 2 }}
        data.sft = "{root}/data/sft"
        data.text = "{root}/data/text"
        world = {{ num_sft = 12, num_text = 5{few} }}
        """
    )
    write_world(load_recipe(path), root / "data")
    return path
