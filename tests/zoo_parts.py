"""What the zoo's builders share: the registry of families, and the sizes of their parts."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from zoo_tokenizers import CONTEXT

SIDE, PATCH = 32, 8
HEAD_DIM = 32
"""The least that vLLM has a kernel for on CPU."""
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def text_fields(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """The fields of a tiny LLM's configuration."""
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def vision_fields(**more: Any) -> dict[str, Any]:
    """The fields of a tiny vision tower's configuration."""
    return {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": SIDE,
        "patch_size": PATCH,
        "num_channels": 3,
        **more,
    }
