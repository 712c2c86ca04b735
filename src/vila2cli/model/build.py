"""A vision tower and an LLM joined by a new projector: what every round starts from.

The result is a stock class of transformers, chosen by `base.architecture`:

    idefics3  SigLIP, 2 x 2 pixel shuffle, linear projector, Llama. VILA^2-8B joins SigLIP-so400m and
              Llama-3-8B by the same four-fold reduction of image tokens (VILA^2 section 3).
    llava     SigLIP or CLIP, linear or MLP projector, any LLM, a token per patch (VILA section 2).
    internvl  InternViT, pixel shuffle, LayerNorm and MLP, any LLM (VILA^2's 40B model).
    qwen2_5_vl, qwen3_vl  their own towers, a merger of 2 x 2 patches, Qwen2 or Qwen3: native resolution.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vila2cli.errors import ModelError, one_line
from vila2cli.model import native
from vila2cli.model.checkpoint import resolve_model
from vila2cli.model.llm_template import image_template
from vila2cli.model.loading import (
    LOAD_ERRORS,
    NO_CODE,
    cast,
    lacking,
    load_whole,
    quiet_transformers,
    reason,
    to_install,
)
from vila2cli.model.saving import with_ends
from vila2cli.model.tiles import cropping, cutting, splitting, tile_tokens
from vila2cli.model.towers import load_clip_like_tower, load_internvit, load_qwen_tower, load_tower
from vila2cli.settings import BaseSettings

SCALE_FACTOR = 2
"""Patches merged along each side by the pixel shuffle: four-fold fewer image tokens."""
IMAGE_TOKEN = "<image>"
IMAGE_TOKENS = (IMAGE_TOKEN, "<fake_token_around_image>", "<global-img>")
_OF_IDEFICS3 = ("vision_model", "connector", "text_model")
_OF_LLAVA = ("vision_tower", "multi_modal_projector", "language_model")
"""Names of tower, projector and LLM; InternVL's class has those of LLaVA's."""
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": IMAGE_TOKEN,
    "video_token": "<video>",
}


def resolve_base(spec: str) -> Path:
    """The folder of a base model: "world:tower" and "world:llm" are shipped with the package."""
    if spec.startswith("world:"):
        return resolve_model(Path(__file__).parents[1] / "world" / "bases" / spec.removeprefix("world:"))
    return resolve_model(spec)


def build(base: BaseSettings, *, seed: int) -> tuple[PreTrainedModel, Any]:
    """Join the bases; returns the model, in training precision, and its processor.

    New are the projector, drawn by `seed` at the scale of the word embeddings, and the embeddings of tokens
    that the LLM has no room for. Raises ModelError when a part cannot be read, the parts do not fit, or a
    package is missing.
    """
    quiet_transformers()
    make: dict[str, Callable[[BaseSettings, int], tuple[PreTrainedModel, Any]]] = {
        "idefics3": _idefics3,
        "llava": _llava,
        "internvl": _internvl,
        "qwen2_5_vl": _qwen_vl,
        "qwen3_vl": _qwen_vl,
    }
    return make[base.architecture](base, seed)


def load_llm(folder: Path, dtype: torch.dtype, **tokens: Any) -> tuple[PreTrainedModel, Any]:
    """A causal LLM and its tokenizer; raises ModelError when one cannot be loaded, or not whole."""
    llm = _llm(folder, dtype=dtype)
    _check_head(llm, folder)
    try:
        return llm, AutoTokenizer.from_pretrained(folder, **NO_CODE, **tokens)
    except LOAD_ERRORS as error:
        package = lacking(error, folder)
        why = (
            f"needs {package}: pip install {to_install(package)}"
            if package
            else f"cannot be loaded: {reason(error)}"
        )
        raise ModelError(f"base.llm {folder}: its tokenizer {why}") from None


def _check_head(llm: Any, folder: Path) -> None:
    """Raise ModelError for an LLM that does more to its logits than its head does, such as to cap them."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=llm.device)
    with torch.no_grad():
        logits = llm(input_ids=ids, use_cache=False).logits
        plain = llm.lm_head(llm.model(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.equal(logits, plain):
        raise ModelError(
            f"base.llm {folder}: a {type(llm).__name__} caps or scales its logits, which the joined model "
            "would not; give an LLM whose logits are what its head gives"
        )


def outline_llm(folder: Path) -> PreTrainedModel:
    """A causal LLM without its weights, whose names and shapes alone are read; raises ModelError as loading."""
    return _llm(folder, device_map="meta")


def _llm(folder: Path, **options: Any) -> PreTrainedModel:
    try:
        llm = load_whole(AutoModelForCausalLM, folder, what="as a causal LLM", **options)
    except ModelError as error:
        raise ModelError(f"base.llm {error}") from None
    head = getattr(llm, "lm_head", None)
    if not (isinstance(getattr(llm, "model", None), PreTrainedModel) and isinstance(head, nn.Linear)):
        raise ModelError(
            f"base.llm {folder}: a {type(llm).__name__} cannot be joined with a tower: its layers and its head "
            "are not `model` and `lm_head`, as in Llama; give an LLM that has these"
        )
    if head.bias is not None:
        raise ModelError(
            f"base.llm {folder}: the head of a {type(llm).__name__} has a bias, for which the joined model has "
            "no place; give an LLM without"
        )
    return llm


def _idefics3(base: BaseSettings, seed: int) -> tuple[PreTrainedModel, Any]:
    dtype = getattr(torch, base.dtype)
    tower = load_tower(resolve_base(base.vision_tower), base.image_size, dtype)
    llm, tokenizer = load_llm(resolve_base(base.llm), dtype)
    side, patch = tower.config.image_size, tower.config.patch_size
    _check_merges(side, patch)
    _add_tokens(llm, tokenizer, (*IMAGE_TOKENS, *tile_tokens(base.tiles)), seed)
    config = Idefics3Config(
        vision_config=tower.config,
        scale_factor=SCALE_FACTOR,
        pad_token_id=tokenizer.pad_token_id,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        **_text_fields(llm),
    )
    model = _joined(Idefics3ForConditionalGeneration, config, _OF_IDEFICS3, tower, llm, seed)
    image_processor = Idefics3ImageProcessorPil(
        **splitting(base.tiles, side), image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    processor = Idefics3Processor(
        image_processor,
        tokenizer,
        image_seq_len=(side // patch // SCALE_FACTOR) ** 2,
        chat_template=image_template(tokenizer, base.llm),
    )
    return _finished(model, llm, tokenizer, dtype), cutting(processor)


def _llava(base: BaseSettings, seed: int) -> tuple[PreTrainedModel, Any]:
    dtype = getattr(torch, base.dtype)
    folder = resolve_base(base.vision_tower)
    tower = load_clip_like_tower(folder, base.image_size, base.feature_layer, dtype)
    llm, tokenizer = load_llm(resolve_base(base.llm), dtype)
    side, patch = tower.config.image_size, tower.config.patch_size
    if side % patch:
        raise ModelError(
            f"base.image_size = {side} is not a multiple of the patch size {patch}; try {side // patch * patch}"
        )
    _add_tokens(llm, tokenizer, (IMAGE_TOKEN,), seed)
    has_class_token = tower.config.model_type == "clip_vision_model"
    strategy = "default" if has_class_token else "full"
    config = LlavaConfig(
        vision_config=tower.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(side // patch) ** 2,
        # As an activation between two layers, "linear" does nothing: see `_make_linear`.
        projector_hidden_act="linear" if base.projector == "linear" else "gelu",
        vision_feature_layer=-1,  # the layers above the requested one are cut off
        vision_feature_select_strategy=strategy,
        **_text_fields(llm),
    )
    model = _joined(LlavaForConditionalGeneration, config, _OF_LLAVA, tower, llm, seed)
    if base.projector == "linear":
        _make_linear(model.model.multi_modal_projector)
    processor = LlavaProcessor(
        _clip_like_images(side, has_class_token=has_class_token),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(has_class_token),
        image_token=IMAGE_TOKEN,
        chat_template=image_template(tokenizer, base.llm),
    )
    return _finished(model, llm, tokenizer, dtype), processor


def _clip_like_images(side: int, *, has_class_token: bool) -> Any:
    """An image processor that gives squares of this side, normalised as the tower learned it."""
    size = {"height": side, "width": side}
    if has_class_token:
        return CLIPImageProcessorPil(size=size, do_center_crop=False, crop_size=size)
    return SiglipImageProcessorPil(size=size, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])


def _internvl(base: BaseSettings, seed: int) -> tuple[PreTrainedModel, Any]:
    try:
        # Its image processor belongs to a processor with one for videos, which nothing else reads.
        from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
        from transformers.models.internvl.processing_internvl import InternVLProcessor
        from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
    except _IMPORT_ERRORS as error:
        raise _needs_torchvision(base, error) from None
    model, tokenizer = join_internvl(base, seed)
    side, num_tokens = model.config.vision_config.image_size[0], model.config.image_seq_length
    size = {"height": side, "width": side}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, **cropping(base.tiles)),
        tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=num_tokens,
        chat_template=image_template(tokenizer, base.llm),
    )
    return model, cutting(processor)


def join_internvl(base: BaseSettings, seed: int) -> tuple[PreTrainedModel, Any]:
    """The model and tokenizer of the internvl architecture; its processor needs torchvision."""
    dtype = getattr(torch, base.dtype)
    tower = load_internvit(resolve_base(base.vision_tower), base.image_size, dtype)
    llm, tokenizer = load_llm(resolve_base(base.llm), dtype, extra_special_tokens=INTERNVL_TOKENS)
    side, patch = tower.config.image_size[0], tower.config.patch_size[0]
    _check_merges(side, patch)
    _add_tokens(llm, tokenizer, (), seed)
    config = InternVLConfig(
        vision_config=tower.config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(side // patch // SCALE_FACTOR) ** 2,
        downsample_ratio=1 / SCALE_FACTOR,
        **_text_fields(llm),
    )
    model = _joined(InternVLForConditionalGeneration, config, _OF_LLAVA, tower, llm, seed)
    return _finished(model, llm, tokenizer, dtype), tokenizer


def _qwen_vl(base: BaseSettings, seed: int) -> tuple[PreTrainedModel, Any]:
    check_processor(base)
    model, tokenizer = join_qwen_vl(base, seed)
    template = image_template(tokenizer, base.llm, native.IMAGE)
    return model, native.make_processor(base, model.model.visual, tokenizer, template)


def check_processor(base: BaseSettings) -> None:
    """Raise ModelError where the processor of an architecture of native resolution lacks a package."""
    try:
        native.video_processor(base)
    except _IMPORT_ERRORS as error:
        raise _needs_torchvision(base, error) from None


def join_qwen_vl(base: BaseSettings, seed: int) -> tuple[Any, Any]:
    """The model and tokenizer of an architecture of native resolution; its processor needs torchvision."""
    dtype = getattr(torch, base.dtype)
    tower = load_qwen_tower(resolve_base(base.vision_tower), base.architecture, dtype)
    llm, tokenizer = load_llm(resolve_base(base.llm), dtype)
    _add_tokens(llm, tokenizer, tuple(native.TOKENS.values()), seed)
    model, mergers = native.put_together(base, tower, llm, tokenizer)
    for number, merger in enumerate(mergers):
        _draw(merger, llm, seed + number)
    return _finished(model, llm, tokenizer, dtype), tokenizer


_IMPORT_ERRORS = (ImportError, RuntimeError, OSError)


def _needs_torchvision(base: BaseSettings, error: Exception) -> ModelError:
    return ModelError(
        f'base.architecture = "{base.architecture}" needs a torchvision that fits torch, for its processor: '
        f"{one_line(error)}; pip install {to_install('torchvision')}, or use idefics3 or llava"
    )


def _check_merges(side: int, patch: int) -> None:
    if (side // patch) % SCALE_FACTOR or side % patch:
        raise ModelError(
            f"base.image_size = {side}: {side}/{patch} patches a side cannot be merged 2 x 2; "
            f"use a multiple of {patch * SCALE_FACTOR}, for example {side // (patch * 2) * patch * 2}"
        )


def _add_tokens(llm: PreTrainedModel, tokenizer: Any, tokens: tuple[str, ...], seed: int) -> None:
    """Make room for tokens; new rows are drawn by `seed` around the mean of the old ones."""
    if tokens:
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    if len(tokenizer) > llm.config.vocab_size:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            llm.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)


def _text_fields(llm: PreTrainedModel) -> dict[str, Any]:
    return {"text_config": llm.config, "tie_word_embeddings": llm.config.tie_word_embeddings}


def _joined(
    kind: Any, config: Any, names: tuple[str, str, str], tower: PreTrainedModel, llm: PreTrainedModel, seed: int
) -> Any:
    """A model of a class, with a projector drawn by `seed`; `names` are those of its three parts."""
    with torch.device("meta"):
        model = kind(config)
    projector = type(getattr(model.model, names[1]))(config)
    _draw(projector, llm, seed)
    for name, part in zip(names, (tower, projector, llm.model), strict=True):
        setattr(model.model, name, part)
    model.lm_head = llm.lm_head
    return model


def _draw(projector: nn.Module, llm: PreTrainedModel, seed: int) -> None:
    """Draw a projector: image tokens get the scale of word embeddings from tower features of unit scale."""
    scale = llm.get_input_embeddings().weight.float().square().mean().sqrt().item()
    generator = torch.Generator().manual_seed(seed)
    layers = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        std = layer.in_features**-0.5 * (scale if layer is layers[-1] else 1.0)
        nn.init.normal_(layer.weight, std=std, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _make_linear(projector: Any) -> None:
    """Leave one linear layer of the stock projector's two: the second one is the identity, and is never
    trained (see `freeze.is_idle`)."""
    with torch.no_grad():
        projector.linear_1.weight.mul_(projector.linear_2.weight.std() * projector.linear_2.in_features**0.5)
        nn.init.eye_(projector.linear_2.weight)
        nn.init.zeros_(projector.linear_2.bias)


def _finished(
    model: PreTrainedModel, llm: PreTrainedModel, tokenizer: Any, dtype: torch.dtype
) -> PreTrainedModel:
    """The joined model in its number format; the end tokens that the LLM's own config names stay such."""
    known = None if llm.generation_config is None else llm.generation_config.eos_token_id
    ends = with_ends(known, [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=(ends[0] if len(ends) == 1 else ends) or None,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )
    return cast(model, dtype)
