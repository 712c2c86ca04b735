"""A perceptual hash: what remains of an image that is resized or re-encoded.

195 bits of low frequencies (a DCT of the luminance against its median, after pHash) and the mean
colours of a 4 x 4 grid, which tell apart what brightness alone does not: the red shirt and the
green one, the black frame and the white one.

Copies found within 24 bits, of 250 photographs and diagrams (COCO, pixabay, OpenStax) and of 250
pictures of the embedded world: JPEG of quality 40 at full size 100% and 100%, 64 pixels at quality 30
97% and 100%, at quality 20 91% and 100%, at quality 10 65% and 99%. Within 7 bits they are 99% and
88%, 49% and 84%, 29% and 72%, 4% and 28%. Of 319,600 pairs of the world none is within 27. pHash's usual
64 bits within 10 find more of the smallest copies, and 126 pairs in 179,700 of the world that are none.

Pages of one layout agree in all of that: their low frequencies are those of the layout, and the words are in
the higher ones. So a picture that is mostly plain ground has a detail beside it, from which words can be told:
2,048 bits of projections of its ink at 96 x 96, evened out so that a large title or a bar of colour does not
drown the small words. Of 320 sheets of eight layouts those that the rest takes for the same differ in 114
of them at least, 19 in 20 in over 229; copies of quality 10 or of half the size in 76 at most, of 480 pixels
at quality 30 in 108, of 256 pixels in 123. Lightly drawn boxes around the words double what copies lose.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 14  # frequencies in each direction; the mean is not one of the bits
_PIXELS = 48
_GRID = 4
NUM_BITS = _SIDE**2 - 1
COLOUR_TOLERANCE = 16
"""How far the mean colours of near-duplicates may differ, of 255."""
_FLAT = 32.0
"""No frequency is above this in an image without structure: waves of a twentieth of a grey level."""
_MAX_LOW = 10
_LOW = [place - 1 for place in range(1, _SIDE**2) if sum(divmod(place, _SIDE)) <= _MAX_LOW]
"""The bits of the lowest frequencies, down and across together, which copies change least."""
_NUM_BANDS, _NUM_LOW_BANDS = 8, 4
_MIN_BANDS = 4  # a number of SQLite has 63 digits
ALL_FOUND = 15
"""Largest distance at which no near-duplicate is missed."""
_PLAIN_SHARE, _PLAIN_LEVELS = 0.65, 17
"""A picture is mostly plain ground where at least this share of it is within 17 neighbouring grey levels."""
_DRAWN_SIDE = 256
"""Pixels down and across that are looked at for it."""
_DETAIL_PIXELS = 96
_MIN_SIDE = 160
"""In a smaller picture words cannot be told from each other; there the layout alone counts."""
_GRAIN = 6.0
"""Grey levels that are taken off all ink: noise of the ground, which copies lose, has no more."""
_FAINT = 10.0
"""Grey levels up to which ink counts by how dark it is; above them, by how dark it is for its place."""
_SHARP_SIDE = 300
_DETAIL_BITS = 2048
_SHARP = 1 << _DETAIL_BITS
"""A further bit of the detail: the picture's sides are _SHARP_SIDE pixels or more."""
DETAIL_TOLERANCE, SHARP_TOLERANCE = 140, 100
"""In how many bits of the detail copies may differ, and where both are sharp: by 11 and 9 degrees."""


def _dct(num_pixels: int, num_frequencies: int) -> NDArray[np.float64]:
    pixel, frequency = np.arange(num_pixels), np.arange(num_frequencies)[:, None]
    return np.cos(np.pi * (2 * pixel + 1) * frequency / (2 * num_pixels))


_DCT_FP = _dct(_PIXELS, _SIDE)


