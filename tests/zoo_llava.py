"""LLaVA and its kin, Idefics3 and SmolVLM, Pixtral and Mistral3."""

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from zoo_parts import HALF, HEAD_DIM, PATCH, SIDE, text_fields, vision_fields
from zoo_templates import TEMPLATES


def _clip(vision_layer: int = -2) -> dict[str, Any]:
    return {
        "vision_config": transformers.CLIPVisionConfig(**vision_fields(projection_dim=32)),
        "vision_feature_layer": vision_layer,
        "vision_feature_select_strategy": "default",
    }


def _llava_1_5(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = transformers.LlavaConfig(
        **_clip(),
        text_config=transformers.LlamaConfig(**text_fields(tokenizer, tie_word_embeddings=False)),
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


def _llava_next(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    grids = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
    pinpoints = [[rows * SIDE, columns * SIDE] for rows, columns in grids]
    config = transformers.LlavaNextConfig(
        **_clip(),
        text_config=transformers.MistralConfig(
            **text_fields(tokenizer, sliding_window=None, tie_word_embeddings=False)
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


def _llava_onevision(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    pinpoints = [[rows * SIDE, columns * SIDE] for rows in range(1, 4) for columns in range(1, 4)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**vision_fields(vision_use_head=False)),
        text_config=transformers.Qwen2Config(**text_fields(tokenizer, tie_word_embeddings=True)),
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
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints, **HALF),
        tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        chat_template=TEMPLATES["llava_onevision"],
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _smolvlm(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    config = transformers.SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**vision_fields()), **_idefics_fields(tokenizer, tied=False)
    )
    videos = transformers.SmolVLMVideoProcessor(
        size={"longest_edge": SIDE},
        video_sampling={"fps": 1, "max_frames": 4, "video_size": {"longest_edge": SIDE}},
    )
    processor = transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**_split_images(), **HALF),
        tokenizer,
        video_processor=videos,
        image_seq_len=4,
        chat_template=TEMPLATES["smolvlm"],
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


def _idefics3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    config = transformers.Idefics3Config(
        vision_config=Idefics3VisionConfig(**vision_fields()), **_idefics_fields(tokenizer, tied=False)
    )
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessor(**_split_images(), **HALF),
        tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATES["idefics3"],
    )
    return transformers.Idefics3ForConditionalGeneration(config), processor


def _idefics_fields(tokenizer: PreTrainedTokenizerFast, *, tied: bool) -> dict[str, Any]:
    return {
        "text_config": transformers.LlamaConfig(**text_fields(tokenizer, tie_word_embeddings=tied)),
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
        "vision_config": transformers.PixtralVisionConfig(**vision_fields(image_size=2 * SIDE, head_dim=16)),
        "text_config": transformers.MistralConfig(
            **text_fields(tokenizer, head_dim=HEAD_DIM, sliding_window=None, tie_word_embeddings=False)
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


def _pixtral(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = transformers.LlavaConfig(**_pixtral_parts(tokenizer), vision_feature_select_strategy="full")
    return transformers.LlavaForConditionalGeneration(config), _pixtral_processor(tokenizer, 1, "pixtral")


def _mistral3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = transformers.Mistral3Config(**_pixtral_parts(tokenizer), spatial_merge_size=2)
    return transformers.Mistral3ForConditionalGeneration(config), _pixtral_processor(tokenizer, 2, "mistral3")


BUILDERS = {
    "llava_1_5": _llava_1_5,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "pixtral": _pixtral,
    "mistral3": _mistral3,
}
