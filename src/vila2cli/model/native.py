"""Qwen2.5-VL and Qwen3-VL made of a tower and an LLM of their families: pictures at their native resolution.

New is the projector, which the stock classes keep inside the tower: the merger of 2 x 2 patches, and of
Qwen3-VL those that feed layers of the LLM directly (DeepStack). The LLM's tensors go into the class's own text
model, which counts positions in three axes; on text alone it computes what the LLM does, which is seen to here.
"""

from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from vila2cli.errors import ModelError, one_line
from vila2cli.model.loading import LOAD_ERRORS
from vila2cli.settings.base import BaseSettings

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
"""What a chat template writes in the place of a picture."""
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
"""The tokens of pictures by the names that configs give their ids; the tokenizers of Qwen's LLMs have them."""
_ADDED_BIASES = tuple(f"self_attn.{name}_proj.bias" for name in "qkv")
"""Biases that the text model of Qwen2.5-VL has and an LLM may lack: 0 stands for none."""
_NUM_CHECKED = 16
_TOLERANCE = {torch.float32: 1e-4}
_ROUGH = 5e-2
"""By number format and for all others, how far logits may lie apart, in parts of the largest one."""


class _Family(NamedTuple):
    """Names of classes, and in sixteenths the share of a head's frequencies that each side's positions turn."""

    name: str
    video_processor: str
    side_share: int
    rope: dict[str, Any]
    mean: list[float] | None = None


_FAMILIES = {
    "qwen2_5_vl": _Family("Qwen2_5_VL", "Qwen2VLVideoProcessor", 6, {}),
    "qwen3_vl": _Family("Qwen3VL", "Qwen3VLVideoProcessor", 5, {"mrope_interleaved": True}, [0.5, 0.5, 0.5]),
}


def put_together(
    base: BaseSettings, tower: PreTrainedModel, llm: PreTrainedModel, tokenizer: Any
) -> tuple[Any, list[nn.Module]]:
    """The model of an architecture around a tower and an LLM that has room for `TOKENS`, and its new mergers.

    The weights of the mergers are still to be drawn. Raises ModelError where the parts do not fit.
    """
    family = _FAMILIES[base.architecture]
    kind = getattr(transformers, f"{family.name}ForConditionalGeneration")
    vision: Any = tower.config
    vision.out_hidden_size = llm.config.hidden_size
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
    try:
        config = getattr(transformers, f"{family.name}Config")(
            vision_config=vision,
            text_config=_text_config(kind.config_class.sub_configs["text_config"], llm.config, family),
            tie_word_embeddings=llm.config.tie_word_embeddings,
            **ids,
        )
        with torch.device("meta"):
            model = kind(config)
    except LOAD_ERRORS as error:
        raise ModelError(
            f"base.llm {base.llm}: a {type(llm).__name__} does not go into a {kind.__name__}: {one_line(error)}"
        ) from None
    mergers = _new_mergers(model.model.visual, tower)
    model.model.visual = tower
    _move_text(model, llm, base)
    if len(getattr(vision, "deepstack_visual_indexes", ())) > llm.config.num_hidden_layers:
        raise ModelError(
            f"base.llm {base.llm}: it has fewer layers than {base.vision_tower} feeds directly (DeepStack)"
        )
    return model, mergers


def make_processor(base: BaseSettings, tower: Any, tokenizer: Any, template: str) -> Any:
    """The stock processor, whose bounds of pixels are those of the recipe; raises ModelError for odd bounds."""
    family, vision = _FAMILIES[base.architecture], tower.config
    side = vision.patch_size * vision.spatial_merge_size
    if base.pixels.max < side * side:
        raise ModelError(
            f"base.pixels.max = {base.pixels.max} is less than one token takes, {side} x {side} pixels"
        )
    sizes = {
        "size": {"shortest_edge": base.pixels.min, "longest_edge": base.pixels.max},
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        **({"image_mean": family.mean, "image_std": family.mean} if family.mean else {}),
    }
    make = getattr(transformers, f"{family.name}Processor")
    images = transformers.Qwen2VLImageProcessor(**sizes)
    return make(images, tokenizer, video_processor=video_processor(base, **sizes), chat_template=template)


def video_processor(base: BaseSettings, **sizes: Any) -> Any:
    """The processor for videos, which the one for pictures is not made without; needs torchvision."""
    return getattr(transformers, _FAMILIES[base.architecture].video_processor)(**sizes)


def _text_config(kind: Any, own: Any, family: _Family) -> Any:
    """The config of the class's text model: the LLM's own values, and a share of frequencies for each axis."""
    values = own.to_dict()
    heads = own.num_attention_heads
    half = (getattr(own, "head_dim", None) or own.hidden_size // heads) // 2
    side = half * family.side_share // 16
    rope = {**own.rope_parameters, "mrope_section": [half - 2 * side, side, side], **family.rope}
    known = kind().to_dict().keys() - {"model_type", "architectures", "transformers_version", "rope_parameters"}
    return kind(**{name: values[name] for name in known if name in values}, rope_parameters=rope)


def _new_mergers(outline: Any, tower: Any) -> list[nn.Module]:
    """Put mergers as an outline of the tower has them in the place of the tower's own; returns them."""
    made = []
    for name, module in outline.named_children():
        if "merger" in name:
            new = module.to_empty(device=tower.device).to(tower.dtype)
            for part in new.modules():
                if not isinstance(part, nn.Linear):  # norms; linear layers are drawn by the caller
                    for which, values in part.named_parameters(recurse=False):
                        nn.init.constant_(values, float(which == "weight"))
            setattr(tower, name, new)
            made += list(new) if isinstance(new, nn.ModuleList) else [new]
    return made


def _move_text(model: Any, llm: Any, base: BaseSettings) -> None:
    """Give the class's text model the LLM's tensors; raises ModelError where it does not compute the same."""
    text, name = model.model.language_model, f"base.llm {base.llm}: a {type(llm).__name__}"
    tensors = llm.model.state_dict()
    for key, wanted in text.state_dict().items():
        if key not in tensors and key.endswith(_ADDED_BIASES):
            tensors[key] = torch.zeros(wanted.shape, dtype=llm.dtype, device=llm.device)
    try:
        text.load_state_dict(tensors, assign=True)
    except LOAD_ERRORS as error:
        raise ModelError(
            f"{name} is no LLM of {base.architecture}, whose text model has other weights: {one_line(error)}"
        ) from None
    text.rotary_emb = type(text.rotary_emb)(config=text.config)  # its tables are no weights
    text.embed_tokens, model.lm_head = llm.get_input_embeddings(), llm.lm_head
    ids = torch.arange(min(_NUM_CHECKED, llm.config.vocab_size), device=llm.device)[None]
    with torch.no_grad():
        ours, theirs = (one.eval()(input_ids=ids, use_cache=False).logits.float() for one in (model, llm))
    allowed = _TOLERANCE.get(llm.dtype, _ROUGH) * theirs.abs().max()
    windows = [getattr(one.config, "sliding_window", None) for one in (text, llm)]  # longer than what is tried
    if windows[0] != windows[1] or not (ours - theirs).abs().max() <= allowed:
        raise ModelError(f"{name} computes otherwise on text than the text model of {base.architecture} does")
