"""Training samples: what a stage's conversations become before they are put into batches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.files import DEFAULT_DRAFT, DEFAULT_MAX_PIXELS
from vila2cli.image import Decode, decode_image
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.model.tiles import held, most_tiles
from vila2cli.shards.members import Unusable
from vila2cli.shards.sample import EncodedImage, Sample, Turn
from vila2cli.train.choosing import DrawnRows
from vila2cli.train.choosing import Ints as Ints
from vila2cli.train.stored_image import StoredImage

_UNTRAINABLE = "untrainable"


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One tokenised conversation; `ids` and `labels` have the same length, images are still encoded.

    They are shown in at most `most_tiles` tiles each, 0 for as many as the model has for them.
    """

    key: str
    ids: Sequence[int]
    labels: Sequence[int]
    images: Sequence[EncodedImage | StoredImage]
    max_pixels: int = DEFAULT_MAX_PIXELS
    draft: float = DEFAULT_DRAFT
    most_tiles: int = 0

    @property
    def image_keys(self) -> list[str]:
        """What its images are known by, each as it is shown."""
        shown = f"/{self.most_tiles}" if self.most_tiles else ""
        return [f"{self.key}/{i}{shown}" for i in range(len(self.images))]

    def decoded(self, decode: Decode = decode_image) -> list[Image.Image]:
        """Its images, as `decode` makes them of their bytes."""
        made = [decode(image.data, max_pixels=self.max_pixels, draft=self.draft) for image in self.images]
        return [held(image, self.most_tiles) for image in made] if self.most_tiles else made


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of every sample its tokens, images and trained tokens, the number of its source, and its images' tiles.

    Trained tokens are those that the loss covers: a sequence's first token is nothing's successor. Where one of
    several captions is `drawn` in each epoch, each is a row of these. An image that is not cut is one tile.
    """

    tokens: Ints
    images: Ints
    trained: Ints
    source: Ints
    tiles: Ints
    drawn: DrawnRows | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, epoch: int) -> Ints:
        """The rows of an epoch, in order: all of them where nothing is drawn."""
        return np.arange(len(self)) if self.drawn is None else self.drawn.rows(epoch)


Compose = Callable[[Sample], Sequence[Sequence[Turn]]]
"""The conversations that a sample is trained on."""


def encode_sample(
    sample: Sample,
    chat: Chat,
    turns: Sequence[Turn],
    max_length: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    draft: float = DEFAULT_DRAFT,
    images: Callable[[], Sequence[Image.Image]] | None = None,
) -> TrainSample:
    """Tokenise one composed sample; raises Unusable when it cannot be trained on.

    No sequence is cut, so neither images nor answers are ever cut away; of one that is too long the images are
    shown in fewer tiles where the model has several. `images` gives the sample's as `decode_sample` does.
    """
    if not turns:
        what = "it has none of the captions named in the recipe, and no conversation"
        raise Unusable(_UNTRAINABLE, what + _elsewhere(sample.meta))
    shown = decode_sample(sample, chat, max_pixels, draft) if images is None else images()
    most = 0
    try:
        ids, labels = chat.train_ids(turns, shown)
        while len(ids) > max_length and (fewer := chat.pictures.in_fewer_tiles(shown, len(ids) - max_length)):
            shown, most = fewer, most_tiles(fewer[0])
            ids, labels = chat.train_ids(turns, shown)
    except DataError as error:
        raise Unusable(_UNTRAINABLE, str(error)) from None
    if len(ids) > max_length:
        raise Unusable(_UNTRAINABLE, f"its {len(ids)} tokens are more than max_length = {max_length}")
    return TrainSample(sample.key, tuple(ids), tuple(labels), sample.images, max_pixels, draft, most)


def decode_sample(sample: Sample, chat: Chat, max_pixels: int, draft: float) -> tuple[Image.Image, ...]:
    """A sample's images; raises Unusable where one cannot be decoded."""
    decode = partial(decode_image, max_pixels=max_pixels, draft=draft, made=chat.made)
    try:
        return tuple(decode(image.data) for image in sample.images)
    except DataError as error:
        raise Unusable("bad-image", str(error)) from None


def lengths_of(samples: Sequence[TrainSample]) -> Lengths:
    """Count tokens and images, none of them cut into tiles, of samples that are all of one source."""
    images = _ints(len(sample.images) for sample in samples)
    return Lengths(
        _ints(len(sample.ids) for sample in samples),
        images,
        _ints(num_trained(sample.labels) for sample in samples),
        np.zeros(len(samples), np.int64),
        images,
    )


def first_trained(sample: TrainSample) -> int:
    """Where a sample's first trained token is, its length where it has none."""
    trained = (i for i, label in enumerate(sample.labels) if label != IGNORE_INDEX)
    return next(trained, len(sample.labels))


def num_trained(labels: Sequence[int]) -> int:
    """The tokens of a sequence that its loss covers."""
    return sum(label != IGNORE_INDEX for label in labels[1:])


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, np.int64)


def _elsewhere(meta: Mapping[str, Any]) -> str:
    """Where the JSON of tars that other tools wrote seems to have them, and what to do about it."""
    turns = [name for name in ("conversations", "texts") if isinstance(meta.get(name), list)]
    texts = [name for name, value in meta.items() if isinstance(value, str) and " " in value.strip()]
    if not turns and not texts:
        return ""
    shown = ", ".join(map(repr, (turns or texts)[:3]))
    how = "" if turns else ", one of them as the caption with --text"
    return f"; its JSON has {shown}, which `vila2 shards convert webdataset` reads{how}"
