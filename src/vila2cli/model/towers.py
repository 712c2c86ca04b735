"""Vision towers as the classes that each architecture puts them into.

Idefics3's tower and SigLIP's compute the same from tensors of the same names, so either stands for the
other; CLIP's, InternViT and those of Qwen-VL go into their own classes only.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPVisionModel,
    InternVLVisionModel,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

from vila2cli.errors import ModelError
from vila2cli.model.loading import LOAD_ERRORS, NO_CODE, load_whole, reason

_SIGLIP = ("siglip", "siglip_vision_model")
_CLIP = ("clip", "clip_vision_model")
_CLASSES: dict[str, Any] = {
    **dict.fromkeys(_SIGLIP, SiglipVisionModel),
    **dict.fromkeys(_CLIP, CLIPVisionModel),
    "idefics3_vision": Idefics3VisionTransformer,
    "internvl_vision": InternVLVisionModel,
    "internvl": AutoModelForImageTextToText,
    "qwen2_5_vl_vision": "Qwen2_5_VisionTransformerPretrainedModel",
    "qwen2_5_vl": AutoModelForImageTextToText,
    "qwen3_vl_vision": "Qwen3VLVisionModel",
    "qwen3_vl": AutoModelForImageTextToText,
}
"""The class that reads a tower, by the model_type of its config; by name where importing it takes long."""
_TAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "idefics3": (("idefics3_vision", *_SIGLIP), "SigLIP or Idefics3 towers"),
    "llava": (("idefics3_vision", *_SIGLIP, *_CLIP), "SigLIP, CLIP or Idefics3 towers for llava"),
    "internvl": (("internvl_vision", "internvl"), "InternViT towers for internvl"),
    **{
        name: ((f"{name}_vision", name), f"towers of {name}, alone or in a whole model")
        for name in ("qwen2_5_vl", "qwen3_vl")
    },
}
"""By architecture the kinds of towers that it takes, and how errors call them."""
_LOST_PREFIXES = ("head.", "vision_model.head.")
"""SigLIP's attention-pooling head has no place among patch features."""


def load_tower(folder: Path, image_size: int, dtype: torch.dtype) -> Idefics3VisionTransformer:
    """An Idefics3 tower, or a SigLIP model's tower put into one.

    With `image_size` the learned positions are interpolated to that resolution.
    """
    tower = _loaded(folder, dtype, "idefics3")
    if not isinstance(tower, Idefics3VisionTransformer):
        patches = _patch_tensors(tower)
        tower = Idefics3VisionTransformer(Idefics3VisionConfig(**_fields(folder))).to(dtype)
        tower.load_state_dict(patches)
    _resize(tower, image_size)
    return tower


def load_clip_like_tower(folder: Path, image_size: int, layer: int, dtype: torch.dtype) -> PreTrainedModel:
    """A SigLIP or CLIP tower for LLaVA, which takes the output of one `layer`, -1 being the last.

    The layers above it are left out: nothing reads them, and a frozen or idle layer would still be
    stored and loaded. A tower of Idefics3 becomes SigLIP's.
    """
    tower = _loaded(folder, dtype, "llava")
    if not isinstance(tower, CLIPVisionModel):
        tower = _new_siglip(_fields(folder), tower, dtype)
    elif image_size:
        raise ModelError("base.image_size: a CLIP tower keeps its own; leave it 0")
    _resize(tower, image_size)
    _cut_above(tower, layer)
    return tower


def load_internvit(folder: Path, image_size: int, dtype: torch.dtype) -> PreTrainedModel:
    """An InternViT in its transformers form, alone or in an InternVL model."""
    tower = _loaded(folder, dtype, "internvl")
    if not isinstance(tower, InternVLVisionModel):
        tower = tower.model.vision_tower
    if image_size not in (0, tower.config.image_size[0]):
        raise ModelError(f"base.image_size = {image_size}: an InternViT keeps its own size; leave it 0")
    return tower


