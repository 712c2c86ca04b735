"""Image processors of transformers with other steps beneath them: quicker ones, and ones that see sizes alone.

Such a processor is a class of its own on a backend, whose steps (`process_image`, `resize`, `rescale`,
`normalize`, ...) it calls in its own order. Another backend put between the two changes how a step is done and
leaves what is done to the class. Whether the outcome is the same is for the caller to see.

Shapes: C colour channels, H x W pixels; arrays are C x H x W.
"""

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import image_transforms, image_utils
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor

from vila2cli.image import Size, inexact, is_inexact
from vila2cli.model.scaling import levels_of, mode_of, scaled
from vila2cli.model.tiles import Catty

_LEVELS = 256
_FIRST = image_utils.ChannelDimension.FIRST


def quick(processor: Any) -> Any | None:
    """The image processor with quicker steps, None for one that has no backend whose steps are known here.

    It is always to be called with the same settings.
    """
    return _on(processor, {PilBackend: QuickPil, TorchvisionBackend: QuickTorchvision})


def sized(processor: Any) -> Any | None:
    """The image processor with steps that make sizes and no pixels, for images of H x W x 3; None as above."""
    made = _on(processor, {PilBackend: SizedPil, TorchvisionBackend: SizedTorchvision})
    if made is not None:
        made.course = Course()
    return made


def _on(processor: Any, backends: dict[type, type]) -> Any | None:
    """A copy of the processor on another backend than its own."""
    kind = type(processor)
    for backend, other in backends.items():
        if issubclass(kind, backend) and kind is not backend:
            made = copy.copy(processor)
            made.__class__ = type(kind.__name__, (kind, other), {})
            return made
    return None


class SettledOnce(BaseImageProcessor):  # type: ignore[misc]
    """An image processor that reads and checks its settings at its first call alone."""

    _settled: dict[str, Any] | None = None

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        if self._settled is None or args:
            return super().__call__(images, *args, **kwargs)
        return self._preprocess_image_like_inputs(images, **self._settled)

    def _preprocess_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        made = super()._preprocess_image_like_inputs(images, *args, **kwargs)
        if not args:
            self._settled = kwargs
        return made


class Seen:
    """A picture in the place of the array of its pixels; each is made of the other when it is asked for.

    A picture that is given by its levels alone, which may have a channel too many, `is_inexact`.
    """

    def __init__(self, picture: Image.Image | None, levels: Any = None) -> None:
        self._picture, self._levels = picture, levels
        self.is_inexact = picture is None or is_inexact(picture)
        self.shape = (3, *(levels.shape[1:] if picture is None else picture.size[::-1]))
        self.ndim, self.dtype = 3, np.dtype(np.uint8)

    def resized(self, size: Size, resample: int) -> "Seen":
        """The picture at another size, as Pillow makes it; nearly so and sooner where it `is_inexact`."""
        if self.is_inexact and (mode := mode_of(resample)) is not None:
            levels = levels_of(self.picture) if self._levels is None else self._levels
            return Seen(None, scaled(levels, size, mode))
        return Seen(self.picture.resize(size, Image.Resampling(resample)))

    @property
    def picture(self) -> Image.Image:
        if self._picture is None:
            self._picture = inexact(Image.fromarray(self.array.transpose(1, 2, 0)))
        return self._picture

    @property
    def array(self) -> NDArray[Any]:
        if self._levels is None:
            self._levels = np.array(self._picture).transpose(2, 0, 1)
        levels: NDArray[Any] = self._levels[:3]
        return levels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.array if dtype is None or dtype == self.dtype else self.array.astype(dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]

    def __len__(self) -> int:
        return 3


class _Unscaled(np.ndarray[Any, Any]):
    """Levels that are still to be multiplied by a scale."""

    scale: float


