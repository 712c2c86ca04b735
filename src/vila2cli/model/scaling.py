"""Pictures scaled by PyTorch as Pillow scales them, but for rounding, in a quarter of the time.

PyTorch takes weights of 16 bits where Pillow takes 32, and several levels at a time.
"""

import ctypes
import math
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
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8))
    for size in ((70, 90), (140, 30), (70, 220), (190, 60), (190, 220)):
        exact = np.asarray(noise.resize(size, Image.Resampling(resample)), dtype=np.int16)
        try:
            off = np.abs(exact - scaled(levels_of(noise), size, mode)[:3].transpose(1, 2, 0))
        except (ValueError, NotImplementedError):  # of a release that does not know the mode
            return None
        if off.max() > _MOST_OFF or off.mean() > _MEAN_OFF:
            return None
    return mode


class _ArrowArray(ctypes.Structure):
    """An array of Arrow's C data interface: https://arrow.apache.org/docs/format/CDataInterface.html."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Shared:
    """The memory of a picture for NumPy, kept as long as this is; raises ValueError where it is another."""

    def __init__(self, picture: Image.Image) -> None:
        self._kept = picture.__arrow_c_array__()
        array = _ArrowArray.from_address(_pointer_of(self._kept[1], b"arrow_array"))
        shape = picture.height, picture.width, 4
        levels = array.children[0].contents if array.n_children == 1 else array
        if (levels.length, levels.offset, array.offset) != (math.prod(shape), 0, 0):
            raise ValueError(f"Pillow lays out {picture.mode} otherwise")  # never read what is not its own
        data = levels.buffers[1], False
        self.__array_interface__ = {"shape": shape, "typestr": "|u1", "data": data, "version": 3}


def levels_of(picture: Image.Image) -> NDArray[Any]:
    """The levels of an RGB picture, C x H x W, in memory as H x W x C; not to be written to.

    They are Pillow's own memory, which has a fourth channel that nobody reads, where Pillow shares it: since
    release 11.2, of a picture in one block (16 MiB). A copy takes a millisecond of a photo of 1,000 x 600
    pixels, most of it with the interpreter's lock, for which other threads wait.
    """
    try:
        shared = _Shared(picture)
    except (AttributeError, ValueError):
        return np.array(picture).transpose(2, 0, 1)
    return np.asarray(shared).transpose(2, 0, 1)


def scaled(levels: NDArray[Any], size: Size, mode: str) -> NDArray[Any]:
    """Levels of C x H x W, in memory as H x W x C, at a width and height, laid out alike."""
    # Only in this layout does PyTorch take several levels at a time. One side after the other, in Pillow's
    # order and not in PyTorch's, as what is between is rounded, too.
    image = torch.from_numpy(np.ascontiguousarray(levels.transpose(1, 2, 0)))[None].permute(0, 3, 1, 2)
    height, width = image.shape[2:]
    # Pillow scales the height before the width since 13.0, where it shrinks by far more.
    is_height_first = _PILLOW >= 13 and height - size[1] > max(0, 2 * (width - size[0]))
    between = (size[1], width) if is_height_first else (height, size[0])
    for sides in (between, size[::-1]):
        if sides != image.shape[2:]:
            image = torch.nn.functional.interpolate(image, size=sides, mode=mode, antialias=True)
    return np.asarray(image[0].permute(1, 2, 0).contiguous()).transpose(2, 0, 1)
