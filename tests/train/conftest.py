"""Samples and models that several tests of training share."""

from pathlib import Path

import pytest
import torch
from conversing import conversations
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.model.chat import Chat
from vila2cli.train.data import TrainSample, encode_sample


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
