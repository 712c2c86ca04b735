"""Tokenizers with the special tokens of released checkpoints, trained on a few hundred lines."""

import functools
import json
import random
from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CONTEXT = 2048


def _texts() -> list[str]:
    rng = random.Random(0)
    colours = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
    kinds = ("circle", "square", "triangle", "star", "cross", "ring", "bar", "diamond")
    places = ["top left", "top right", "bottom left", "bottom right", "centre"]
    lines = [
        f"The image shows a {rng.choice(colours)} {rng.choice(kinds)} at the {rng.choice(places)}."
        for _ in range(800)
    ]
    words = (
        "user assistant system model User Assistant USER ASSISTANT Describe the image in detail. Yes No A B C D"
    )
    return [*lines, *[words] * 20, *[f'{{"score": {i}, "reason": "ok"}}' for i in range(100)]]


@functools.cache
def _bpe(kind: str, special: tuple[str, ...], bos: str | None) -> str:
    """A byte-level BPE, or one of words that begin with a mark as SentencePiece's, as the JSON of its file.

    `bos` is put before every text, where the family's tokenizer does so.
    """
    if kind == "bytes":
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet, tokens = pre_tokenizers.ByteLevel.alphabet(), list(special)
    else:
        bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        bpe.normalizer = normalizers.Replace(" ", "\u2581")
        if kind == "llama":
            bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), bpe.normalizer])
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        bpe.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
            + ([decoders.Strip(" ", 1, 0)] if kind == "llama" else [])
        )
        alphabet, tokens = [], [*special, *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_texts(), trainer)
    if kind != "bytes":  # the bytes are plain entries, not special tokens
        state = _without_added(bpe.to_str(), {f"<0x{i:02X}>" for i in range(256)})
        bpe = Tokenizer.from_str(state)
        bpe.pre_tokenizer = None  # merges decide; it only kept training within words
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if kind == "gemma":  # as Gemma's own has them, of which vLLM makes use
        bpe.add_tokens([AddedToken("\n" * num, normalized=False) for num in range(1, 5)])
    if bos is not None:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bpe.token_to_id(bos))]
        )
    return str(bpe.to_str())


def _without_added(state: str, tokens: set[str]) -> str:
    value = json.loads(state)
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] not in tokens]
    return json.dumps(value)


def _tokenizer(
    kind: str,
    special: str,
    *,
    bos: str | None,
    eos: str,
    pad: str,
    adds_bos: bool = False,
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer with the special tokens in a line of text, and `named` ones as attributes."""
    tokens = tuple(dict.fromkeys(["<unk>", *special.split()]))
    bpe = Tokenizer.from_str(_bpe(kind, tokens, bos if adds_bos else None))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token="<unk>" if kind != "bytes" else None,
        extra_special_tokens=named or {},
        padding_side="left",
        model_max_length=CONTEXT,
    )


def tokenizer_with(special: str, named: dict[str, str]) -> PreTrainedTokenizerFast:
    """One of bytes for a class that is not in the zoo, with ChatML's ends."""
    return _tokenizer("bytes", special, bos=None, eos="<|im_end|>", pad="<|endoftext|>", named=named)


QWEN = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
)
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "qwen": lambda: _tokenizer("bytes", QWEN, bos=None, eos="<|im_end|>", pad="<|endoftext|>"),
    "internvl": lambda: _tokenizer(
        "bytes",
        "<|endoftext|> <|im_start|> <|im_end|> <img> </img> <IMG_CONTEXT> <video>",
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "onevision": lambda: _tokenizer(
        "bytes",
        "<|endoftext|> <|im_start|> <|im_end|> <image> <video>",
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        named={"image_token": "<image>", "video_token": "<video>"},
    ),
    "llama": lambda: _tokenizer(
        "llama",
        "<s> </s> <pad> <image>",
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        adds_bos=True,
        named={"image_token": "<image>"},
    ),
    "gemma": lambda: _tokenizer(
        "gemma",
        "<pad> <eos> <bos> <start_of_turn> <end_of_turn> <start_of_image> <end_of_image> <image_soft_token>",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        adds_bos=True,
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "paligemma": lambda: _tokenizer(
        "gemma",
        "<pad> <eos> <bos> <image>",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        adds_bos=True,
        named={"image_token": "<image>"},
    ),
    "mistral": lambda: _tokenizer(
        "bytes",
        "<s> </s> <pad> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [IMG] [IMG_BREAK] [IMG_END]",
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        adds_bos=True,
    ),
    "smolvlm": lambda: _tokenizer(
        "bytes",
        "<|endoftext|> <|im_start|> <|im_end|> <end_of_utterance> <fake_token_around_image> <global-img> "
        "<image> " + " ".join(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        named={
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    ),
    "idefics3": lambda: _tokenizer(
        "bytes",
        "<|begin_of_text|> <|end_of_text|> <|finetune_right_pad_id|> <end_of_utterance> "
        "<fake_token_around_image> <image> <global-img>",
        bos="<|begin_of_text|>",
        eos="<end_of_utterance>",
        pad="<|finetune_right_pad_id|>",
        adds_bos=True,
        named={
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    ),
}