def load_qwen_tower(folder: Path, architecture: str, dtype: torch.dtype) -> PreTrainedModel:
    """The tower of a Qwen-VL `architecture`, alone or in a whole model, with that model's own mergers."""
    tower = _loaded(folder, dtype, architecture)
    visual: PreTrainedModel = tower.model.visual if tower.config.model_type == architecture else tower
    return visual


def outline_tower(folder: Path, architecture: str) -> PreTrainedModel:
    """A tower without its weights, whose names and shapes alone are read and checked.

    Raises ModelError as loading it for an architecture would.
    """
    outline: PreTrainedModel = _loaded(folder, torch.float32, architecture, device_map="meta")
    return outline


def _loaded(folder: Path, dtype: torch.dtype, architecture: str, **options: Any) -> Any:
    """A tower that an architecture takes, with all of its weights; raises ModelError that names the setting."""
    kinds, takes = _TAKES[architecture]
    kind = str(_config(folder).model_type)
    if kind not in kinds:
        raise ModelError(f"{folder} is a {kind} model; base.vision_tower takes {takes}")
    options |= {"what": "as a vision tower", "unused": _LOST_PREFIXES, "dtype": dtype}
    reader = _CLASSES[kind]
    try:
        reader = getattr(transformers, reader) if isinstance(reader, str) else reader
        return load_whole(reader, folder, **options)
    except ModelError as error:
        raise ModelError(f"base.vision_tower {error}") from None


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, **NO_CODE)
    except LOAD_ERRORS as error:
        raise ModelError(f"base.vision_tower {folder} cannot be loaded: {reason(error)}") from None


def _fields(folder: Path) -> dict[str, Any]:
    config = _config(folder)
    fields: dict[str, Any] = getattr(config, "vision_config", config).to_dict()
    return {name: value for name, value in fields.items() if name not in ("model_type", "architectures")}


def _patch_tensors(source: PreTrainedModel) -> dict[str, Any]:
    state = {name.removeprefix("vision_model."): tensor for name, tensor in source.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith(_LOST_PREFIXES)}


def _new_siglip(fields: dict[str, Any], source: PreTrainedModel, dtype: torch.dtype) -> SiglipVisionModel:
    known = SiglipVisionConfig().to_dict()
    own = {name: value for name, value in fields.items() if name in known}
    tower = SiglipVisionModel(SiglipVisionConfig(**own | {"vision_use_head": False})).to(dtype)
    tower.load_state_dict(_patch_tensors(source))
    return tower


def _resize(tower: PreTrainedModel, image_size: int) -> None:
    """Interpolate the learned positions of a tower without a class token to another resolution."""
    if not image_size or image_size == tower.config.image_size:
        return
    embeddings: Any = tower.embeddings
    old = tower.config.image_size // tower.config.patch_size
    new = image_size // embeddings.patch_size
    weight = embeddings.position_embedding.weight.data
    grid_1DHW = weight.view(1, old, old, -1).permute(0, 3, 1, 2).float()
    grid_1DHW = nn.functional.interpolate(grid_1DHW, (new, new), mode="bicubic", antialias=True)
    positions = grid_1DHW.permute(0, 2, 3, 1).reshape(new * new, -1).to(weight.dtype)
    tower.config.image_size = embeddings.image_size = image_size
    embeddings.num_patches_per_side = new
    embeddings.num_patches = embeddings.num_positions = new * new
    embeddings.position_embedding = nn.Embedding(new * new, positions.shape[1], _weight=positions)
    if hasattr(embeddings, "position_ids"):
        embeddings.register_buffer("position_ids", torch.arange(new * new).unsqueeze(0), persistent=False)


def _cut_above(tower: Any, layer: int) -> None:
    num_layers = tower.config.num_hidden_layers
    kept = num_layers + 1 + layer
    if not 0 < kept <= num_layers:
        raise ModelError(
            f"base.feature_layer = {layer}: the tower has {num_layers} layers; give -{num_layers} to -1"
        )
    tower.encoder.layers = tower.encoder.layers[:kept]
    tower.config.num_hidden_layers = kept
