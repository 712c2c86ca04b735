"""Families with towers of their own or image tokens that see each other: Qwen-VL, InternVL, Gemma."""

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from zoo_parts import HALF, HEAD_DIM, PATCH, SIDE, text_fields, vision_fields
from zoo_templates import TEMPLATES


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


def _qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        text_config=text_fields(tokenizer, rope_parameters=rope, tie_word_embeddings=False),
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


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_fields(tokenizer, rope_parameters=rope, tie_word_embeddings=True),
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


def _qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    rope = {
        "rope_type": "default",
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    config = transformers.Qwen3VLConfig(
        text_config=text_fields(tokenizer, head_dim=HEAD_DIM, rope_parameters=rope, tie_word_embeddings=True),
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
        transformers.Qwen2VLImageProcessor(**_qwen_images(), **HALF),
        tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(**_qwen_images()),
        chat_template=TEMPLATES["qwen3_vl"],
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def _internvl3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """Up to four tiles and a thumbnail, because the processor says so; its image processor does not."""
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(
            **vision_fields(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH])
        ),
        text_config=transformers.Qwen2Config(**text_fields(tokenizer, tie_word_embeddings=False)),
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


def _gemma3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """Image tokens see each other; every other layer sees a window."""
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Gemma3Config(
        text_config=text_fields(
            tokenizer,
            head_dim=HEAD_DIM,
            query_pre_attn_scalar=HEAD_DIM,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=True,
        ),
        vision_config=vision_fields(vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        tie_word_embeddings=True,
    )
    images = transformers.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}, **HALF)
    processor = transformers.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=TEMPLATES["gemma3"]
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


def _paligemma(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """No chat template: its processor puts image tokens before a prompt and a line end after it."""
    images = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, **HALF)
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(images, tokenizer)  # adds tokens for places and segments
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(
            **vision_fields(vision_use_head=False, projection_dim=64, num_image_tokens=16)
        ),
        text_config=transformers.GemmaConfig(
            **text_fields(tokenizer, head_dim=HEAD_DIM, tie_word_embeddings=True)
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.PaliGemmaForConditionalGeneration(config), processor


BUILDERS = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl3": _internvl3,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
}
