"""Image bytes to RGB pixels, one function for captioning, training and evaluation; and pixels to JPEG."""

import base64
import contextlib
import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from vila2cli.errors import DataError
from vila2cli.files import BOMB_PIXELS, DEFAULT_DRAFT, DEFAULT_MAX_PIXELS

MAX_ASPECT = 100
"""How often the long side holds the short one at most. Image processors that scale the short side to a few
hundred pixels, or the long one, make gigabytes, or nothing at all, of a line of 60,000 x 20 pixels."""

Size = tuple[int, int]
"""Width and height in pixels."""
Made = Callable[[Size], Size | None]
"""The size to which an image processor scales an image of a size, None where it leaves it as it is."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What may be decoded; of the others Pillow knows, some start programs (EPS) or are hardly ever meant."""

_DRAFTED = ("JPEG", "MPO")
_ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged bytes, beside DecompressionBombError."""


def decode_image(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, draft: float = DEFAULT_DRAFT, made: Made | None = None
) -> Image.Image:
    """Decode to an RGB image, upright (EXIF orientation applied) and with transparency on white.

    With `made` a JPEG is decoded no larger than is needed for `draft` times the size that its image processor
    makes of it, and `is_inexact`; a `draft` of 0 turns that off.
    Nothing of the file's own description (EXIF, XMP, colour profile, resolution) comes with the pixels:
    what reads it would turn them a second time. An image of more than `max_pixels`, or one longer than
    MAX_ASPECT times its breadth, is scaled down, the same way wherever it is decoded. Of an animation it is the
    first frame; 16-bit grey keeps its upper eight bits. Raises DataError for bytes that are no image, are
    cut off, or hold more than BOMB_PIXELS (checked on the header, so a decompression bomb costs nothing).
    """
    with _naming_damage("cannot be decoded"):
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image)
        with _LARGE if image.width * image.height > max_pixels else contextlib.nullcontext():
            if (size := _least_size(image, max_pixels, draft, made)) != image.size:
                image.draft(image.mode, size)  # JPEG alone heeds it: half the size or less as it is decoded
            image.load()
            _check_size(image)
            small = _scaled(image, _scaled_size(image.size, max_pixels))
            turn = UPRIGHT.get(_orientation(image))
            plain = _plain(small if turn is None else small.transpose(turn))
            return inexact(plain) if _is_drafted(image, draft, made) else plain


def pages(data: bytes, most: int) -> tuple[int, list[bytes]]:
    """How many pictures a file such as a TIFF holds, and the first `most`, each as a PNG; raises DataError."""
    found: list[bytes] = []
    with _naming_damage("cannot be decoded"):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        num = getattr(image, "n_frames", 1)
        for number in range(min(num, most)):
            image.seek(number)
            _check_size(image)
            image.load()
            buffer = io.BytesIO()
            _plain(_flatten(image)).save(buffer, "PNG")
            found.append(buffer.getvalue())
    return num, found


@contextlib.contextmanager
def _naming_damage(what: str) -> Iterator[None]:
    """Raise DataError for what Pillow makes of bytes that are no image, or damaged: `what` it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:  # whose words hold an address in memory
        raise DataError(f"not an image in a format that is read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise DataError(_too_large("")) from None
    except MemoryError:
        raise DataError("image does not fit in the memory that is left") from None
    except DAMAGED as error:
        raise DataError(f"image {what}: {error}") from None


def inexact(image: Image.Image) -> Image.Image:
    """The image itself, whose levels may be off by a little from here on."""
    image.is_inexact = True  # type: ignore[attr-defined]
    return image


def is_inexact(image: Image.Image) -> bool:
    """Whether an image was read from a JPEG, whose levels differ by one from decoder to decoder anyway."""
    return getattr(image, "is_inexact", False)


def shrink(
    image: Image.Image,
    longest: int,
    shortest: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> None:
    """Make an image smaller in place, to be looked at: at most `longest` pixels a side.

    A strip keeps `shortest` pixels across, and is at most four times as long for that.
    """
    short, long = sorted(image.size)
    bound = min(max(longest, math.ceil(shortest * long / short)), 4 * longest)
    image.thumbnail((bound, bound), resample)


def to_jpeg(image: Image.Image, *, quality: int, subsampling: int = 2) -> bytes:
    """The pixels as a JPEG; `subsampling` 2 halves the colours' resolution, 0 keeps it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def jpeg_url(jpeg: bytes) -> str:
    """A JPEG as a URL that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


class Decode(Protocol):
    """Makes a picture of its file's bytes as `decode_image` does, for a model that is to be shown it."""

    def __call__(self, data: bytes, *, max_pixels: int, draft: float) -> Image.Image: ...


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as the header states them; raises DataError.

    Of a TIFF with an orientation they are those of the upright picture, of other files those before the turn.
    """
    return _header(data).size


def stored_as(data: bytes) -> tuple[tuple[int, int], int]:
    """How a picture is stored: width and height, and the orientation that `decode_image` undoes.

    The orientation is that of EXIF or XMP, 1 (stored upright) to 8. Pillow turns some formats while it
    decodes them and states their size as turned; what it leaves to be turned tells which. Raises DataError.
    """
    return _stored_as(_header(data))


def _stored_as(image: Image.Image) -> tuple[tuple[int, int], int]:
    orientation = _orientation(image)
    if orientation not in UPRIGHT:
        return image.size, 1
    if orientation < 5:
        return image.size, orientation
    with _naming_damage("cannot be decoded"):
        image.load()
    width, height = image.size
    return (image.size if _orientation(image) == orientation else (height, width)), orientation


def upright_header(data: bytes) -> tuple[int, int, str]:
    """Width and height as `decode_image` gives them before it scales, and the format in small letters.

    Of nearly all files the header is enough. Raises DataError.
    """
    image = _header(data)
    name = "jpeg" if image.format == "MPO" else str(image.format).lower()
    width, height = image.size
    if _may_be_turned(image, data) and _stored_as(image)[1] > 4:
        width, height = height, width
    return width, height, name


def _may_be_turned(image: Image.Image, data: bytes) -> bool:
    """Whether an orientation is to be looked for: to do so, Pillow decodes a PNG, which has some at its end."""
    if image.format == "PNG":
        return any(mark in data for mark in (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type"))
    # A TIFF's size is stated as turned.
    return image.format != "TIFF" and not image.info.keys().isdisjoint(("exif", "xmp"))


def _header(data: bytes) -> Image.Image:
    with _naming_damage("header cannot be read"):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(image)
    return image


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > BOMB_PIXELS:
        raise DataError(_too_large(f" of {image.width}x{image.height} pixels"))


def _too_large(what: str) -> str:
    return (
        f"image{what} is over the limit of {BOMB_PIXELS:,} pixels, above which none is decoded; make it "
        "smaller (those below the limit are scaled down to data.max_pixels)"
    )


_LARGE = threading.Lock()
"""Held while an image that has to be scaled down is decoded: each may take 700 MB, and there are threads."""
_STRIP_PIXELS = 4_000_000


def _scaled_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """The size of an image that is at most MAX_ASPECT times as long as broad and has at most `max_pixels`."""
    width, height = (min(side, MAX_ASPECT * other) for side, other in (size, size[::-1]))
    if (share := max_pixels / (width * height)) < 1:
        width, height = (max(1, int(side * math.sqrt(share))) for side in (width, height))
    return width, height


def _least_size(image: Image.Image, max_pixels: int, draft: float, made: Made | None) -> Size:
    """The size below which an image is not to be decoded, as it is stored."""
    size = _scaled_size(image.size, max_pixels)
    if made is None or not _is_drafted(image, draft, made):
        return size
    is_turned = _orientation(image) >= 5
    if (wanted := made(size[::-1] if is_turned else size)) is None:
        return size
    width, height = (math.ceil(draft * side) for side in (wanted[::-1] if is_turned else wanted))
    return min(size[0], width), min(size[1], height)


def _is_drafted(image: Image.Image, draft: float, made: Made | None) -> bool:
    return made is not None and draft > 0 and image.format in _DRAFTED


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image in RGB at a size that is its own or smaller.

    By the largest whole numbers first, strip by strip, so that of a large image there is one copy at its own
    size, in the mode that it is stored in.
    """
    if image.size == size:
        return _flatten(image)
    across, down = image.width // size[0], image.height // size[1]
    small = Image.new("RGB", (-(-image.width // across), -(-image.height // down)))
    rows = down * max(1, _STRIP_PIXELS // (image.width * down))
    for top in range(0, image.height, rows):
        strip = _flatten(image.crop((0, top, image.width, min(top + rows, image.height))))
        small.paste(strip.reduce((across, down)), (0, top // down))
    return small.resize(size, Image.Resampling.BICUBIC)


def _plain(image: Image.Image) -> Image.Image:
    """The pixels alone, which are not copied."""
    return Image.Image()._new(image.im)


def _orientation(image: Image.Image) -> int:
    """The EXIF tag as it stands, 1 where none can be read: photos with damaged EXIF are common."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except DAMAGED:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB")
    if image.mode == "F":
        raise DataError("image has floating-point pixels, whose black and white nobody states")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit, white where it has the one level that is transparent (a PNG's tRNS)."""
    # convert("L") alone would clip everything above 255 to white.
    grey = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if isinstance(clear := image.info.get("transparency"), int):
        grey = Image.frombytes("L", grey.size, grey.tobytes())  # what it knows of transparency is left behind
        grey.paste(255, mask=Image.fromarray(np.asarray(image) == clear))
    return grey
