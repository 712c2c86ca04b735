"""A tiny Idefics3 with random weights, spread so that its captions depend on the picture."""

import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

SIDE = 64
SPECIAL = [
    "<pad>",
    "<s>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=800, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=2048,
    )


def build_random_vlm(folder: Path, *, context: int = 512, num_heads: int = 4) -> Path:
    """Save an Idefics3 of a million parameters (64 x 64 pixels, 16 image tokens) and its processor."""
    torch.manual_seed(1)
    rng = random.Random(0)
    kinds = ("circle", "square", "star", "triangle", "ring", "cross", "bar", "diamond")
    colours = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
    texts = [f"There is a large {rng.choice(colours)} {rng.choice(kinds)} at the top left." for _ in range(500)]
    tokenizer = tokenizer_of([*texts, *kinds, *colours, "user assistant system Describe the image in details."])
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
        ),
        tokenizer,
        image_seq_len=16,
        chat_template=TEMPLATE,
    )
    text = LlamaConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=num_heads,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = Idefics3VisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=8,
    )
    config = Idefics3Config(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    net = Idefics3ForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.1)
            elif "bias" in name:
                weight.normal_(0, 0.05)
    net.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(seed: int) -> Image.Image:
    """A 64 x 64 picture of three random discs, another one for every seed."""
    rng = random.Random(seed)
    image = Image.new("RGB", (SIDE, SIDE), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, size = rng.randrange(48), rng.randrange(48), rng.randrange(8, 32)
        draw.ellipse((x, y, x + size, y + size), fill=_colour(rng))
    return image


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)
