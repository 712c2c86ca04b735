"""What differs from class to class in how a model is trained."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from vila2cli.train.data import TrainSample


class Axes:
    """Positions of three axes (time, height, width), as a class counts them for a sample by itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._index = model.model.get_rope_index
        self._known = inspect.signature(self._index).parameters

    def of(
        self,
        sample: TrainSample,
        types: Mapping[str, Sequence[int]],
        tensors: Mapping[str, Tensor],
        images: int,
    ) -> Tensor:
        """The positions of a sample, 3 x S; `images` is how many images of `tensors` come before its own."""
        num_tokens = len(sample.ids)
        if not sample.images:
            return torch.arange(num_tokens).expand(3, num_tokens)
        inputs: dict[str, Any] = {name: torch.tensor([values]) for name, values in types.items()}
        inputs["input_ids"] = torch.tensor([sample.ids])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["image_grid_thw"] = tensors["image_grid_thw"][images : images + len(sample.images)]
        known = {name: value for name, value in inputs.items() if name in self._known}
        positions_31S, _ = self._index(**known)
        positions_3S: Tensor = positions_31S[:, 0]
        return positions_3S


def has_axes(model: PreTrainedModel) -> bool:
    """Whether the class counts positions in three axes."""
    return hasattr(getattr(model, "model", None), "get_rope_index")


def begin_training(model: nn.Module) -> None:
    """Put a model into training, but for batch norms, which keep the statistics that they came with.

    Else what is made of a sample would depend on those beside it, and a tower change that is not trained.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is trained; the default is that of LLaVA, Idefics3 and InternVL.

    `has_own_logits`: it does more to logits than its head does, such as to cap them. `keeps_some_logits`:
    its forward pass makes them for chosen places alone. `packed_kernel`: the attention kernel that keeps packed
    samples apart, "" where none was looked for. `pad_id`: what fills up shorter sequences, masked.
    """

    has_own_logits: bool = False
    keeps_some_logits: bool = False
    packed_kernel: str = ""
    pad_id: int = 0
    axes: Axes | None = None
