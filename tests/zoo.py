"""Tiny random checkpoints of stock vision-language classes, each with its family's template and processor.

Two layers, 64 wide; weights are spread so that the text depends on the picture. Tokenizers are trained here;
templates, special tokens and processor settings are those of the released checkpoints, with pictures of
32 pixels in place of hundreds. All need torchvision, as most of their processors do.
"""

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image, ImageDraw
from transformers import GenerationConfig, PreTrainedTokenizerFast

from zoo_templates import TEMPLATES
from zoo_tokenizers import CONTEXT, TOKENIZERS

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
SIDE, PATCH = 32, 8
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}

Builder = Callable[[PreTrainedTokenizerFast], tuple[Any, Any]]
_BUILDERS: dict[str, Builder] = {}
_TOKENIZER_OF = {
    "qwen2_vl": "qwen",
    "qwen2_5_vl": "qwen",
    "qwen3_vl": "qwen",
    "internvl3": "internvl",
    "gemma3": "gemma",
    "llava_1_5": "llama",
    "llava_next": "llama",
    "llava_onevision": "onevision",
    "smolvlm": "smolvlm",
    "idefics3": "idefics3",
    "pixtral": "mistral",
    "mistral3": "mistral",
    "paligemma": "paligemma",
}
NAMES = tuple(_TOKENIZER_OF)
"""The families that `build` knows."""


def build(name: str, folder: Path) -> Path:
    """Save the checkpoint of a family in `folder/NAME`, unless it is there, and return that folder."""
    target = folder / name
    if (target / "model.safetensors").exists():
        return target
    tokenizer = TOKENIZERS[_TOKENIZER_OF[name]]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net, processor = _BUILDERS[name](tokenizer)
        with torch.no_grad():
            for parameter, weight in net.named_parameters():
                if weight.ndim >= 2:
                    weight.normal_(0, 0.03 if "embed_tokens" in parameter else 0.15)
                elif "bias" in parameter:
                    weight.normal_(0, 0.05)
    net.float().eval()
    net.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(_ENDS.get(name, [str(tokenizer.eos_token)])),
        pad_token_id=tokenizer.pad_token_id,
        **_SAMPLING.get(name, {}),
    )
    target.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(target)
    net.save_pretrained(target)
    return target


_ENDS = {
    **{name: ["<|im_end|>", "<|endoftext|>"] for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
    "gemma3": ["<eos>", "<end_of_turn>"],
}
_SAMPLING: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"do_sample": True, "temperature": 0.01, "top_p": 0.001, "top_k": 1},
    "gemma3": {"do_sample": True, "top_p": 0.95, "top_k": 64},
}


def _family(function: Builder) -> Builder:
    _BUILDERS[function.__name__.removeprefix("_")] = function
    return function


def _text(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """The fields of a tiny LLM's configuration."""
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _vision(**more: Any) -> dict[str, Any]:
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


def _qwen_vision(**more: Any) -> dict[str, Any]:
    return {
        "depth": 2,
        "num_heads": 3,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        **more,
    }


def _qwen_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    ids = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _qwen_images() -> dict[str, Any]:
    """Native resolution: pictures are scaled to between 4 and 16 tokens of 16 x 16 pixels."""
    return {
        "size": {"shortest_edge": SIDE * SIDE, "longest_edge": 4 * SIDE * SIDE},
        "patch_size": PATCH,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }


@_family
def _qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        text_config=_text(tokenizer, rope_parameters=rope, tie_word_embeddings=False),
        vision_config=_qwen_vision(embed_dim=48, hidden_size=64, mlp_ratio=2),
        tie_word_embeddings=False,
        **_qwen_tokens(tokenizer),
    )
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**_qwen_images()),
        tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**_qwen_images()),
        chat_template=TEMPLATES["qwen2_vl"],
    )
    return transformers.Qwen2VLForConditionalGeneration(config), processor


@_family
def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_parameters=rope, tie_word_embeddings=True),
        vision_config=_qwen_vision(
            hidden_size=48,
            intermediate_size=96,
            out_hidden_size=64,
            window_size=32,
            fullatt_block_indexes=[1],
            tokens_per_second=2,
        ),
        tie_word_embeddings=True,
        **_qwen_tokens(tokenizer),
    )
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(**_qwen_images()),
        tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**_qwen_images()),
        chat_template=TEMPLATES["qwen2_vl"],
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


@_family
def _qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    rope = {
        "rope_type": "default",
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    config = transformers.Qwen3VLConfig(
        text_config=_text(tokenizer, head_dim=16, rope_parameters=rope, tie_word_embeddings=True),
        vision_config=_qwen_vision(
            hidden_size=48,
            intermediate_size=96,
            out_hidden_size=64,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1],
        ),
        tie_word_embeddings=True,
        **_qwen_tokens(tokenizer),
    )
    processor = transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(**_qwen_images(), **_HALF),
        tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(**_qwen_images()),
        chat_template=TEMPLATES["qwen3_vl"],
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


@_family
def _internvl3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """Up to four tiles and a thumbnail, because the processor says so; its image processor does not."""
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(
            **_vision(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH])
        ),
        text_config=transformers.Qwen2Config(**_text(tokenizer, tie_word_embeddings=False)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    images = transformers.GotOcr2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=False, min_patches=1, max_patches=4
    )
    processor = transformers.InternVLProcessor(
        images,
        tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size={"height": SIDE, "width": SIDE}),
        image_seq_length=4,
        chat_template=TEMPLATES["internvl3"],
    )
    return transformers.InternVLForConditionalGeneration(config), processor


