"""A LoRA adapter for tests, as peft writes it."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from vila2cli.train.lora import adapted_layers


def write_adapter(base: Path, folder: Path, *, seed: int, rank: int = 4) -> Path:
    """A LoRA adapter over the LLM of a checkpoint, with random weights that change what it answers."""
    import peft

    torch.manual_seed(seed)
    net = AutoModelForImageTextToText.from_pretrained(base, dtype="float32")
    names = adapted_layers(net, ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    model = peft.get_peft_model(net, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2)
    model.save_pretrained(folder)
    return folder
