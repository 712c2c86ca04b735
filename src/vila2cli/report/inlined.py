"""Pictures on the page: small, and inside of it."""

from dataclasses import dataclass

from PIL import Image

from vila2cli.image import jpeg_url, shrink, to_jpeg

MAX_SIDE = 480
MIN_ACROSS = 120
"""Pixels of the shorter side of a strip, which is scrolled."""
STRIP = 3
"""Times as wide as it is high, from which on a picture is a strip."""
PIXEL_ART_SIDE = 128
"""Images up to this many pixels are shown with hard pixel edges."""


@dataclass(frozen=True, slots=True)
class InlinePicture:
    """A JPEG as a data URL with its size in pixels, or a note that says why there is none."""

    url: str = ""
    width: int = 0
    height: int = 0
    note: str = ""
    pixelated: bool = False

    @property
    def is_strip(self) -> bool:
        """Whether it is scrolled; asked by the templates."""
        return self.width > STRIP * self.height


def picture_of(image: Image.Image, *, quality: int = 80) -> InlinePicture:
    """An image of at most MAX_SIDE pixels a side, but for strips; pixel art keeps its colours."""
    pixelated = max(image.size) <= PIXEL_ART_SIDE
    shrink(image, MAX_SIDE, MIN_ACROSS, Image.Resampling.LANCZOS)
    jpeg = to_jpeg(image, quality=92, subsampling=0) if pixelated else to_jpeg(image, quality=quality)
    return InlinePicture(jpeg_url(jpeg), *image.size, pixelated=pixelated)
