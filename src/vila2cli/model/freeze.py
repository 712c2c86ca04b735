"""Which parameters belong to which part, and training only some parts (VILA table 1)."""

from collections.abc import Collection

from transformers import PreTrainedModel

from vila2cli.errors import ModelError
from vila2cli.settings import Part

PROJECTOR_NAMES = ("connector", "multi_modal_projector", "merger")
TOWER_NAMES = ("vision_model", "vision_tower", "visual")
ADAPTER_NAMES = ("lora_A", "lora_B")


def part_of(parameter_name: str) -> Part:
    """The part a parameter belongs to, by the names that the stock architectures use."""
    words = parameter_name.split(".")
    if any(word in ADAPTER_NAMES for word in words):
        return "lora"
    if any(word in PROJECTOR_NAMES for word in words):
        return "projector"
    return "vision_tower" if any(word in TOWER_NAMES for word in words) else "llm"


def is_idle(model: PreTrainedModel, parameter_name: str) -> bool:
    """Whether a parameter is in a stock class but takes no part here: LLaVA reads its tower before the last
    norm, and a linear projector is one layer of the class's two."""
    if model.config.model_type != "llava":
        return False
    words = parameter_name.split(".")
    is_linear = model.config.projector_hidden_act == "linear"
    return "post_layernorm" in words or (is_linear and "multi_modal_projector" in words and "linear_2" in words)


def freeze_all_but(model: PreTrainedModel, parts: Collection[Part]) -> dict[Part, int]:
    """Let only the named parts train; returns the number of trained parameters of each.

    Raises ModelError when a named part has no parameters in this architecture.
    """
    counts: dict[Part, int] = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        is_trained = part in counts and not is_idle(model, name)
        parameter.requires_grad_(is_trained)
        if is_trained:
            counts[part] += parameter.numel()
    if empty := [part for part, count in counts.items() if not count]:
        raise ModelError(f"{type(model).__name__} has no parameters of the part {empty[0]}")
    return counts