class QuickPil(SettledOnce, PilBackend):  # type: ignore[misc]
    """Pillow's steps without copies between them; each of 256 levels is rescaled and normalised once."""

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        is_plain = isinstance(image, Image.Image) and image.mode == "RGB"
        return Seen(image) if is_plain else super().process_image(image, *args, **kwargs)

    def resize(
        self, image: Any, size: Any, resample: Any = None, reducing_gap: Any = None, **kwargs: Any
    ) -> Any:
        if isinstance(image, Seen) and reducing_gap is None and isinstance(resample, int):
            height, width = target_size(image.shape[1:], size)
            return image.resized((width, height), resample)
        return super().resize(_array(image), size, resample=resample, reducing_gap=reducing_gap, **kwargs)

    def center_crop(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        return super().center_crop(_array(image), *args, **kwargs)

    def rescale(self, image: Any, scale: float, **kwargs: Any) -> Any:
        image = _array(image)
        if image.dtype != np.uint8 or kwargs or not self.do_normalize:
            return super().rescale(image, scale, **kwargs)
        unscaled = image.view(_Unscaled)
        unscaled.scale = scale
        return unscaled

    def normalize(self, image: Any, mean: Any, std: Any, **kwargs: Any) -> Any:
        scale = getattr(image, "scale", None) if isinstance(image, _Unscaled) else None
        if scale is None or kwargs:
            return super().normalize(_array(image), mean, std, **kwargs)
        return _levels_of(np.asarray(image), _table(len(image), scale, _hashable(mean), _hashable(std)))


def _array(image: Any) -> Any:
    return image.array if isinstance(image, Seen) else image


def _levels_of(image: NDArray[Any], table: NDArray[Any]) -> NDArray[Any]:
    """What the levels of an image become by a table of C x 256."""
    made = np.empty(image.shape, table.dtype)
    for channel, levels, out in zip(image, table, made, strict=True):
        levels.take(channel, out=out, mode="clip")
    return made


def _hashable(values: Any) -> Any:
    return tuple(values) if isinstance(values, Sequence | np.ndarray) else values


@lru_cache(maxsize=8)
def _table(num_channels: int, scale: float, mean: Any, std: Any) -> NDArray[Any]:
    """What each channel's levels become, C x 256, by transformers' own arithmetic."""
    ramp = np.broadcast_to(np.arange(_LEVELS, dtype=np.uint8), (num_channels, 1, _LEVELS))
    formats = {"data_format": _FIRST, "input_data_format": _FIRST}
    levels = image_transforms.rescale(ramp, scale=scale, **formats)
    made = image_transforms.normalize(levels, mean=mean, std=std, **formats)
    return np.ascontiguousarray(made[:, 0])


def target_size(shape: Sequence[int], size: Any) -> tuple[int, int]:
    """Height and width that `PilBackend.resize` makes of a height and width for a `size` of its settings."""
    height, width = shape
    if size.shortest_edge and size.longest_edge:
        made = image_transforms.get_size_with_aspect_ratio(tuple(shape), size.shortest_edge, size.longest_edge)
    elif size.shortest_edge:
        made = image_transforms.get_resize_output_image_size(
            np.broadcast_to(np.uint8(0), (3, height, width)),
            size=size.shortest_edge,
            default_to_square=False,
            input_data_format=_FIRST,
        )
    elif size.max_height and size.max_width:
        made = image_utils.get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
    elif size.height and size.width:
        made = size.height, size.width
    else:
        raise ValueError(f"the size {size} has no sides")
    return int(made[0]), int(made[1])


class QuickTorchvision(SettledOnce, TorchvisionBackend):  # type: ignore[misc]
    """torchvision's own steps, which leave little to save."""


class Course:
    """What is done to an image of a size: each step and its arguments, and how much of the image is left.

    `steps` is None where an array comes to a step that is not the one which the step before made. `made` is the
    largest size at which a resizing, of the image or a part of it, leaves it; what is made smaller and larger
    again is as small as it was between.
    """

    def __init__(self) -> None:
        self.steps: list[ImageStep] | None = None
        self.made: Size | None = None
        self._last: Any = None
        self._whole: Size = (0, 0)
        self._left: dict[Size, Size] = {}

    def begin(self, size: Size, image: Any) -> Any:
        self.steps, self.made, self._last = [], None, image
        self._whole, self._left = size, {size: size}
        return image

    def go(self, step: "ImageStep", image: Any, made: NDArray[Any]) -> NDArray[Any]:
        """Note a step from one array to another, which is handed back."""
        if self.steps is not None and image is self._last:
            self.steps.append(step)
            self._last = made
        else:
            self.steps = None
        return made

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what the last step made."""
        return tuple(self._last.shape)

    def resized(self, old: Size, new: Size) -> None:
        """Note that `old`, the whole image or a part of it, became `new`; of a part the whole is counted."""
        if old in self._left:
            left = min(self._left[old][0], new[0]), min(self._left[old][1], new[1])
            self._left.setdefault(new, left)
        else:
            left = -(-new[0] * self._whole[0] // old[0]), -(-new[1] * self._whole[1] // old[1])
        made = self.made or (0, 0)
        self.made = max(made[0], left[0]), max(made[1], left[1])


class ImageStep(NamedTuple):
    """A method of a backend, and what it is called with after the image."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def follow(processor: Any, steps: Sequence[ImageStep], picture: Image.Image) -> NDArray[Any]:
    """What a `quick` processor makes of a picture in the steps of its course."""
    image: Any = Seen(picture)
    for step in steps:
        image = getattr(QuickPil, step.name)(processor, image, *step.args, **step.kwargs)
    return np.asarray(_array(image))


class SizedPil(SettledOnce, PilBackend):  # type: ignore[misc]
    """Pillow's steps on arrays that repeat one level."""

    course: Course

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> NDArray[Any]:
        height, width = image.shape[:2]
        blank: NDArray[Any] = self.course.begin((width, height), _blank((3, height, width), np.uint8))
        return blank

    def resize(self, image: NDArray[Any], size: Any, *args: Any, **kwargs: Any) -> NDArray[Any]:
        old_height, old_width = image.shape[1:]
        height, width = target_size((old_height, old_width), size)
        self.course.resized((old_width, old_height), (width, height))
        step = ImageStep("resize", (size, *args), kwargs)
        return self.course.go(step, image, _blank((len(image), height, width), np.uint8))

    def center_crop(self, image: NDArray[Any], *args: Any, **kwargs: Any) -> NDArray[Any]:
        cropped = super().center_crop(image, *args, **kwargs)
        return self.course.go(ImageStep("center_crop", args, kwargs), image, cropped)

    def rescale(self, image: NDArray[Any], *args: Any, **kwargs: Any) -> NDArray[Any]:
        return self.course.go(ImageStep("rescale", args, kwargs), image, _blank(image.shape, np.float32))

    def normalize(self, image: NDArray[Any], *args: Any, **kwargs: Any) -> NDArray[Any]:
        return self.course.go(ImageStep("normalize", args, kwargs), image, _blank(image.shape, np.float32))


def _blank(shape: tuple[int, ...], kind: type) -> NDArray[Any]:
    return np.broadcast_to(kind(0), shape)


def is_uniform(processor: Any) -> bool:
    """Whether a processor's first step is to resize, and what follows is the same for every size.

    That is told by its code: of Pillow's backend's own course, and of Idefics3's and SmolVLM's without tiles.
    `processor` is a `sized` one that was called.
    """
    kind: Any = type(processor).__mro__[1]
    settled = processor._settled or {}
    if not isinstance(processor, PilBackend) or isinstance(processor, Catty) or not settled.get("do_resize"):
        return False
    if kind.__name__ in _WITH_TILES:
        return not settled.get("do_image_splitting")
    size = settled["size"]
    is_one_size = settled.get("do_center_crop") or (size.height and size.width)
    return bool(is_one_size) and kind._preprocess is PilBackend._preprocess


def resized(processor: Any, size: Size) -> None:
    """Note the first step of a uniform processor in its course."""
    blank = _blank((3, size[1], size[0]), np.uint8)
    processor.course.begin(size, blank)
    processor.resize(blank, size=processor._settled["size"], resample=processor._settled["resample"])


_WITH_TILES = ("Idefics3ImageProcessorPil", "SmolVLMImageProcessorPil")


class SizedTorchvision(SettledOnce, TorchvisionBackend):  # type: ignore[misc]
    """torchvision's steps on tensors that repeat one level."""

    course: Course

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        height, width = image.shape[:2]
        self.course.begin((width, height), None)
        return torch.zeros((), dtype=torch.uint8).expand(3, height, width)

    def resize(self, image: torch.Tensor, size: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        outline = super().resize(image.to("meta"), size)  # how it is resampled does not matter
        old_height, old_width = image.shape[-2:]
        height, width = outline.shape[-2:]
        self.course.resized((old_width, old_height), (width, height))
        return image.new_zeros(()).expand(outline.shape)

    def rescale(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.course.steps = None  # it works on batches
        return torch.zeros((), dtype=torch.float32).expand(image.shape)

    normalize = rescale

    def rescale_and_normalize(self, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.course.steps = None
        return torch.zeros((), dtype=torch.float32).expand(images.shape)