@_family
def _gemma3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """Image tokens see each other; every other layer sees a window."""
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Gemma3Config(
        text_config=_text(
            tokenizer,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=True,
        ),
        vision_config=_vision(vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        tie_word_embeddings=True,
    )
    images = transformers.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}, **_HALF)
    processor = transformers.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=TEMPLATES["gemma3"]
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


def _clip(vision_layer: int = -2) -> dict[str, Any]:
    return {
        "vision_config": transformers.CLIPVisionConfig(**_vision(projection_dim=32)),
        "vision_feature_layer": vision_layer,
        "vision_feature_select_strategy": "default",
    }


@_family
def _llava_1_5(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = transformers.LlavaConfig(
        **_clip(),
        text_config=transformers.LlamaConfig(**_text(tokenizer, tie_word_embeddings=False)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["llava_1_5"],
    )
    return transformers.LlavaForConditionalGeneration(config), processor


@_family
def _llava_next(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    grids = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
    pinpoints = [[rows * SIDE, columns * SIDE] for rows, columns in grids]
    config = transformers.LlavaNextConfig(
        **_clip(),
        text_config=transformers.MistralConfig(
            **_text(tokenizer, sliding_window=None, tie_word_embeddings=False)
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=pinpoints,
    )
    processor = transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["llava_next"],
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


@_family
def _llava_onevision(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    pinpoints = [[rows * SIDE, columns * SIDE] for rows in range(1, 4) for columns in range(1, 4)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**_vision(vision_use_head=False)),
        text_config=transformers.Qwen2Config(**_text(tokenizer, tie_word_embeddings=True)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=True,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints, **_HALF),
        tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        chat_template=TEMPLATES["llava_onevision"],
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


@_family
def _smolvlm(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    config = transformers.SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**_vision()), **_idefics_fields(tokenizer, tied=False)
    )
    videos = transformers.SmolVLMVideoProcessor(
        size={"longest_edge": SIDE},
        video_sampling={"fps": 1, "max_frames": 4, "video_size": {"longest_edge": SIDE}},
    )
    processor = transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**_split_images(), **_HALF),
        tokenizer,
        video_processor=videos,
        image_seq_len=4,
        chat_template=TEMPLATES["smolvlm"],
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


@_family
def _idefics3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    config = transformers.Idefics3Config(
        vision_config=Idefics3VisionConfig(**_vision()), **_idefics_fields(tokenizer, tied=False)
    )
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessor(**_split_images(), **_HALF),
        tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATES["idefics3"],
    )
    return transformers.Idefics3ForConditionalGeneration(config), processor


def _idefics_fields(tokenizer: PreTrainedTokenizerFast, *, tied: bool) -> dict[str, Any]:
    return {
        "text_config": transformers.LlamaConfig(**_text(tokenizer, tie_word_embeddings=tied)),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "tie_word_embeddings": tied,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _split_images() -> dict[str, Any]:
    """Cut into up to 2 x 2 tiles beside the whole picture, four tokens each."""
    return {
        "size": {"longest_edge": 2 * SIDE},
        "max_image_size": {"longest_edge": SIDE},
        "do_image_splitting": True,
    }


def _pixtral_parts(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vision_config": transformers.PixtralVisionConfig(**_vision(image_size=2 * SIDE, head_dim=16)),
        "text_config": transformers.MistralConfig(
            **_text(tokenizer, head_dim=16, sliding_window=None, tie_word_embeddings=False)
        ),
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
        "vision_feature_layer": -1,
        "tie_word_embeddings": False,
    }


def _pixtral_processor(tokenizer: PreTrainedTokenizerFast, merge: int, template: str) -> Any:
    images = transformers.PixtralImageProcessor(size={"longest_edge": 2 * SIDE}, patch_size=PATCH)
    return transformers.PixtralProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        spatial_merge_size=merge,
        chat_template=TEMPLATES[template],
        image_token="[IMG]",
        image_break_token="[IMG_BREAK]",
        image_end_token="[IMG_END]",
    )


@_family
def _pixtral(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = transformers.LlavaConfig(**_pixtral_parts(tokenizer), vision_feature_select_strategy="full")
    return transformers.LlavaForConditionalGeneration(config), _pixtral_processor(tokenizer, 1, "pixtral")


@_family
def _mistral3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = transformers.Mistral3Config(**_pixtral_parts(tokenizer), spatial_merge_size=2)
    return transformers.Mistral3ForConditionalGeneration(config), _pixtral_processor(tokenizer, 2, "mistral3")


@_family
def _paligemma(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """No chat template: its processor puts image tokens before a prompt and a line end after it."""
    images = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, **_HALF)
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(images, tokenizer)  # adds tokens for places and segments
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(
            **_vision(vision_use_head=False, projection_dim=64, num_image_tokens=16)
        ),
        text_config=transformers.GemmaConfig(**_text(tokenizer, head_dim=16, tie_word_embeddings=True)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def picture(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Random discs on a plain ground, of an odd size that depends on the seed unless it is given."""
    rng = random.Random(seed)
    width, height = size or (rng.randrange(21, 160), rng.randrange(21, 160))
    image = Image.new("RGB", (width, height), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, side = rng.randrange(width), rng.randrange(height), rng.randrange(8, max(width, height))
        draw.ellipse((x, y, x + side, y + side), fill=_colour(rng))
    return image


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)
