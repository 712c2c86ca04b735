"""Tiny random checkpoints of stock vision-language classes, each with its family's template and processor.

Two layers, 64 wide; weights are spread so that the text depends on the picture. Tokenizers are trained here;
templates, special tokens and processor settings are those of the released checkpoints, with pictures of
32 pixels in place of hundreds. All need torchvision, as most of their processors do.
"""

import importlib.util
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import GenerationConfig

import zoo_llava
import zoo_native
from vila2cli.model.saving import rename_for_vllm
from zoo_tokenizers import TOKENIZERS

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None

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
_BUILDERS = {**zoo_native.BUILDERS, **zoo_llava.BUILDERS}
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
    rename_for_vllm(target, type(net))  # as released checkpoints have them
    return target


_ENDS = {
    **{name: ["<|im_end|>", "<|endoftext|>"] for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
    "gemma3": ["<eos>", "<end_of_turn>"],
}
_SAMPLING: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"do_sample": True, "temperature": 0.01, "top_p": 0.001, "top_k": 1},
    "gemma3": {"do_sample": True, "top_p": 0.95, "top_k": 64},
}


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
