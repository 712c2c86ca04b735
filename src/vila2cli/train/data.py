"""Training samples: shards to token ids and labels, in an order that only the seed decides."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from vila2cli.errors import DataError
from vila2cli.image import decode_image
from vila2cli.model.chat import Chat
from vila2cli.sample import EncodedImage, Reject, Sample, Turn
from vila2cli.shards import Source, read_shard
from vila2cli.text.compose import is_kept


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One tokenised conversation; `ids` and `labels` have the same length, images are still encoded."""

    key: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    images: tuple[EncodedImage, ...]

    def decoded(self) -> list[Image.Image]:
        return [decode_image(image.data) for image in self.images]


Compose = Callable[[Sample], Sequence[Sequence[Turn]]]
"""The conversations that a sample is trained on."""


def load_samples(
    source: Source,
    chat: Chat,
    compose: Compose,
    *,
    max_length: int,
    on_reject: Callable[[Reject], None],
    on_filtered: Callable[[str], None] = lambda key: None,
) -> list[TrainSample]:
    """A training sample for each conversation of a source, in the order of the shards.

    The key of one that a filter layer leaves out goes to `on_filtered`. A sample with nothing to
    train, with an unreadable image or longer than `max_length` tokens is handed to `on_reject`; no
    sequence is cut, so neither images nor answers are ever cut away.
    Encoded images stay in memory: for tens of thousands of samples, not for millions.
    """
    samples = []
    for shard in source.shards:
        for sample in read_shard(shard, on_reject=on_reject):
            if not is_kept(sample):
                on_filtered(sample.key)
                continue
            try:
                encoded = [encode_sample(sample, chat, turns, max_length) for turns in compose(sample) or [()]]
            except DataError as error:
                on_reject(Reject(shard.name, sample.key, "untrainable", str(error)))
                continue
            # Keys repeat from source to source; the shard's path tells them apart.
            samples += [dataclasses.replace(one, key=f"{shard.url}/{sample.key}") for one in encoded]
    return samples


def encode_sample(sample: Sample, chat: Chat, turns: Sequence[Turn], max_length: int) -> TrainSample:
    """Tokenise one composed sample; raises DataError when it cannot be trained on."""
    if not turns:
        raise DataError("it has none of the captions named in the recipe, and no conversation")
    images = [decode_image(image.data) for image in sample.images]
    ids, labels = chat.train_ids(turns, images)
    if len(ids) > max_length:
        raise DataError(f"its {len(ids)} tokens are more than max_length = {max_length}")
    return TrainSample(sample.key, tuple(ids), tuple(labels), sample.images)


def batches(
    samples: Sequence[TrainSample], *, batch_size: int, epochs: float, seed: int
) -> Iterator[list[TrainSample]]:
    """Batches of `epochs` passes, each in its own order; the last batch of a pass may be short."""
    for epoch in range(math.ceil(epochs)):
        order = list(range(len(samples)))
        Random(f"order {seed} {epoch}").shuffle(order)
        order = order[: round(len(samples) * min(1.0, epochs - epoch))]
        for start in range(0, len(order), batch_size):
            yield [samples[i] for i in order[start : start + batch_size]]


def num_batches(num_samples: int, *, batch_size: int, epochs: float) -> int:
    """How many batches `batches` yields."""
    passes = [round(num_samples * min(1.0, epochs - epoch)) for epoch in range(math.ceil(epochs))]
    return sum(math.ceil(size / batch_size) for size in passes)
