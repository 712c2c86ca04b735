"""A processor that always pads, such as Aya Vision's, with a tokenizer that has no padding token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    GenerationConfig,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tiny_vlm import TEMPLATE
from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.shards.sample import Turn
from zoo_tokenizers import tokenizer_with

MARKS = "<image> <|START_OF_IMG|> <|END_OF_IMG|> <|IMG_PATCH|> <|IMG_LINE_BREAK|> TILE TILE_GLOBAL"
SIDES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PICTURES = [
    Image.linear_gradient("L").resize(size).convert("RGB") for size in ((90, 30), (20, 70), (3, 4), (48, 48))
]
QUESTIONS = ("What is shown?", "Describe the image in detail: is there a red circle?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiles = " ".join(f"TILE_{i}" for i in range(1, 5))
    tokenizer = tokenizer_with(f"<|endoftext|> <|im_start|> <|im_end|> {MARKS} {tiles}", {})
    config = AyaVisionConfig(
        text_config={
            "model_type": "cohere2",
            **SIDES,
            "hidden_size": 64,
            "head_dim": 32,
            "num_key_value_heads": 1,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "pad_token_id": None,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 24,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            **SIDES,
            "hidden_size": 48,
            "image_size": 32,
            "patch_size": 8,
        },
        alignment_intermediate_size=64,
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    torch.manual_seed(3)
    net = AyaVisionForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    net.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    tokenizer.pad_token = None
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    made = tmp_path_factory.mktemp("aya")
    net.save_pretrained(made)
    processor = AyaVisionProcessor(
        images, tokenizer, patch_size=8, img_size=32, downsample_factor=2, chat_template=TEMPLATE
    )
    processor.save_pretrained(made)
    return made


def test_answers_are_those_of_transformers(folder: Path) -> None:
    torch.set_num_threads(1)
    processor: Any = AutoProcessor.from_pretrained(folder)
    net: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    assert processor.tokenizer.pad_token is None
    asked = [(QUESTIONS[i % 2], image) for i, image in enumerate(PICTURES)]
    engine = open_engine("hf", folder, EngineSettings(dtype="float32"))
    requests = [
        Request(id=str(i), messages=(Turn("user", question),), images=(image,), max_new_tokens=8)
        for i, (question, image) in enumerate(asked)
    ]
    texts = {result.id: result.text for result in engine.generate(requests)}

    def theirs(question: str, image: Image.Image) -> str:
        parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": False},
        )
        with torch.inference_mode():
            ids = net.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
        return str(processor.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    assert [texts[str(i)] for i in range(len(asked))] == [theirs(*one) for one in asked]
    assert len(set(texts.values())) > 2
