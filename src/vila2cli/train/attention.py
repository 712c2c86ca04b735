"""Which attention kernel the language model is trained with, and how it keeps packed samples apart.

Shapes: B sequences of S tokens, H heads of D channels.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from vila2cli.errors import ModelError, RecipeError

FLASH = "flash_attention_2"
BY_SAMPLE = "sdpa_by_sample"
"""SDPA once for each sample: no mask, no padding, and no work for pairs that do not see each other."""
_JOINING = (FLASH, BY_SAMPLE)


def choose_kernel(
    model: PreTrainedModel, wanted: str, device: torch.device, *, is_packed: bool, is_bf16: bool
) -> str:
    """The kernel that a language model is to be trained with; `wanted` as in `trainer.attention`.

    Flash attention where it can run, SDPA by sample for other packed batches, else the model's own. Raises
    RecipeError when flash attention is asked for where it cannot run.
    """
    can_flash = is_bf16 and device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    if wanted == FLASH and not can_flash:
        raise RecipeError(
            "trainer.attention = flash_attention_2 needs a CUDA device, base.dtype = bfloat16 and the "
            "flash-attn package: pip install 'vila2cli[flash]'"
        )
    if wanted != "auto":
        return wanted
    return FLASH if can_flash else BY_SAMPLE if is_packed else kernel_of(model)


def kernel_of(model: PreTrainedModel) -> str:
    """The attention kernel of a model's language part."""
    return str(model.config.get_text_config()._attn_implementation)


def set_kernel(model: PreTrainedModel, kernel: str) -> None:
    """Set the attention kernel of a model's language part; the tower keeps its own."""
    if kernel_of(model) != kernel:
        text = model.config.get_text_config()
        names = [name for name in model.config.sub_configs if getattr(model.config, name) is text]
        model.set_attn_implementation(dict.fromkeys(names, kernel) if names else kernel)


def describe_kernel(kernel: str, *, is_packed: bool) -> str:
    """The kernel in a line for the person at the terminal."""
    if not is_packed:
        return f"attention: {kernel}"
    ways = {FLASH: "its variable-length kernel", BY_SAMPLE: "a call for each"}
    how = ways.get(kernel, "a block-diagonal mask")
    return f"attention: {kernel}, packed samples are kept apart by {how}"


def joins_sequences(kernel: str) -> bool:
    """Whether packed sequences are best joined into one, because the kernel needs no mask and no padding."""
    return kernel in _JOINING


def attend_by_sample(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sample_lengths: Sequence[int] | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each of the samples that one sequence is packed from; returns B x S x H x D.

    A token of a layer with a sliding window sees that many tokens, itself among them.
    Raises ModelError when the model does not hand `sample_lengths` down to its attention.
    """
    if sample_lengths is None or query_BHSD.shape[0] != 1:
        raise ModelError(
            f'{type(module).__name__} is not told where packed samples begin; set trainer.attention = "sdpa"'
        )
    lengths = list(sample_lengths)
    parts = [torch.split(tensor, lengths, dim=2) for tensor in (query_BHSD, key_BHSD, value_BHSD)]
    attended = [
        nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=(mask := _window(query, sliding_window)),
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query_BHSD.shape[1] != key_BHSD.shape[1],
        )
        for query, key, value in zip(*parts, strict=True)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def _window(query_BHSD: Tensor, width: int | None) -> Tensor | None:
    """The mask S x S of a causal window, None where a sample is no longer than it."""
    length = query_BHSD.shape[2]
    if width is None or length <= width:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query_BHSD.device).tril().triu(1 - width)


AttentionInterface.register(BY_SAMPLE, attend_by_sample)
