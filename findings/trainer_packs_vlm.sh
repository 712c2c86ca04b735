#!/usr/bin/env bash
# transformers 5.19.0: Trainer keeps packed samples apart in Llama and Idefics3, and mixes them in LLaVA and InternVL.
#
# DataCollatorWithFlattening lays samples end to end, with positions that begin anew. From those PyTorch's attention,
# the default one, gets a mask that keeps samples apart, but only where no keys and values are cached; and a forward
# pass caches them unless it is told not to, in training too. Trainer turns `use_cache` off in the model's config. In
# some VLMs the language model goes by the config inside that one, where it stays on, so that each packed sample attends
# to all before it, pictures included, without an error or a warning. Seen, with random weights: another picture in the
# first sample moves logits of the second by over three times their spread in LLaVA under Trainer, other words do in
# InternVL, and nothing moves with gradient checkpointing, which is not meant to change a result, or with
# `use_cache=False` in the call. FlashAttention, which the guide to packing names, needs a GPU and was not tried.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 accelerate==1.15.0
cat >"$here/run.py" <<'PY'
import sys
import warnings

import torch
from transformers import (
    CLIPVisionConfig, DataCollatorWithFlattening, Idefics3Config, Idefics3ForConditionalGeneration, InternVLConfig,
    InternVLForConditionalGeneration, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration,
    PreTrainedModel, Trainer, TrainingArguments,
)

IMAGE, NUM_IMAGE_TOKENS = 4, 16
SIZES = {"intermediate_size": 128, "num_hidden_layers": 2, "initializer_range": 0.2}
TOWER = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "num_hidden_layers": 1, "patch_size": 8}


def of_kind(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    text = LlamaConfig(hidden_size=64, num_attention_heads=2, vocab_size=128, **SIZES)
    if kind == "llama":
        return LlamaForCausalLM(text)
    if kind == "internvl":
        tower = {**TOWER, "image_size": [32, 32], "patch_size": [8, 8]}
        return InternVLForConditionalGeneration(InternVLConfig(text_config=text.to_dict(), vision_config=tower))
    if kind == "idefics3":
        config = Idefics3Config(text_config=text.to_dict(), vision_config={**TOWER, "image_size": 32}, pad_token_id=0)
        return Idefics3ForConditionalGeneration(config)
    model = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=48, num_attention_heads=3, image_size=32, patch_size=8, projection_dim=32, **SIZES
        ),
        text_config=text.to_dict(), image_token_index=IMAGE, image_seq_length=NUM_IMAGE_TOKENS,
    ))
    for weight in model.model.multi_modal_projector.parameters():
        if weight.ndim > 1:  # small random weights would hide what the pictures do
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def pack(*samples: list[int]) -> dict[str, torch.Tensor]:
    packed = DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": ids} for ids in samples])
    assert sorted(packed) == ["input_ids", "labels", "position_ids"]
    return packed


def last_logits(trainer: Trainer, batch: dict[str, torch.Tensor], **options: bool) -> torch.Tensor:
    """Those of the last three tokens, which the second sample ends with."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, outputs = trainer.compute_loss(trainer.model.train(), {**batch, **options}, return_outputs=True)
    return outputs.logits[0, -3:].detach()


def moved(trainer: Trainer, batches: tuple[dict[str, torch.Tensor], ...], **options: bool) -> float:
    """How far another beginning moves the second sample, in units of its spread."""
    first, second = (last_logits(trainer, batch, **options) for batch in batches)
    return ((second - first).abs().max() / first.std()).item()


with_image = [1, *[IMAGE] * NUM_IMAGE_TOKENS]
pictures = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
seen = pack([*with_image, 10, 11, 2], [*with_image, 20, 21, 2])
shown = ({**seen, "pixel_values": pictures[:2]}, {**seen, "pixel_values": pictures[[2, 1]]})
written = (pack([1, 10, 11, 2], [1, 20, 21, 2]), pack([1, 12, 13, 2], [1, 20, 21, 2]))
for kind, mixes in (("llama", False), ("idefics3", False), ("llava", True), ("internvl", True)):
    model, batches = of_kind(kind), shown if kind == "llava" else written
    trainer = Trainer(model, TrainingArguments(sys.argv[1], use_cpu=True, report_to="none"))
    plain, uncached = moved(trainer, batches), moved(trainer, batches, use_cache=False)
    model.gradient_checkpointing_enable()
    checkpointed = moved(trainer, batches)
    print(f"{kind}: the second sample is moved by {plain:.2f}, with use_cache=False by {uncached:.2f}, "
          f"with gradient checkpointing by {checkpointed:.2f}")
    assert not model.config.use_cache, "this has changed"
    assert (plain > 1 if mixes else plain == 0) and uncached == checkpointed == 0, "this has changed"
PY
"$here/venv/bin/python" "$here/run.py" "$here/out"
