"""The loss of every stage, and the tensors it is computed from.

Shapes: B sequences of S tokens, T trained tokens of them, V vocabulary entries; K sources.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from vila2cli.model.chat import IGNORE_INDEX, Chat, collate
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, EncodedImage, Turn
from vila2cli.train.data import TrainSample
from vila2cli.train.features import TowerFeatures
from vila2cli.train.packing import join

_BLANK_SIDE = 32


class Objective(nn.Module):
    """A model with its summed next-token loss as `forward`, so that any wrapper sees one call."""

    def __init__(self, model: PreTrainedModel, features: TowerFeatures | None, num_sources: int = 1) -> None:
        super().__init__()
        self.model = model
        self._features, self._num_sources = features, num_sources

    def tie_weights(self) -> None:
        """Tie the model's weights again, which accelerate's FSDP2 loads one by one."""
        self.model.tie_weights()

    def forward(
        self, batch: dict[str, Tensor], image_keys: Sequence[str], sample_lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum over the trained tokens of -log p, a scalar, and the part of each source in it, K.

        Logits are made for trained tokens only. `sample_lengths` are those of samples packed into one
        sequence, for kernels that go by them.
        """
        batch = dict(batch)
        labels_BS, sources_BS = batch.pop("labels"), batch.pop("sources")
        if self._features is not None and image_keys:
            batch["inputs_embeds"] = self._features.embed(batch.pop("input_ids"), image_keys)
        lengths = {} if sample_lengths is None else {"sample_lengths": sample_lengths}
        hidden_BSD = self.model.model(**batch, **lengths, use_cache=False).last_hidden_state
        targets_BS = labels_BS[:, 1:]
        trained_BS = targets_BS != IGNORE_INDEX
        logits_TV = self.model.get_output_embeddings()(hidden_BSD[:, :-1][trained_BS])
        losses_T = nn.functional.cross_entropy(logits_TV.float(), targets_BS[trained_BS], reduction="none")
        by_source_K = losses_T.new_zeros(self._num_sources)
        by_source_K.index_add_(0, sources_BS[:, 1:][trained_BS], losses_T.detach())
        return losses_T.sum(), by_source_K


@dataclass(frozen=True, slots=True)
class Loaded:
    """A forward pass before it is on the device: its tensors, its images' keys, and the samples in it."""

    tensors: dict[str, Tensor]
    keys: list[str]
    samples: tuple[TrainSample, ...]
    sample_lengths: tuple[int, ...] | None  # where all of them are in one sequence


@dataclass(frozen=True, slots=True)
class Batcher:
    """Makes the tensors of a forward pass from its samples.

    Packed samples share a sequence; `in_one` joins all sequences of a pass, for kernels that need no
    padding. `stand_in` is put into passes without any image, so that the tower runs in every process.
    """

    chat: Chat
    features: TowerFeatures | None = None
    is_packed: bool = False
    in_one: bool = False
    stand_in: TrainSample | None = None

    def load(self, sequences: Sequence[Sequence[tuple[TrainSample, int]]]) -> Loaded:
        """The tensors of sequences of samples, each with the number of its source."""
        if not any(sample.images for members in sequences for sample, _ in members) and self.stand_in:
            sequences = [*sequences, [(self.stand_in, 0)]]
        pad_id = self.chat.tokenizer.pad_token_id or 0
        pairs = [[(sample.ids, sample.labels) for sample, _ in members] for members in sequences]
        sources = [
            [(sample.ids, [source] * len(sample.ids)) for sample, source in members] for members in sequences
        ]
        if self.is_packed:
            rows: dict[str, Any] = join(pairs, pad_id, in_one=self.in_one)
            rows["sources"] = join(sources, pad_id, in_one=self.in_one)["labels"]
        else:
            rows = dict(collate([pair for (pair,) in pairs], pad_id))
            rows["sources"] = collate([pair for (pair,) in sources], pad_id)["labels"]
        tensors = {name: torch.tensor(values) for name, values in rows.items()}
        samples = tuple(sample for members in sequences for sample, _ in members)
        keys = [f"{sample.key}/{i}" for sample in samples for i in range(len(sample.images))]
        if self.features is None:
            tensors |= self.chat.pixel_inputs([sample.decoded() for sample in samples])
        lengths = tuple(len(sample.ids) for sample in samples) if self.is_packed and self.in_one else None
        return Loaded(tensors, keys, samples, lengths)

    def place(self, loaded: Loaded, device: torch.device) -> tuple[dict[str, Tensor], list[str]]:
        """The model's inputs on the device, and the keys of the images whose features are kept (else none)."""
        tensors = {name: value.to(device, non_blocking=True) for name, value in loaded.tensors.items()}
        if self.features is None:
            return tensors, []
        missing = [s for s in loaded.samples if s.images and f"{s.key}/0" not in self.features]
        if missing:
            new = [f"{sample.key}/{i}" for sample in missing for i in range(len(sample.images))]
            pixels = self.chat.pixel_inputs([[image] for sample in missing for image in sample.decoded()])
            self.features.add(new, pixels)
        return tensors, loaded.keys


def stand_in(chat: Chat) -> TrainSample:
    """A blank image with a word about it of which no token is trained."""
    stream = io.BytesIO()
    Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE), (127, 127, 127)).save(stream, "PNG")
    turns = [Turn("user", IMAGE_PLACEHOLDER), Turn("assistant", "grey")]
    ids, labels = chat.train_ids(turns, [Image.open(stream).copy()])
    return TrainSample("stand-in", ids, [IGNORE_INDEX] * len(labels), [EncodedImage(stream.getvalue(), "png")])
