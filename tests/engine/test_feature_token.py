"""A template that marks a picture by another token than its features replace, as Qianfan-OCR's does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    QianfanOCRProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tiny_vlm import TEMPLATE
from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.shards.sample import Turn
from zoo_tokenizers import tokenizer_with

SIDES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PICTURES = [
    Image.linear_gradient("L").resize(size).convert("RGB") for size in ((90, 30), (20, 70), (3, 4), (48, 48))
]
QUESTION = "What is shown?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tokenizer_with(
        "<|endoftext|> <|im_start|> <|im_end|> <img> </img> <IMG_CONTEXT> <image>",
        {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"},
    )
    config = QianfanOCRConfig(
        text_config={
            "model_type": "qwen3",
            **SIDES,
            "hidden_size": 64,
            "head_dim": 32,
            "num_key_value_heads": 1,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
        },
        vision_config={**SIDES, "hidden_size": 48, "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    torch.manual_seed(3)
    net = QianfanOCRForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    net.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    made = tmp_path_factory.mktemp("qianfan")
    net.save_pretrained(made)
    QianfanOCRProcessor(images, tokenizer, image_seq_length=4, chat_template=TEMPLATE).save_pretrained(made)
    return made


def test_answers_are_those_of_transformers(folder: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(folder)
    net: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def theirs(image: Image.Image) -> str:
        parts = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            ids = net.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
        return str(
            processor.tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ).strip()

    engine = open_engine("hf", folder, EngineSettings(dtype="float32"))
    asked = [
        Request(id=str(i), messages=(Turn("user", QUESTION),), images=(image,), max_new_tokens=8)
        for i, image in enumerate(PICTURES)
    ]
    texts = {result.id: result.text for result in engine.generate(asked)}
    assert [texts[str(i)] for i in range(len(PICTURES))] == [theirs(image) for image in PICTURES]
    assert len(set(texts.values())) > 2


def test_no_token_of_a_picture_is_trained(folder: Path) -> None:
    chat = Chat(AutoProcessor.from_pretrained(folder))
    ids, labels = chat.train_ids([Turn("user", QUESTION), Turn("assistant", "A bar.")], PICTURES[:1])
    assert ids.count(chat.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")) >= 4
    assert chat.image_token_id == chat.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert "A bar." in chat.tokenizer.decode([label for label in labels if label != IGNORE_INDEX])
