"""A vision tower and an LLM joined by a new projector: what every round starts from.

The result is a stock `Idefics3ForConditionalGeneration`: SigLIP-style tower, 2 x 2 pixel shuffle,
linear projector, Llama-style LLM. VILA^2-8B joins SigLIP-so400m and Llama-3-8B by the same four-fold
reduction of image tokens (VILA^2 section 3).
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedModel,
    SiglipVisionModel,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector, Idefics3VisionTransformer

from vila2cli.errors import ModelError
from vila2cli.model.checkpoint import resolve_model
from vila2cli.model.quiet import quiet_transformers
from vila2cli.model.templates import image_template
from vila2cli.settings import BaseSettings

SCALE_FACTOR = 2
"""Patches merged along each side by the pixel shuffle: four-fold fewer image tokens."""
IMAGE_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>")


def resolve_base(spec: str) -> Path:
    """The folder of a base model: "world:tower" and "world:llm" are shipped with the package."""
    if spec.startswith("world:"):
        return resolve_model(Path(__file__).parents[1] / "world" / "bases" / spec.removeprefix("world:"))
    return resolve_model(spec)


def build(base: BaseSettings, *, seed: int) -> tuple[PreTrainedModel, Any]:
    """Join the bases; returns the model, in training precision, and its processor.

    Only the projector is new: drawn by `seed`, at the scale of the word embeddings. Raises
    ModelError when a part cannot be read or the parts do not fit.
    """
    quiet_transformers()
    dtype = getattr(torch, base.dtype)
    tower = load_tower(resolve_base(base.vision_tower), base.image_size, dtype)
    llm, tokenizer = load_llm(resolve_base(base.llm), dtype)
    side, patch = tower.config.image_size, tower.config.patch_size
    if (side // patch) % SCALE_FACTOR or side % patch:
        raise ModelError(
            f"base.image_size = {side}: {side}/{patch} patches a side cannot be merged 2 x 2; "
            f"use a multiple of {patch * SCALE_FACTOR}, for example {side // (patch * 2) * patch * 2}"
        )
    tokenizer.add_special_tokens({"additional_special_tokens": list(IMAGE_TOKENS)})
    if len(tokenizer) > llm.config.vocab_size:
        llm.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    model = _join(tower, llm, tokenizer, seed=seed)
    return model.to(dtype), _processor(tokenizer, side, patch)


def load_tower(folder: Path, image_size: int, dtype: torch.dtype) -> Idefics3VisionTransformer:
    """An Idefics3 tower, or a SigLIP model's tower put into one (its tensors have the same names).

    With `image_size` the learned positions are interpolated to that resolution.
    """
    config = AutoConfig.from_pretrained(folder)
    vision = getattr(config, "vision_config", config)
    if config.model_type == "idefics3_vision":
        tower = Idefics3VisionTransformer.from_pretrained(folder, dtype=dtype)
    elif config.model_type in ("siglip", "siglip_vision_model"):
        source = SiglipVisionModel.from_pretrained(folder, dtype=dtype)
        fields = {k: v for k, v in vision.to_dict().items() if k != "model_type"}
        tower = Idefics3VisionTransformer(Idefics3VisionConfig(**fields)).to(dtype)
        state = {k.removeprefix("vision_model."): v for k, v in source.state_dict().items()}
        # SigLIP's attention-pooling head has no place among patch features.
        tower.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")})
    else:
        raise ModelError(
            f"{folder} is a {config.model_type} model; base.vision_tower takes SigLIP or Idefics3 towers"
        )
    if image_size and image_size != tower.config.image_size:
        _interpolate_positions(tower, image_size)
    return tower


def _interpolate_positions(tower: Idefics3VisionTransformer, image_size: int) -> None:
    embeddings = tower.embeddings
    old, new = embeddings.num_patches_per_side, image_size // embeddings.patch_size
    weight = embeddings.position_embedding.weight.data
    grid_1DHW = weight.view(1, old, old, -1).permute(0, 3, 1, 2).float()
    grid_1DHW = nn.functional.interpolate(grid_1DHW, (new, new), mode="bicubic", antialias=True)
    positions = grid_1DHW.permute(0, 2, 3, 1).reshape(new * new, -1).to(weight.dtype)
    tower.config.image_size = embeddings.image_size = image_size
    embeddings.num_patches_per_side = new
    embeddings.num_patches = embeddings.num_positions = new * new
    embeddings.position_embedding = nn.Embedding(new * new, positions.shape[1], _weight=positions)


def load_llm(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """A causal LLM and its tokenizer."""
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"base.llm {folder} cannot be loaded: {str(error).splitlines()[0]}") from None


def _join(
    tower: Idefics3VisionTransformer, llm: PreTrainedModel, tokenizer: Any, *, seed: int
) -> PreTrainedModel:
    config = Idefics3Config(
        vision_config=tower.config,
        text_config=llm.config,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE_FACTOR,
        tie_word_embeddings=llm.config.tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device("meta"):
        model = Idefics3ForConditionalGeneration(config)
    model.model.vision_model = tower
    model.model.text_model = llm.model
    model.lm_head = llm.lm_head
    connector = Idefics3Connector(config)
    # Normalised tower features have unit scale: this gives image tokens the scale of word embeddings.
    scale = llm.get_input_embeddings().weight.float().square().mean().sqrt().item()
    generator = torch.Generator().manual_seed(seed)
    for parameter in connector.parameters():
        nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5, generator=generator)
    model.model.connector = connector
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )
    return model


def _processor(tokenizer: Any, side: int, patch: int) -> Idefics3Processor:
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": side},
        max_image_size={"longest_edge": side},
        do_image_splitting=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    num_tokens = (side // patch // SCALE_FACTOR) ** 2
    return Idefics3Processor(
        image_processor, tokenizer, image_seq_len=num_tokens, chat_template=image_template(tokenizer)
    )
