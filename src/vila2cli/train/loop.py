"""The training loop of every stage: align, pretrain, SFT and specialists differ only in their settings.

Shapes: B sequences of S tokens, T trained tokens of them, V vocabulary entries; N images of P patches
with D channels.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from vila2cli.errors import ModelError
from vila2cli.model.chat import IGNORE_INDEX, Chat, collate
from vila2cli.model.freeze import freeze_all_but, part_of
from vila2cli.progress import Progress
from vila2cli.settings import Part, TrainSettings
from vila2cli.train.data import TrainSample, batches, num_batches
from vila2cli.train.features import TowerFeatures


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a stage did: optimizer steps, samples and tokens seen, mean loss of the last tenth of the steps."""

    num_steps: int
    num_samples: int
    num_tokens: int
    final_loss: float
    seconds: float


class Objective(nn.Module):
    """A model with its summed next-token loss as `forward`, so that any wrapper sees one call."""

    def __init__(self, model: PreTrainedModel, features: TowerFeatures | None) -> None:
        super().__init__()
        self.model = model
        self._features = features

    def forward(self, batch: dict[str, Tensor], image_keys: Sequence[str]) -> Tensor:
        """Sum over the trained tokens of -log p, a scalar; logits are made for those tokens only."""
        labels_BS = batch.pop("labels")
        if self._features is not None and image_keys:
            batch["inputs_embeds"] = self._features.embed(batch.pop("input_ids"), image_keys)
        hidden_BSD = self.model.model(**batch, use_cache=False).last_hidden_state
        targets_BS = labels_BS[:, 1:]
        trained_BS = targets_BS != IGNORE_INDEX
        logits_TV = self.model.get_output_embeddings()(hidden_BSD[:, :-1][trained_BS])
        return nn.functional.cross_entropy(logits_TV.float(), targets_BS[trained_BS], reduction="sum")


def fit(
    model: PreTrainedModel,
    chat: Chat,
    samples: Sequence[TrainSample],
    settings: TrainSettings,
    *,
    seed: int,
    progress: Progress,
    mixed_precision: str = "no",
    check_stop: Callable[[], None] = lambda: None,
) -> FitResult:
    """Train the parts named in `settings` on `samples`, in place.

    The loss is the mean over the trained tokens of the whole batch, however it is cut into
    micro-batches. The order of samples is decided by `seed`. Raises ModelError when the loss is no
    longer finite.
    """
    start = time.monotonic()
    accelerator = Accelerator(mixed_precision=mixed_precision)
    freeze_all_but(model, settings.train)
    torch.manual_seed(seed)
    model.train()
    features = (
        TowerFeatures(model) if settings.cache_features and "vision_tower" not in settings.train else None
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), weight_decay=settings.weight_decay)
    objective, optimizer = accelerator.prepare(Objective(model, features), optimizer)
    total = num_batches(len(samples), batch_size=settings.batch_size, epochs=settings.epochs)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(settings.warmup_ratio * total), total)
    losses: list[float] = []
    num_samples = num_tokens = 0
    order = batches(samples, batch_size=settings.batch_size, epochs=settings.epochs, seed=seed)
    for batch in order:
        check_stop()
        loss = _backward(accelerator, objective, chat, features, batch, settings)
        accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
        num_samples += len(batch)
        num_tokens += sum(len(sample.ids) for sample in batch)
        progress.advance(1, loss=loss)
    tail = losses[-max(1, total // 10) :]
    model.eval()
    return FitResult(total, num_samples, num_tokens, sum(tail) / len(tail), time.monotonic() - start)


def parameter_groups(model: PreTrainedModel, settings: TrainSettings) -> list[dict[str, Any]]:
    """The trained parameters by part, each group with the part's peak learning rate."""
    groups: dict[Part, list[nn.Parameter]] = {part: [] for part in settings.train}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name)].append(parameter)
    rates = settings.part_learning_rates
    return [
        {"params": parameters, "lr": rates.get(part, settings.learning_rate)}
        for part, parameters in groups.items()
    ]


def _backward(
    accelerator: Accelerator,
    objective: nn.Module,
    chat: Chat,
    features: TowerFeatures | None,
    batch: Sequence[TrainSample],
    settings: TrainSettings,
) -> float:
    """Add the gradients of a batch's mean loss per trained token, and return that loss."""
    num_trained = sum(label != IGNORE_INDEX for sample in batch for label in sample.labels)
    loss = 0.0
    for micro in micro_batches(batch, settings.micro_batch_size):
        tensors, keys = to_tensors(micro, chat, features, accelerator.device)
        part = objective(tensors, keys) / num_trained
        accelerator.backward(part)
        loss += part.item()
    if not math.isfinite(loss):
        raise ModelError(f"the loss is {loss}; lower the learning rate ({settings.learning_rate})")
    return loss


def micro_batches(batch: Sequence[TrainSample], size: int) -> list[list[TrainSample]]:
    """The batch in parts of at most `size` samples of about equal length; size 0 keeps it whole."""
    if not size or size >= len(batch):
        return [list(batch)]
    ordered = sorted(batch, key=lambda sample: len(sample.ids))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def to_tensors(
    batch: Sequence[TrainSample], chat: Chat, features: TowerFeatures | None, device: torch.device
) -> tuple[dict[str, Tensor], list[str]]:
    """The model's inputs for a batch, and the cache keys of its images in order (none without a cache)."""
    rows = collate([(s.ids, s.labels) for s in batch], chat.tokenizer.pad_token_id or 0)
    tensors = {name: torch.tensor(values, device=device) for name, values in rows.items()}
    keys = [f"{sample.key}/{i}" for sample in batch for i in range(len(sample.images))]
    if features is not None:
        missing = [sample for sample in batch if sample.images and f"{sample.key}/0" not in features]
        if missing:
            new = [f"{sample.key}/{i}" for sample in missing for i in range(len(sample.images))]
            features.add(new, chat.pixel_inputs([image for sample in missing for image in sample.decoded()]))
        return tensors, keys
    pixels: dict[str, Any] = chat.pixel_inputs([image for sample in batch for image in sample.decoded()])
    return tensors | {name: value.to(device) for name, value in pixels.items()}, []
