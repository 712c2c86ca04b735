"""Which parameters belong to which part, and training only some parts (VILA table 1)."""

import re
from collections.abc import Callable, Collection
from typing import Any

from transformers import PreTrainedModel

from vila2cli.errors import ModelError
from vila2cli.settings import Part

ADAPTER_NAMES = ("lora_A", "lora_B")
_IN_PROJECTORS = re.compile(r"merger|projector|connector|aligner|resampler|perceiver|qformer")
"""What a module that brings images to the LLM has in its name, be it inside the tower, as Qwen-VL's mergers."""
_TOWERS = re.compile(
    r"(^|\.)(visual|img_processor|\w*(_tower|vision_model|vision_encoder|audio_encoder)|vqmodel)$"
)


def part_of(parameter_name: str) -> Part:
    """The part of a parameter of which no more than its name is known, as that of an adapter's file."""
    words = parameter_name.split(".")
    if any(word in ADAPTER_NAMES for word in words):
        return "lora"
    if any(map(_IN_PROJECTORS.search, words)):
        return "projector"
    return "vision_tower" if any(map(_TOWERS.search, words)) else "llm"


def parts_of(model: PreTrainedModel) -> dict[str, Part]:
    """The part of every parameter, by the structure that the model's class gives.

    The LLM is its decoder with word embeddings and head. Towers are its encoders of images, and of what
    else there is, without their mergers. All between the two is the projector: tables of single tokens, too.
    """
    roots = _roots(model)
    parts: dict[str, Part] = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        words = name.split(".")
        inside = (".".join(words[:end]) for end in range(len(words), -1, -1))
        part: Part = next((roots[root] for root in inside if root in roots), "projector")
        if part == "vision_tower" and any(map(_IN_PROJECTORS.search, words)):
            part = "projector"
        parts[name] = "lora" if any(word in ADAPTER_NAMES for word in words) else part
    return parts


def _roots(model: PreTrainedModel) -> dict[str, Part]:
    """The modules, by name, that are towers or parts of the LLM; of two in each other the inner one counts."""
    names = {id(module): name for name, module in model.named_modules()}

    def name_of(find: Callable[[], Any]) -> str:
        try:
            found: str = names.get(id(find()), "")
        except (AttributeError, NotImplementedError):  # a class that says nothing of it
            return ""
        return found

    bases = {"", model.base_model_prefix}
    decoder = name_of(model.get_decoder)
    own = (decoder, name_of(model.get_input_embeddings), name_of(model.get_output_embeddings))
    roots: dict[str, Part] = {name: "llm" for name in own if name}
    inner = f"{decoder}." if decoder not in bases else None  # a tower inside the LLM proper is none
    for name in names.values():
        if _TOWERS.search(name) and not (inner and name.startswith(inner)):
            roots[name] = "vision_tower"
            if decoder and name.startswith(f"{decoder}."):  # what holds it beside the layers, as in Phi-4
                holder = ".".join(name.split(".")[: decoder.count(".") + 2])
                roots.setdefault(holder, "projector")
    encoder = name_of(lambda: model.get_encoder(modality="image"))
    if encoder not in {*bases, decoder}:
        roots[encoder] = "vision_tower"
    return roots


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
    places = parts_of(model)
    for name, parameter in model.named_parameters():
        part = places[name]
        is_trained = part in counts and not is_idle(model, name)
        parameter.requires_grad_(is_trained)
        if is_trained:
            counts[part] += parameter.numel()
    if empty := [part for part, count in counts.items() if not count]:
        raise ModelError(f"{type(model).__name__} has no parameters of the part {empty[0]}")
    return counts
