"""`vila2 world base`: the world's tower and LLM from nothing, pretrained apart from each other.

Shapes: N pictures, P patches, G groups of 2 x 2 patches, D channels, L labels.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

from vila2cli.model.chat import IGNORE_INDEX, collate
from vila2cli.model.saving import writing
from vila2cli.run.progress import Progress
from vila2cli.run.results import StageResult
from vila2cli.world.base_data import LAYOUT_WORDS, labelled_pictures, reading_turns, tokenizer_texts
from vila2cli.world.scenes import SIDE
from vila2cli.world.tiny import WIDTH, new_llm, new_tokenizer, new_tower, text_ids

WARMUP_STEPS = 50
EARLY_SHARE = 0.3
"""Share of the LLM's steps on text that teaches looking up and little else."""


@dataclass(frozen=True, slots=True)
class BaseFigures(StageResult):
    """The tower's accuracy on new pictures, the LLM's last training loss, and the seconds of each."""

    tower_accuracy: float
    tower_seconds: float
    llm_loss: float
    llm_seconds: float


def build_bases(out: Path, *, seed: int = 0, tower_steps: int = 1200, llm_steps: int = 2400) -> BaseFigures:
    """Make both bases and write them, in bfloat16, to `out/tower` and `out/llm`."""
    figures: dict[str, float] = {}
    for name, build, steps in (("tower", build_tower, tower_steps), ("llm", build_llm, llm_steps)):
        start = time.monotonic()
        figures |= build(out / name, seed=seed, steps=steps)
        figures[f"{name}_seconds"] = round(time.monotonic() - start, 1)
    return BaseFigures(**figures)


def build_llm(out: Path, *, seed: int, steps: int, batch_size: int = 32) -> dict[str, float]:
    """Train the tokenizer and a Llama of one million parameters to read (`world/base_data.py`)."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer(tokenizer_texts(Random(f"tokenizer {seed}")))
    model = new_llm(tokenizer)
    random = Random(f"llm {seed}")
    loss = _optimise(
        "world base: llm",
        model,
        lambda step: _text_loss(model, tokenizer, random, batch_size, is_early=step < EARLY_SHARE * steps),
        steps=steps,
        learning_rate=2e-3,
        beta2=0.98,
    )
    with writing(out):
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)
    return {"llm_loss": loss}


def build_tower(out: Path, *, seed: int, steps: int, batch_size: int = 64) -> dict[str, float]:
    """Train a vision transformer of 0.6 million parameters by dense labelling of drawn pictures."""
    torch.manual_seed(seed)
    random = Random(f"tower {seed}")
    tower = new_tower(SIDE)
    labeller = DenseLabeller(tower, num_labels=len(LAYOUT_WORDS))
    _optimise(
        "world base: tower",
        labeller,
        lambda step: labeller(*_picture_batch(random, batch_size))[0],
        steps=steps,
        learning_rate=1.5e-3,
        beta2=0.999,
    )
    held_out = Random(f"tower test {seed}")
    with torch.inference_mode():
        tests = [labeller(*_picture_batch(held_out, 100))[1] for _ in range(10)]
    with writing(out):
        tower.to(torch.bfloat16).save_pretrained(out)
    return {"tower_accuracy": torch.cat(tests).mean().item()}


def _optimise(
    label: str,
    model: nn.Module,
    next_loss: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    beta2: float,
) -> float:
    """AdamW with a cosine schedule on endless batches; returns the loss smoothed over some 50 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, beta2), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP_STEPS, steps)
    smooth = 0.0
    with Progress(label, total=steps, unit="steps") as progress:
        for step in range(steps):
            loss = next_loss(step)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            smooth = 0.98 * smooth + 0.02 * loss.item() if step else loss.item()
            progress.advance(1, loss=smooth)
    return smooth


def _text_loss(model: nn.Module, tokenizer: Any, random: Random, num: int, *, is_early: bool) -> Tensor:
    """Mean loss over the answers' tokens of `num` new conversations, the shorter and the longer half apart."""
    conversations = (reading_turns(random, is_early=is_early) for _ in range(num))
    pool = sorted((text_ids(tokenizer, turns) for turns in conversations), key=lambda s: len(s[0]))
    halves = (pool[: num // 2], pool[num // 2 :])
    num_trained = [sum(label != IGNORE_INDEX for _, labels in half for label in labels) for half in halves]
    total = torch.zeros(())
    for half, weight in zip(halves, num_trained, strict=True):
        batch = collate(half, tokenizer.pad_token_id)
        inputs = {name: torch.tensor(rows) for name, rows in batch.items()}
        total = total + model(**inputs).loss * weight / sum(num_trained)
    return total


def _picture_batch(random: Random, num: int) -> tuple[Tensor, Tensor]:
    pixels, labels = labelled_pictures(random, num)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


class DenseLabeller(nn.Module):
    """A tower with one linear head that names what each 2 x 2 group of patches stands for.

    The head is the same at every place and linear, so what it reads is what a linear projector can
    read later.
    """

    def __init__(self, tower: Idefics3VisionTransformer, num_labels: int) -> None:
        super().__init__()
        self.tower = tower
        self.label = nn.Linear(4 * WIDTH, num_labels)

    def forward(self, pixels_NCHW: Tensor, labels_NG: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and for each picture the share of its 16 groups named right."""
        patches_NPD = self.tower(pixel_values=pixels_NCHW).last_hidden_state
        num, num_patches, width = patches_NPD.shape
        side = int(num_patches**0.5) // 2
        grid = patches_NPD.view(num, side, 2, side, 2, width).permute(0, 1, 3, 2, 4, 5)
        logits_NGL = self.label(grid.reshape(num, side * side, 4 * width))
        loss = nn.functional.cross_entropy(logits_NGL.flatten(0, 1), labels_NG.flatten())
        return loss, (logits_NGL.argmax(-1) == labels_NG).float().mean(1)
