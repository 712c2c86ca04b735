"""Tiny random towers and LLMs for the architectures of native resolution."""

from pathlib import Path

import torch
from transformers import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLVisionModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from vila2cli.settings import BaseSettings
from vila2cli.settings.base import PixelSettings
from zoo_native import _qwen_vision
from zoo_parts import HEAD_DIM, text_fields
from zoo_tokenizers import TOKENIZERS

ARCHITECTURES = ("qwen2_5_vl", "qwen3_vl")
PIXELS = PixelSettings(min=1024, max=16384)
"""4 to 64 tokens of 16 x 16 pixels."""


def settings_of(architecture: str, folder: Path) -> BaseSettings:
    """The `base` of an architecture, its tower and LLM saved below a folder."""
    tower, llm = folder / f"{architecture}-tower", folder / f"{architecture}-llm"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        _spread(_tower(architecture)).save_pretrained(tower)
        tokenizer = TOKENIZERS["qwen"]()
        _spread(_llm(architecture)).save_pretrained(llm)
        tokenizer.save_pretrained(llm)
    return BaseSettings.model_validate(
        {
            "architecture": architecture,
            "vision_tower": str(tower),
            "llm": str(llm),
            "projector": "mlp",
            "pixels": PIXELS.model_dump(),
        }
    )


def _tower(architecture: str) -> torch.nn.Module:
    sizes = {"hidden_size": 48, "intermediate_size": 96, "out_hidden_size": 96}  # of another LLM than ours
    if architecture == "qwen2_5_vl":
        more = {"window_size": 32, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        config = Qwen2_5_VLVisionConfig(**_qwen_vision(**sizes, **more))
        return Qwen2_5_VisionTransformerPretrainedModel(config)
    more = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLVisionModel(Qwen3VLVisionConfig(**_qwen_vision(**sizes, **more)))


def _llm(architecture: str) -> torch.nn.Module:
    tokenizer = TOKENIZERS["qwen"]()
    if architecture == "qwen2_5_vl":
        return Qwen2ForCausalLM(Qwen2Config(**text_fields(tokenizer, tie_word_embeddings=True)))
    fields = text_fields(tokenizer, head_dim=HEAD_DIM, tie_word_embeddings=False)
    return Qwen3ForCausalLM(Qwen3Config(**fields))


def _spread(net: torch.nn.Module) -> torch.nn.Module:
    """Weights so far apart that answers depend on the picture."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.03 if "embed_tokens" in name else 0.15)
            elif "bias" in name:
                weight.normal_(0, 0.05)
    return net
