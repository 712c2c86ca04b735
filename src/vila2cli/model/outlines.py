"""What a processor makes of an image of a size: the text that it stands as, how large it is made and how.

The image processor is run as it is on steps that make sizes and no pixels (`model.backends`), so what comes
out is right for any size as long as the processor does not look at pixels.
"""

import copy
import math
from collections.abc import Mapping
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from vila2cli.image import Size
from vila2cli.model.backends import Course, ImageStep, follow, is_uniform, quick, resized, sized
from vila2cli.model.rendering import ODD

_MAX_KEPT = 4096
_PIXELS = "pixel_values"


class ImagePlan(NamedTuple):
    """How the pixels of an image are made, their shape, and the tensors beside them, which its size decides."""

    steps: list[ImageStep]
    shape: tuple[int, ...]
    beside: dict[str, torch.Tensor]


class _Outline(NamedTuple):
    """`text` is None where the processor fails on the size, `made` is a width and height."""

    text: str | None
    made: Size | None
    plan: ImagePlan | None


class Outlines:
    """A processor's view of sizes; `settings` are those that it gives its image processor."""

    def __init__(self, processor: Any, images: Any, settings: Mapping[str, Any]) -> None:
        self._processor, self._images = copy.copy(processor), images
        self._processor.image_processor = images
        self._quick = quick(processor.image_processor)
        self._settings = dict(settings)
        self._lock = Lock()  # images are decoded in threads
        self._kept: dict[tuple[Size, int], _Outline] = {}
        self._beside: dict[str, torch.Tensor] = {}
        self._first: _Outline | None = None  # where all sizes have the same but for the first resizing

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

    def tensors(self, image: Image.Image) -> dict[str, Any] | None:
        """What the image processor makes of one image, None where its steps are not one after the other."""
        plan = self._outline(image.size, 1).plan
        if plan is None:
            return None
        pixels = torch.from_numpy(np.ascontiguousarray(follow(self._quick, plan.steps, image)))
        return {_PIXELS: pixels.reshape(plan.shape), **plan.beside}

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
        if number == 1 and self._first is not None and self._first.plan is not None:
            try:
                resized(self._images, size)
            except ODD:
                return self._run(size, number)
            course, plan = self._images.course, self._first.plan
            plan = plan._replace(steps=[*(course.steps or ()), *plan.steps[1:]])
            return self._first._replace(made=course.made, plan=plan)
        found = self._run(size, number)
        if number == 1 and found.plan is not None and is_uniform(self._images):
            self._first = found
        return found

    def _run(self, size: Size, number: int) -> _Outline:
        blank = np.broadcast_to(np.uint8(0), (size[1], size[0], 3))
        try:
            processed, texts = self._processor._process_images([[blank] * number], **self._settings)
        except ODD:
            return _Outline(None, None, None)
        course = self._images.course
        plan = self._plan(course, dict(processed)) if number == 1 else None
        return _Outline(str(texts[0]) if texts else None, course.made, plan)

    def _plan(self, course: Course, processed: dict[str, Any]) -> ImagePlan | None:
        """The plan of a course whose last step makes all of the pixels, None for any other."""
        pixels = processed.pop(_PIXELS, None)
        if not course.steps or self._quick is None or not isinstance(pixels, torch.Tensor):
            return None
        if tuple(pixels.shape[-3:]) != course.shape or pixels.numel() != math.prod(course.shape):
            return None
        beside = {name: value for name, value in processed.items() if isinstance(value, torch.Tensor)}
        for name, value in beside.items():
            kept = self._beside.setdefault(name, value)
            if kept.dtype != value.dtype or not torch.equal(kept, value):
                return None  # not to keep a mask for every size
            beside[name] = kept
        return ImagePlan(course.steps, tuple(pixels.shape), beside)
