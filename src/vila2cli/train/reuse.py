"""A phase that is the same in every round, trained once.

Each round starts from the same bases, and aligns their projector on the same original captions (VILA^2 sections
2.1 and 3), so that the weights after it are the same to the bit. They are kept by a digest of all that decides
them: the model's weights, the samples as they were tokenised, their images, and how they are trained.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from vila2cli.files import read_json, to_json_bytes, write_atomically
from vila2cli.model.freeze import parts_of
from vila2cli.settings import TrainSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.train.data import TrainSample
from vila2cli.train.distribution import Ranks


def trained_once(
    folder: Path,
    model: PreTrainedModel,
    samples: Iterable[TrainSample],
    settings: TrainSettings,
    recipe: Recipe,
    ranks: Ranks,
    train: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """The figures of a phase, trained by `train` or, to the bit, by an earlier stage that kept it in `folder`.

    A model in parts is always trained, as is one with adapters.
    """
    if ranks.launch.is_sharded or "lora" in settings.train:
        return train()
    tables = {"settings": settings, "trainer": recipe.trainer, "base": recipe.base}
    how: dict[str, Any] = {name: table.model_dump(mode="json") for name, table in tables.items()}
    how |= {"seed": recipe.seed, "processes": ranks.count}
    digest = ranks.first(lambda: digest_of(model, samples, how))
    weights, told = folder / f"{digest}.safetensors", folder / f"{digest}.json"
    if ranks.first(weights.is_file):
        with safe_open(weights, "pt") as file, torch.no_grad():
            parameters = dict(model.named_parameters())
            for name in file.keys():  # noqa: SIM118
                parameters[name].copy_(file.get_tensor(name))
        return {**read_json(told), "trained_before": True}
    figures = train()

    def keep() -> None:
        places = parts_of(model)
        tensors: dict[str, Tensor] = {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in model.named_parameters()
            if places[name] in settings.train
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(told, to_json_bytes(figures))  # before what says that it is there
        write_atomically(weights, save(tensors))

    ranks.first(keep)
    return figures


def digest_of(model: PreTrainedModel, samples: Iterable[TrainSample], how: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a phase's weights to the bit, on this machine's kind of processor."""
    found = hashlib.sha256(to_json_bytes({**how, **_machine()}))
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    for sample in samples:
        found.update(json.dumps([sample.ids, sample.labels, len(sample.images)]).encode())
        for image in sample.images:
            found.update(hashlib.sha256(image.data).digest())
    return found.hexdigest()


def _machine() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if cuda and os.environ.get("ACCELERATE_USE_CPU") != "true" else "",
    }
