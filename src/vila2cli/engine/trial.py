"""A trial of a checkpoint whose weights are there: whether it answers, sees the picture, and can be batched.

Shapes: B prompts, T tokens of their answers, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers import LogitsProcessorList

from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.model.loading import RUN_ERRORS
from vila2cli.model.reference import ASKED, SQUARE, TALL, WIDE, trial_picture
from vila2cli.shards.sample import Turn

_FAMILIES = """
    Gemma3 Idefics3 InternVL Llava LlavaNext LlavaOnevision Mistral3 PaliGemma Qwen2VL Qwen2_5_VL Qwen3VL
    SmolVLM
"""
_TESTED = frozenset(f"{name}ForConditionalGeneration" for name in _FAMILIES.split())
"""Classes whose batched answers are seen to equal transformers' own, one picture at a time, in the tests."""
_LLMS = """
    gemma gemma3_text llama mistral qwen2 qwen2_vl_text qwen2_5_vl_text qwen3 qwen3_vl_text
"""
_TESTED_LLMS = frozenset(_LLMS.split())
"""The language models in them there; such a class takes others, too, such as ones with a state."""
_ASKED_LONGER = (Turn("user", "What is shown in this picture? Tell it in one sentence."),)
_NUM_TOKENS = 3
_APART: tuple[type[Exception], ...] = (*RUN_ERRORS, DataError)
"""What is raised where prompts cannot be laid side by side, as with pictures in different numbers of tiles."""
Shown = tuple[tuple[Turn, ...], Image.Image]
Inputs = Callable[[Sequence[Shown]], dict[str, Any]]
"""The model's inputs for several questions about an image each."""


def try_out(net: Any, inputs_of: Inputs, *, is_batched: bool = True) -> bool:
    """Whether a model answers alike in a batch and alone; raises ModelError where it does not see pictures.

    Three tokens are made for seven prompts, of which three are in a batch: they are of different lengths, and
    one of the pictures is a square, which tiles and native resolutions need not fill up.
    """
    name = type(net).__name__
    wide, tall = (ASKED, trial_picture(WIDE)), (_ASKED_LONGER, trial_picture(TALL))
    square, other = (ASKED, trial_picture(SQUARE)), (ASKED, ImageOps.invert(wide[1]))
    try:
        inputs = [inputs_of([one]) for one in (wide, tall, square, other)]
        token = _token_of(inputs[0], net)
        alone = [_logits(net, one, token) for one in inputs]
    except DataError as error:
        raise ModelError(f"{name} cannot be asked about a picture: {one_line(error)}") from None
    except RUN_ERRORS as error:
        raise ModelError(f"{name} is not supported: it fails on a picture: {one_line(error)}") from None
    if torch.equal(alone[0], alone[3]):
        raise ModelError(f"{name} is not supported: its answers do not depend on the picture")
    if not is_batched:
        return False
    try:
        together = _logits(net, inputs_of([wide, tall, square]), token)
    except _APART:
        return False
    expected = torch.cat(alone[:3])
    is_finite = expected.isfinite()
    if not is_finite.any():  # which is told of every answer
        return True
    spread = expected[is_finite].std()
    return bool((together - expected).nan_to_num(0, 0, 0).abs().max() <= _tolerance(net) * spread)


def _tolerance(net: Any) -> float:
    """How far logits may lie apart in a batch, in parts of their spread.

    Half precision alone moves them, in deep models by more than some faults do, which what is tested has not.
    """
    if net.dtype == torch.float32:
        return 1e-3
    is_tested = type(net).__name__ in _TESTED and net.config.get_text_config().model_type in _TESTED_LLMS
    return 1.0 if is_tested else 0.1


def _token_of(inputs: dict[str, Any], net: Any) -> int:
    """A token of a prompt that ends no answer; the same one for all prompts, as their answers are compared."""
    ends = net.generation_config.eos_token_id
    return next((int(token) for token in inputs["input_ids"][0].flip(0) if token not in ends), 0)


@torch.inference_mode()
def _logits(net: Any, inputs: dict[str, Any], token: int) -> torch.Tensor:
    """The logits of the first tokens of each answer, B x T x V, where every answer repeats one token."""
    ids_BS = inputs["input_ids"]
    seen: list[torch.Size] = []

    def choose(ids: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape)
        forced_BV = torch.full_like(logits_BV, float("-inf"))
        forced_BV[:, token] = 0
        return forced_BV

    made = net.generate(
        **inputs,
        max_new_tokens=_NUM_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
        logits_processor=LogitsProcessorList([choose]),
    )
    if not seen:
        raise TypeError("its generate lets nobody else choose the tokens")
    if made.sequences.shape != (len(ids_BS), ids_BS.shape[1] + _NUM_TOKENS) or len(made.logits) != _NUM_TOKENS:
        raise TypeError("its generate does not return the prompt with the answer behind it")
    return torch.stack([logits_BV.float() for logits_BV in made.logits], dim=1)
