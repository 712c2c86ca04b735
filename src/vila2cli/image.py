"""Image bytes to RGB pixels: one function for captioning, training and evaluation."""

import io
import struct
import warnings
import zlib

from PIL import Image, UnidentifiedImageError

from vila2cli.errors import DataError

DEFAULT_MAX_PIXELS = 16_000_000
"""Width times height above which an image is refused before its pixels are decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What may be decoded; of the others Pillow knows, some start programs (EPS) or are hardly ever meant."""

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


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode to an RGB image, upright (EXIF orientation applied) and with transparency on white.

    Of an animation it is the first frame; 16-bit grey keeps its upper eight bits. Raises DataError for
    bytes that are no image, are cut off, or hold more than `max_pixels` (checked on the header, so a
    decompression bomb costs nothing).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image, max_pixels)
            image.load()
            _check_size(image, max_pixels)
            return _flatten(_turn_upright(image))
    except UnidentifiedImageError:
        raise DataError(f"not an image in a format that is read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise DataError(f"image is over the limit of {max_pixels} pixels") from None
    except DAMAGED as error:
        raise DataError(f"image cannot be decoded: {error}") from None


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as the header states them, before any EXIF turn; raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS).size
    except (Image.DecompressionBombError, *DAMAGED) as error:
        raise DataError(f"image header cannot be read: {error}") from None


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation that `decode_image` undoes, 1 (upright as it lies) to 8; raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, *DAMAGED) as error:
        raise DataError(f"image header cannot be read: {error}") from None
    orientation = _orientation(image)
    return orientation if orientation in UPRIGHT else 1


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise DataError(f"image of {image.width}x{image.height} pixels is over the limit of {max_pixels}")


def _turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; photos with damaged EXIF are common, and taken as they lie."""
    method = UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    """The EXIF tag as it stands, 1 where there is none that can be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except DAMAGED:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _upper_bits(image).convert("RGB")
    if image.mode == "F":
        raise DataError("image has floating-point pixels, whose black and white nobody states")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit; convert("L") alone would clip everything above 255 to white."""
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
