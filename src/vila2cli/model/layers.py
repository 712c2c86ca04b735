"""The layers of a config's language model, which in some classes differ in their heads or their width."""

from collections.abc import Mapping
from math import gcd
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """A layer's attention heads, those of its keys and values, the width of a head, and the MLP's or 0."""

    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


def layers_of(config: Any) -> list[Layer]:
    """The layers of a config's language model; what a config does not say counts as one head of full width."""
    text = config.get_text_config()
    number = int(getattr(text, "num_hidden_layers", None) or 1)
    if not getattr(text, "is_heterogeneous", False):
        return [_layer(text, i) for i in range(number)]
    return [_layer(own, i) for i, own in enumerate(text.per_layer_config)]


def tower_heads(vision: Any) -> int:
    """The attention heads of a vision config, which all its layers divide into; 1 for unknown."""
    found = getattr(vision, "num_attention_heads", None) or getattr(vision, "num_heads", None) or 1
    return gcd(*found) if isinstance(found, list | tuple) else int(found)


def _layer(config: Any, i: int) -> Layer:
    heads = _number(config, "num_attention_heads", i) or 1
    kv_heads = _number(config, "num_key_value_heads", i) or heads
    head_dim = _number(config, "head_dim", i) or _number(config, "hidden_size", i) // heads
    return Layer(heads, kv_heads, head_dim, _number(config, "intermediate_size", i))


def _number(config: Any, name: str, i: int) -> int:
    """A number that is one for all layers or a list of one for each, 0 where there is none."""
    value = getattr(config, name, None)
    if isinstance(value, list | tuple):
        value = value[i] if i < len(value) else None
    return int(value or 0)


def context_length(config: Any) -> int:
    """Tokens that a checkpoint's language model has positions for."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31)


def turning_length(config: Any) -> int:
    """The tokens above which LongRoPE turns a whole batch's positions otherwise, 0 for a model without it."""
    stated = getattr(config.get_text_config(), "rope_parameters", None) or {}
    tables = [stated, *(table for table in stated.values() if isinstance(table, Mapping))]
    lengths = [
        table["original_max_position_embeddings"] for table in tables if table.get("rope_type") == "longrope"
    ]
    return int(min(lengths, default=0))
