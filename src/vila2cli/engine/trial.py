"""A trial of a class that the tests do not know: whether it answers, sees the picture, and can be batched."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers import LogitsProcessorList

from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.model.loading import RUN_ERRORS
from vila2cli.model.reference import TALL, WIDE, trial_picture

_FAMILIES = """
    Gemma3 Idefics3 InternVL Llava LlavaNext LlavaOnevision Mistral3 PaliGemma Qwen2VL Qwen2_5_VL Qwen3VL
    SmolVLM
"""
TESTED = frozenset(f"{name}ForConditionalGeneration" for name in _FAMILIES.split())
"""Classes whose batched answers are seen to equal transformers' own, one picture at a time, in the tests."""
Inputs = Callable[[Sequence[Image.Image]], dict[str, Any]]
"""The model's inputs for one question about each of several images."""


def try_out(net: Any, inputs_of: Inputs) -> bool:
    """Whether a model answers alike in a batch and alone; raises ModelError where it does not see pictures.

    One token is made for four prompts.
    """
    name = type(net).__name__
    if not net.can_generate():
        raise ModelError(f"{name} generates no text, so it cannot be asked; give another model")
    wide, tall = trial_picture(WIDE), trial_picture(TALL)
    try:
        alone = [_first_logits(net, inputs_of([image])) for image in (wide, tall, ImageOps.invert(wide))]
    except DataError as error:
        raise ModelError(f"{name} cannot be asked about a picture: {one_line(error)}") from None
    except RUN_ERRORS as error:
        raise ModelError(f"{name} is not supported: it fails on a picture: {one_line(error)}") from None
    if torch.equal(alone[0], alone[2]):
        raise ModelError(f"{name} is not supported: its answers do not depend on the picture")
    try:
        together = _first_logits(net, inputs_of([wide, tall]))
    except RUN_ERRORS:
        return False
    expected = torch.cat(alone[:2])
    spread = expected[expected.isfinite()].std()
    tolerance = 1e-3 if net.dtype == torch.float32 else 0.1
    return bool((together - expected).nan_to_num(0, 0, 0).abs().max() <= tolerance * spread)


@torch.inference_mode()
def _first_logits(net: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The logits of the first token of each answer, B x V."""
    seen: list[torch.Size] = []

    def see(ids_BS: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        seen.append(ids_BS.shape)
        return logits_BV

    made = net.generate(
        **inputs,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_logits=True,
        logits_processor=LogitsProcessorList([see]),
    )
    ids_BS = inputs["input_ids"]
    if not seen:
        raise TypeError("its generate lets nobody else choose the tokens")
    if made.sequences.shape != (len(ids_BS), ids_BS.shape[1] + 1) or not made.logits:
        raise TypeError("its generate does not return the prompt with the answer behind it")
    logits: torch.Tensor = made.logits[0].float()
    return logits
