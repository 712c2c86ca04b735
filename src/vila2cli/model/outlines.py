"""What a processor makes of an image of a size: the text that it stands as, and how large it is made.

The image processor is run as it is on steps that make sizes and no pixels (`model.backends`), so what comes
out is right for any size for which the processor does not look at pixels.
"""

import copy
from collections.abc import Mapping
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from vila2cli.image import Size
from vila2cli.model.backends import sized
from vila2cli.model.rendering import ODD

_MAX_KEPT = 4096


class _Outline(NamedTuple):
    """`text` is None where the processor fails on the size, `made` is a width and height."""

    text: str | None
    made: Size | None


class Outlines:
    """A processor's view of sizes; `settings` are those that it gives its image processor."""

    def __init__(self, processor: Any, images: Any, settings: Mapping[str, Any]) -> None:
        self._processor, self._images = copy.copy(processor), images
        self._processor.image_processor = images
        self._settings = dict(settings)
        self._lock = Lock()  # images are decoded in threads
        self._kept: dict[tuple[Size, int], _Outline] = {}

    @classmethod
    def of(cls, processor: Any, settings: Mapping[str, Any]) -> "Outlines | None":
        """The outlines of a processor whose image processor has known steps, else None."""
        images = sized(processor.image_processor)
        has_texts = hasattr(processor, "_process_images")
        return None if images is None or not has_texts else cls(processor, images, settings)

    def text(self, size: Size, number: int) -> str | None:
        """What one of a number of images of this size stands as; None where the processor fails on it."""
        return self._outline(size, number).text

    def made(self, size: Size) -> Size | None:
        """The width and height to which an image is scaled at most; None where it is not resized."""
        return self._outline(size, 1).made

    def _outline(self, size: Size, number: int) -> _Outline:
        with self._lock:
            known = self._kept.pop((size, number), None)
            if known is None:
                known = self._look(size, number)
            if len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[size, number] = known
            return known

    def _look(self, size: Size, number: int) -> _Outline:
        blank = np.broadcast_to(np.uint8(0), (size[1], size[0], 3))
        try:
            _, texts = self._processor._process_images([[blank] * number], **self._settings)
        except ODD:
            return _Outline(None, None)
        return _Outline(str(texts[0]) if texts else None, self._images.sizes.made)
