"""Features of images that several layers ask about in one pass, for which the vision tower runs once.

On CPUs an image's features are the same to the bit whatever images are beside it, so that what is written stays
what a pass of its own writes. Shapes: N prompts of at most T tiles, P tokens of a tile, D channels of the LLM.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

_MOST_BYTES = 1 << 30
"""What is kept of one group at most; of further images the tower runs again."""


class SharedFeatures:
    """Stands in for the `get_image_features` of an Idefics3 model."""

    def __init__(self, net: Idefics3ForConditionalGeneration) -> None:
        self._compute = net.model.get_image_features
        net.model.get_image_features = self._features
        self._kept: dict[int, tuple[Image.Image, Tensor]] = {}
        self._num_bytes = 0
        self._group = ""
        self._images: list[Image.Image] = []

    @staticmethod
    def suits(net: Any, device: torch.device) -> bool:
        """Whether a model's features can be kept: rows for each image, the same numbers in any batch."""
        return isinstance(net, Idefics3ForConditionalGeneration) and device.type == "cpu"

    @contextmanager
    def over(self, images: Sequence[Image.Image], group: str) -> Iterator[None]:
        """Let the model ask about these images of a group; those of another group are forgotten."""
        if group != self._group:
            self._kept.clear()
            self._group, self._num_bytes = group, 0
        self._images = list(images)
        try:
            yield
        finally:
            self._images = []

    def pixel_inputs(self) -> dict[str, Tensor] | None:
        """What stands for the pixels of the images where all of their features are there, else None."""
        if not self._images or not all(id(image) in self._kept for image in self._images):
            return None
        return {"pixel_values": torch.zeros(len(self._images), 1, 3, 1, 1)}

    def _features(self, pixel_values: Tensor, pixel_attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """What `get_image_features` gives, with its parameters: generation looks at their names."""
        if self.pixel_inputs() is not None:
            rows = [self._kept[id(image)][1] for image in self._images]
            return BaseModelOutputWithPooling(pooler_output=torch.cat(rows))
        made = self._compute(pixel_values, pixel_attention_mask, **kwargs)
        is_tile_NT = pixel_values.flatten(2).any(dim=2)
        counts = is_tile_NT.sum(dim=1).tolist()  # tiles of zeros are there to fill up, as for the model itself
        # What is padded depends on the images beside it.
        fills = pixel_attention_mask is None or bool(pixel_attention_mask[is_tile_NT].all())
        if fills and len(counts) == len(self._images) and all(counts):  # a prompt has one image
            for image, features_TPD in zip(self._images, made.pooler_output.split(counts), strict=True):
                self._keep(image, features_TPD)
        return made

    def _keep(self, image: Image.Image, features_TPD: Tensor) -> None:
        num_bytes = features_TPD.numel() * features_TPD.itemsize
        if id(image) not in self._kept and self._num_bytes + num_bytes <= _MOST_BYTES:
            self._kept[id(image)] = image, features_TPD.clone()  # with the image, whose id would be another's
            self._num_bytes += num_bytes
