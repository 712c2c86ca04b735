"""Pictures scaled by PyTorch as Pillow scales them, but for rounding, in a quarter of the time.

PyTorch takes weights of 16 bits where Pillow takes 32, and several levels at a time.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from vila2cli.image import Size

_MODES = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
    Image.Resampling.LANCZOS: "lanczos",
}
_MOST_OFF, _MEAN_OFF = 2, 0.05
"""In levels of 255; of the noise of `mode_of` they are 1 and 0.02."""
_PILLOW = int(PIL.__version__.split(".")[0])


@lru_cache
def mode_of(resample: int) -> str | None:
    """The mode in which PyTorch scales levels as Pillow does by a filter of its own, None where none is close.

    Whether it does is tried once, on noise, the hardest of pictures, in sizes of either order of sides.
    """
    if (mode := _MODES.get(Image.Resampling(resample))) is None:
        return None
    noise = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    for size in ((70, 90), (140, 30), (70, 220), (190, 60), (190, 220)):
        exact = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling(resample)), dtype=np.int16)
        try:
            off = np.abs(exact - scaled(noise.transpose(2, 0, 1), size, mode).transpose(1, 2, 0))
        except (ValueError, NotImplementedError):  # of a release that does not know the mode
            return None
        if off.max() > _MOST_OFF or off.mean() > _MEAN_OFF:
            return None
    return mode


def scaled(levels: NDArray[Any], size: Size, mode: str) -> NDArray[Any]:
    """Levels of C x H x W, in memory as H x W x C, at a width and height, laid out alike."""
    # Only in this layout does PyTorch take several levels at a time. One side after the other, in Pillow's
    # order and not in PyTorch's, as what is between is rounded, too.
    image = torch.from_numpy(np.ascontiguousarray(levels.transpose(1, 2, 0)))[None].permute(0, 3, 1, 2)
    height, width = image.shape[2:]
    between = (size[1], width) if _begins_with_height((width, height), size) else (height, size[0])
    for sides in (between, size[::-1]):
        if sides != image.shape[2:]:
            image = torch.nn.functional.interpolate(image, size=sides, mode=mode, antialias=True)
    return np.asarray(image[0].permute(1, 2, 0).contiguous()).transpose(2, 0, 1)


def _begins_with_height(old: Size, new: Size) -> bool:
    """Whether Pillow scales the height before the width: since 13.0, where it shrinks by far more."""
    shrinks_by = old[1] - new[1]
    return _PILLOW >= 13 and shrinks_by > 0 and shrinks_by > 2 * (old[0] - new[0])
