"""How far off annotated things are, from depth maps beside the pictures: VILA^2 section 2.2.1 has 3D boxes."""

import io
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.files import BOMB_PIXELS
from vila2cli.formats.folders import FileFolder
from vila2cli.formats.specialists.boxes import GRID, seen_from
from vila2cli.formats.specialists.pictures import Boxed
from vila2cli.image import DAMAGED, UPRIGHT

Metres_HW = NDArray[np.float64]
PNG_UNIT, NPY_UNIT = 0.001, 1.0
"""Metres that a number stands for: sensors write 16-bit PNG in millimetres, estimators arrays in metres."""


_DAMAGED = (Image.DecompressionBombError, zipfile.BadZipFile, MemoryError, *DAMAGED)


@dataclass(frozen=True, slots=True)
class DepthMaps:
    """A folder of depth maps, each named like its picture; `unit` is in metres, None for that of the format.

    A larger number is farther off. Inverse depth is not: it states no metres and runs the other way.
    """

    folder: FileFolder
    unit: float | None = None

    def measure(
        self, things: Sequence[Boxed], name: Path, stored: tuple[int, int], orientation: int
    ) -> list[Boxed]:
        """The things, boxes in 0-999, with the depth of each in the middle of its box; raises DataError.

        It is the median of what was measured there, and stays None where nothing was.
        """
        metres_HW = self._read(name)
        height, width = metres_HW.shape
        seen = seen_from((width, height), stored, orientation)
        if seen is None:
            raise DataError(f"its depth map has {width}x{height} points, another shape than the picture")
        if seen == "stored" and orientation in UPRIGHT:
            turned = Image.fromarray(metres_HW.astype(np.float32)).transpose(UPRIGHT[orientation])
            metres_HW = np.asarray(turned, dtype=np.float64)
        return [
            thing if thing.distance is not None else replace(thing, depth=_middle(metres_HW, thing.box))
            for thing in things
        ]

    def identity(self, name: Path) -> list[str | int]:
        """What tells the depth map of a picture from another without reading it, or that there is none."""
        return [
            *self.folder.identity(name.with_suffix(".npy")),
            *self.folder.identity(name.with_suffix(".png")),
        ]

    def _read(self, name: Path) -> Metres_HW:
        try:
            path = self.folder.find(name.with_suffix(".npy"))
        except DataError:
            path = self.folder.find(name.with_suffix(".png"))
        is_array = path.suffix == ".npy"
        try:
            numbers = (_array if is_array else _pixels)(path.read_bytes())
        except _DAMAGED as error:
            raise DataError(f"cannot read the depth map {path}: {error}") from None
        unit = self.unit or (NPY_UNIT if is_array else PNG_UNIT)
        metres = numbers.astype(np.float64) * unit
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.nan)


def _array(data: bytes) -> NDArray[np.generic]:
    numbers: NDArray[np.generic] = np.squeeze(np.load(io.BytesIO(data), allow_pickle=False))
    if numbers.ndim != 2 or numbers.dtype.kind not in "fiu" or not numbers.size:
        raise ValueError(f"an array of {numbers.dtype} and shape {numbers.shape} is no depth for each pixel")
    return numbers


def _pixels(data: bytes) -> NDArray[np.generic]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=("PNG",))
    if image.width * image.height > BOMB_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels are over the limit of {BOMB_PIXELS}")
    if not image.mode.startswith("I"):
        raise ValueError(f"it has pixels of mode {image.mode}, not 16-bit grey")
    return np.asarray(image)


def _middle(metres_HW: Metres_HW, box: Sequence[float]) -> float | None:
    """Median over the middle half of a box in 0-999, which the edges of the thing behind it hardly reach."""
    height, width = metres_HW.shape
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) / 4, (y2 - y1) / 4
    columns = _span((x1 + dx) / GRID * width, (x2 - dx) / GRID * width, width)
    rows = _span((y1 + dy) / GRID * height, (y2 - dy) / GRID * height, height)
    measured = metres_HW[rows, columns]
    measured = measured[np.isfinite(measured)]
    return round(float(np.median(measured)), 4) if measured.size else None


def _span(start: float, end: float, size: int) -> slice:
    first = min(int(start), size - 1)
    return slice(first, max(first + 1, round(end)))
