from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recaption_data import NUM_SAMPLES, NUM_SHARDS, jpeg, settings, write_broken

from tiny_vlm import build_random_vlm
from vila2cli.captioning.summary import CaptionSummary
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import TarWriter
from vila2cli.stages.recaption import recaption


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder: Path = build_random_vlm(tmp_path_factory.mktemp("vlm"))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"), NUM_SAMPLES)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many shards as `data` with five good samples each, to be captioned many times."""
    return write_shards(tmp_path_factory.mktemp("few"), 5)


def write_shards(folder: Path, num_samples: int) -> Path:
    for shard in range(NUM_SHARDS):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for index in range(num_samples):
                number = shard * num_samples + index
                tar.write_sample(f"{number:09}", {"jpg": jpeg(number), "txt": f"picture {number}".encode()})
            if shard == 1:
                write_broken(tar)
    return folder


@pytest.fixture
def run(data: Path, model: Path, tmp_path: Path) -> Callable[..., CaptionSummary]:
    def call(out: str = "layer", recipe: Recipe | None = None, **changes: Any) -> CaptionSummary:
        arguments = {"shards": [f"{data}/*.tar"], "model": model, "out": tmp_path / out, "round": 1}
        return recaption(recipe or settings(), **(arguments | changes))

    return call


@pytest.fixture
def overlong(data: Path, tmp_path: Path) -> Path:
    """Two shards; the alt-texts of the first fit no prompt."""
    folder = tmp_path / "overlong"
    for shard, alt_text in enumerate((b"red " * 600, b"red")):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for number in range(NUM_SAMPLES):
                tar.write_sample(f"{shard}-{number}", {"jpg": jpeg(number), "txt": alt_text})
    return folder
