"""The tiny stock architectures of the embedded world: tokenizer, Llama and SigLIP-style tower."""

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

from vila2cli.model.chat import IGNORE_INDEX
from vila2cli.model.templates import CHATML
from vila2cli.shards.sample import Turn

SPECIAL_TOKENS = ("<pad>", "<s>", "<unk>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 1024
WIDTH = 128


def new_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which three digits stay together and capitals inside a word stay apart."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r"\d{3}|[A-Z](?=[A-Z])|(?<=[A-Z])[A-Z]| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\d|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 64,  # room for the image tokens that joining with a tower adds
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        chat_template=CHATML,
    )


def new_llm(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 4 layers and 128 channels, head size 32."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    _scale_weights(model)
    _look_back(model)
    return model


def _scale_weights(model: LlamaForCausalLM) -> None:
    """Draw linear layers from N(0, 1 / fan-in) and tied embeddings from N(0, 0.1^2).

    The usual 0.02 is meant for widths of thousands: at 128 channels attention stays uniform for
    thousands of steps. Embeddings of 0.02 or of 0.3 learn to look words up later than those of 0.1.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)


LOOK_BACK_HEADS = 3
LOOK_BACK_SCORE = 36.0
"""Attention score of the word looked back to, before training."""


def _look_back(model: LlamaForCausalLM) -> None:
    """Start heads 0, 1 and 2 of the first layer attending to the word 1, 2 and 3 places back.

    Looking a word up needs a head that knows what stood before it (Olsson et al. 2022, "induction
    heads"); in a small model it takes most of the training to appear by itself. Key biases are the
    same at every place, query biases are the key's, turned by the rotary angle of the distance.
    """
    attention = model.model.layers[0].self_attn
    half = attention.head_dim // 2
    frequencies = model.model.rotary_emb.inv_freq
    scale = (LOOK_BACK_SCORE * attention.head_dim**0.5 / half) ** 0.5
    with torch.no_grad():
        for head in range(LOOK_BACK_HEADS):
            rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            angles = -(head + 1) * frequencies
            attention.q_proj.bias[rows] = scale * torch.cat([angles.cos(), angles.sin()])
            attention.k_proj.bias[rows] = scale * torch.cat([torch.ones(half), torch.zeros(half)])
            attention.q_proj.weight[rows] *= 0.1
            attention.k_proj.weight[rows] *= 0.1


def new_tower(side: int) -> Idefics3VisionTransformer:
    """A vision transformer of 3 layers and 128 channels with patches of 8 x 8 pixels."""
    config = Idefics3VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=side,
        patch_size=8,
    )
    return Idefics3VisionTransformer(config)


def text_ids(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """Ids and labels of a text-only conversation in the CHATML template; only answers are trained."""
    ids: list[int] = []
    labels: list[int] = []
    for turn in turns:
        head = tokenizer(f"<|im_start|>{turn.role}\n")["input_ids"]
        body = [*tokenizer(turn.text)["input_ids"], tokenizer.eos_token_id]
        tail = tokenizer("\n")["input_ids"]
        ids += head + body + tail
        trained = body if turn.role == "assistant" else [IGNORE_INDEX] * len(body)
        labels += [IGNORE_INDEX] * len(head) + trained + [IGNORE_INDEX] * len(tail)
    return ids, labels