@dataclass(frozen=True, slots=True)
class ImageHash:
    """The bits as one number, and the colours as 48 bytes: R, G and B of each cell, row by row.

    `detail` are the bits of what is drawn or written on a plain ground, None for other pictures.
    """

    bits: int
    colours: bytes
    detail: int | None = None

    def __str__(self) -> str:
        """The form it is stored in, which `parse` reads."""
        detail = "" if self.detail is None else f"-{self.detail:0{_DETAIL_BITS // 4 + 1}x}"
        return f"{self.bits:0{(NUM_BITS + 3) // 4}x}-{self.colours.hex()}{detail}"

    @classmethod
    def parse(cls, text: str) -> "ImageHash":
        bits, _, rest = text.partition("-")
        colours, _, detail = rest.partition("-")
        return cls(int(bits, 16), bytes.fromhex(colours), int(detail, 16) if detail else None)

    def is_like(self, other: "ImageHash", max_distance: int) -> bool:
        """Whether at most `max_distance` bits differ, no colour by more than the tolerance, nor the detail.

        Where one of the two has no detail, the other's does not count.
        """
        if (self.bits ^ other.bits).bit_count() > max_distance:
            return False
        if self.detail is not None and other.detail is not None:
            tolerance = SHARP_TOLERANCE if self.detail & other.detail & _SHARP else DETAIL_TOLERANCE
            if (self.detail ^ other.detail).bit_count() > tolerance:
                return False
        return all(abs(a - b) <= COLOUR_TOLERANCE for a, b in zip(self.colours, other.colours, strict=True))

    def bands(self, max_distance: int) -> tuple[int, ...]:
        """Numbers by which near-duplicates are found: hashes are compared that agree in one of them.

        Up to ALL_FOUND they are the bits dealt out to more bands than may differ. Above, where those would
        be short and agree with many, most copies agree in one of eight, or of four of the lowest frequencies.
        """
        digits = f"{self.bits:0{NUM_BITS}b}"
        if max_distance <= ALL_FOUND:
            return _dealt(digits, max(_MIN_BANDS, max_distance + 1))
        low = "".join(digits[place] for place in _LOW)
        return _dealt(digits, _NUM_BANDS) + _dealt(low, _NUM_LOW_BANDS)


def _dealt(digits: str, num_bands: int) -> tuple[int, ...]:
    return tuple(int(digits[band::num_bands], 2) for band in range(num_bands))


def image_hash(image: Image.Image) -> ImageHash:
    """Hash an RGB image, as `decode_image` gives it."""
    light = image.convert("L")
    grey = light.resize((_PIXELS, _PIXELS), Image.Resampling.BICUBIC)
    frequencies = (_DCT_FP @ np.asarray(grey, dtype=np.float64) @ _DCT_FP.T).ravel()[1:]
    is_flat = np.abs(frequencies).max() < _FLAT
    signs = np.zeros(NUM_BITS, dtype=bool) if is_flat else frequencies > np.median(frequencies)
    bits = int("".join("1" if sign else "0" for sign in signs), 2)
    return ImageHash(bits, image.resize((_GRID, _GRID), Image.Resampling.BOX).tobytes(), _detail(light))


def _detail(light: Image.Image) -> int | None:
    """The bits of random projections of the ink on a plain ground: as many differ as the angle is wide."""
    if min(light.size) < _MIN_SIDE or not _is_mostly_plain(light):
        return None
    small = light.resize((_DETAIL_PIXELS, _DETAIL_PIXELS), Image.Resampling.BICUBIC)
    pixels = np.asarray(small, dtype=np.float64)
    ink = pixels - _blurred(pixels)
    ink = np.sign(ink) * np.maximum(np.abs(ink) - _GRAIN, 0)
    if not ink.any():
        return None
    ink /= np.sqrt(_blurred(_blurred(ink**2))) + _FAINT
    projections = _mixing() @ (ink * _flips()) @ _mixing().T
    signs = projections.ravel()[1 : _DETAIL_BITS + 1] > 0
    return int.from_bytes(np.packbits(signs).tobytes()) | (_SHARP if min(light.size) >= _SHARP_SIDE else 0)


def _is_mostly_plain(light: Image.Image) -> bool:
    drawn = light.resize((_DRAWN_SIDE, _DRAWN_SIDE), Image.Resampling.NEAREST)
    sums = np.cumsum([0, *drawn.histogram()])
    most = int((sums[_PLAIN_LEVELS:] - sums[:-_PLAIN_LEVELS]).max())
    return most >= _PLAIN_SHARE * _DRAWN_SIDE**2


def _blurred(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the 5 x 5 pixels around each."""
    for _ in range(2):
        padded = np.pad(pixels, ((2, 2), (0, 0)), mode="edge")
        pixels = np.add.reduce([padded[i : i + _DETAIL_PIXELS] for i in range(5)]).T / 5
    return pixels


@cache
def _mixing() -> NDArray[np.float64]:
    """A rotation in which every pixel has a part in every number: an orthogonal DCT."""
    rows = _dct(_DETAIL_PIXELS, _DETAIL_PIXELS)
    lengths: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


@cache
def _flips() -> NDArray[np.float64]:
    """A sign for every pixel, drawn by a hash so that it is the same everywhere."""
    drawn = b"".join(hashlib.sha256(f"ink {row}".encode()).digest() for row in range(_DETAIL_PIXELS**2 // 256))
    bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8)).astype(np.float64)
    return (2 * bits - 1).reshape(_DETAIL_PIXELS, _DETAIL_PIXELS)
