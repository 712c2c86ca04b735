"""The loss of every stage, and the tensors it is computed from.

Shapes: B sequences of S tokens, T trained tokens of them, V vocabulary entries; K sources.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from vila2cli.image import decode_image
from vila2cli.model.chat import IGNORE_INDEX, Chat, collate
from vila2cli.model.ready import release
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, EncodedImage, Turn
from vila2cli.train.data import TrainSample, first_trained
from vila2cli.train.features import TowerFeatures
from vila2cli.train.manner import Manner
from vila2cli.train.packing import join, lay
from vila2cli.train.pictures import Showing

_BLANK_SIDE = 32


class Objective(nn.Module):
    """A model with its summed next-token loss as `forward`, so that any wrapper sees one call."""

    def __init__(
        self,
        model: PreTrainedModel,
        features: TowerFeatures | None,
        num_sources: int = 1,
        manner: Manner | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._features, self._num_sources, self._manner = features, num_sources, manner or Manner()

    def tie_weights(self) -> None:
        """Tie the model's weights again, which accelerate's FSDP2 loads one by one."""
        self.model.tie_weights()

    def forward(
        self, batch: dict[str, Tensor], image_keys: Sequence[str], sample_lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum over the trained tokens of -log p, a scalar, and the part of each source in it, K.

        `sample_lengths` are those of samples packed into one sequence, for kernels that go by them.
        """
        batch = dict(batch)
        labels_BS, sources_BS = batch.pop("labels"), batch.pop("sources")
        if self._features is not None and image_keys:
            batch["inputs_embeds"] = self._features.embed(batch.pop("input_ids"), image_keys)
        targets_BS = labels_BS[:, 1:]
        trained_BS = targets_BS != IGNORE_INDEX
        logits_TV = self.logits(batch, trained_BS, sample_lengths)
        losses_T = nn.functional.cross_entropy(logits_TV.float(), targets_BS[trained_BS], reduction="none")
        by_source_K = losses_T.new_zeros(self._num_sources)
        by_source_K.index_add_(0, sources_BS[:, 1:][trained_BS], losses_T.detach())
        return losses_T.sum(), by_source_K

    def logits(
        self, batch: dict[str, Tensor], trained_BS: Tensor, sample_lengths: Sequence[int] | None = None
    ) -> Tensor:
        """The logits T x V of the tokens that follow the trained places, B x (S - 1).

        They are made for those places alone; where a class does more to logits than its head does, by its own
        forward pass, for the places trained in any sequence.
        """
        options: dict[str, Any] = {"use_cache": False}
        if sample_lengths is not None:
            options["sample_lengths"] = sample_lengths
        if not self._manner.has_own_logits:
            hidden_BSD = self.model.model(**batch, **options).last_hidden_state
            logits_TV: Tensor = self.model.get_output_embeddings()(hidden_BSD[:, :-1][trained_BS])
            return logits_TV
        if not self._manner.keeps_some_logits:
            whole_TV: Tensor = self.model(**batch, **options).logits[:, :-1][trained_BS]
            return whole_TV
        places = trained_BS.any(0).nonzero().squeeze(1)
        some_TV: Tensor = self.model(**batch, **options, logits_to_keep=places).logits[trained_BS[:, places]]
        return some_TV


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
    `showing` makes their images ready; without it they are decoded here.
    """

    chat: Chat
    features: TowerFeatures | None = None
    is_packed: bool = False
    in_one: bool = False
    stand_in: TrainSample | None = None
    showing: Showing | None = None
    manner: Manner = field(default_factory=Manner)

    def load(self, sequences: Sequence[Sequence[tuple[TrainSample, int]]]) -> Loaded:
        """The tensors of sequences of samples, each with the number of its source."""
        if not any(sample.images for members in sequences for sample, _ in members) and self.stand_in:
            sequences = [*sequences, [(self.stand_in, 0)]]
        pairs = [[(sample.ids, sample.labels) for sample, _ in members] for members in sequences]
        if self.is_packed:
            rows: dict[str, Any] = join(pairs, self.manner.pad_id, in_one=self.in_one)
        else:
            rows = dict(collate([pair for (pair,) in pairs], self.manner.pad_id))
        rows["sources"] = self._lay([[[k] * len(sample.ids) for sample, k in members] for members in sequences])
        samples = tuple(sample for members in sequences for sample, _ in members)
        keys = [key for sample in samples for key in sample.image_keys]
        types = [self.chat.token_inputs(sample.ids, first_trained(sample)) for sample in samples]
        for name in types[0]:
            by_sample = iter(types)
            rows[name] = self._lay([[next(by_sample)[name] for _ in members] for members in sequences])
        tensors = {name: torch.tensor(values) for name, values in rows.items()}
        if self.features is None:
            tensors |= self._pixels(samples)
        if self.is_packed and self.manner.axes is not None:
            tensors["position_ids"] = self._positions(sequences, types, tensors)
        lengths = tuple(len(sample.ids) for sample in samples) if self.is_packed and self.in_one else None
        return Loaded(tensors, keys, samples, lengths)

    def _lay(self, values: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
        return lay(values, lambda _: 0, in_one=self.in_one)

    def _positions(
        self,
        sequences: Sequence[Sequence[tuple[TrainSample, int]]],
        types: Sequence[dict[str, list[int]]],
        tensors: dict[str, Tensor],
    ) -> Tensor:
        """Positions of packed samples, 4 x B x S: those of the text, then the three axes of the model's own."""
        assert self.manner.axes is not None
        text_1BS = tensors["position_ids"][None]
        positions = text_1BS.repeat(4, 1, 1)
        samples = [sample for members in sequences for sample, _ in members]
        images = 0
        found = []
        for sample, own in zip(samples, types, strict=True):
            found.append(self.manner.axes.of(sample, own, tensors, images))
            images += len(sample.images)
        by_sample = iter(found)
        rows = [found] if self.in_one else [[next(by_sample) for _ in members] for members in sequences]
        for row, axes in enumerate(rows):
            axes_3S = torch.cat(axes, dim=1)
            positions[1:, row, : axes_3S.shape[1]] = axes_3S
        return positions

    def place(self, loaded: Loaded, device: torch.device) -> tuple[dict[str, Tensor], list[str]]:
        """The model's inputs on the device, and the keys of the images whose features are kept (else none)."""
        tensors = {name: value.to(device, non_blocking=True) for name, value in loaded.tensors.items()}
        if self.features is None:
            return tensors, []
        missing = [s for s in loaded.samples if s.images and s.image_keys[0] not in self.features]
        if missing:
            new = [key for sample in missing for key in sample.image_keys]
            self.features.add(new, self._pixels(missing, alone=True))
        return tensors, loaded.keys

    def _pixels(self, samples: Sequence[TrainSample], *, alone: bool = False) -> dict[str, Any]:
        """The image tensors of samples, with `alone` as if each image were one of its own."""
        found = self.showing.images(samples) if self.showing else self._decoded(samples)
        shown = [[image] for images in found for image in images] if alone else found
        tensors = self.chat.pixel_inputs(shown)
        release(image for images in found for image in images)
        return {name: _full(value) for name, value in tensors.items()}

    def _decoded(self, samples: Sequence[TrainSample]) -> list[list[Image.Image]]:
        decode = partial(decode_image, made=self.chat.made)
        return [sample.decoded(decode) for sample in samples]


def _full(value: Any) -> Any:
    """A tensor in single precision, as the weights that are trained; some processors make bfloat16."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def stand_in(chat: Chat) -> TrainSample:
    """A blank image with a word about it of which no token is trained."""
    blank = Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE), (127, 127, 127))
    sample = sample_of(chat, "stand-in", [Turn("user", IMAGE_PLACEHOLDER), Turn("assistant", "grey")], [blank])
    return TrainSample(sample.key, sample.ids, [IGNORE_INDEX] * len(sample.labels), sample.images)


def sample_of(chat: Chat, key: str, turns: Sequence[Turn], images: Sequence[Image.Image]) -> TrainSample:
    """A conversation about images in memory as a training sample."""
    encoded = []
    for image in images:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        encoded.append(EncodedImage(stream.getvalue(), "png"))
    ids, labels = chat.train_ids(turns, images)
    return TrainSample(key, ids, labels, encoded)
