"""Randomly initialised captioners of a given shape: speed does not depend on what the weights are."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from vila2cli.model.build import IMAGE_TOKENS, SCALE_FACTOR, resolve_base


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a captioner: vision tower (SigLIP's names), language model (Llama's), and how it is run."""

    vision: dict[str, int]
    text: dict[str, Any]
    dtype: str
    picture_side: int


SIZES = {
    name: Size(**shape)
    for name, shape in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items()
}


def build_model(size: Size, folder: Path) -> Path:
    """Save a captioner of a size with random weights, unless it is there; returns its folder."""
    if (folder / "processor_config.json").is_file():  # written last
        return folder
    from vila2cli.model.llm_template import image_template  # which an earlier build may not have

    side, patch = size.vision["image_size"], size.vision["patch_size"]
    tokenizer = wide_tokenizer(size.text["vocab_size"])
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Idefics3Config(
        vision_config=Idefics3VisionConfig(**size.vision),
        text_config=LlamaConfig(**size.text, **ids),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE_FACTOR,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        net = Idefics3ForConditionalGeneration._from_config(config, dtype=getattr(torch, size.dtype))
    net.generation_config = GenerationConfig(**ids)
    net.save_pretrained(folder)
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": side}, max_image_size={"longest_edge": side}, do_image_splitting=False
        ),
        tokenizer,
        image_seq_len=(side // patch // SCALE_FACTOR) ** 2,
        chat_template=image_template(tokenizer),
    )
    processor.save_pretrained(folder)
    return folder


def wide_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """The embedded world's tokenizer with made-up words up to a vocabulary's size, so that every id is text."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_base("world:llm"))
    tokenizer.add_special_tokens({"additional_special_tokens": list(IMAGE_TOKENS)})
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    taken = len(tokenizer)
    state["model"]["vocab"] |= {f"Ġw{number}": number for number in range(taken, vocab_size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        extra_special_tokens=list(IMAGE_TOKENS),
        padding_side="left",
        model_max_length=8192,
        chat_template=tokenizer.chat_template,
    )
