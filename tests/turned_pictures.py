"""One picture stored in many formats, turned in as many ways as an EXIF tag can turn it back."""

import io

from PIL import Image, features

TURN_AWAY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture has to be stored so that its EXIF orientation turns it back."""

LOSSLESS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "TIFF": {},
}
"""How each format keeps areas of one colour as they are, or nearly so."""

TURNED_FORMATS = [name for name in LOSSLESS if name != "AVIF" or features.check("avif")]


def corners(size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Red at the top left, blue at the bottom right, white elsewhere: no turn of it looks like another."""
    upright = Image.new("RGB", size, "white")
    upright.paste("red", (0, 0, size[0] // 2, size[1] // 2))
    upright.paste("blue", (size[0] // 2, size[1] // 2, *size))
    return upright


def stored_turned(upright: Image.Image, format: str, orientation: int) -> bytes:
    """The file of a picture that was taken with the camera turned."""
    stored = upright.transpose(TURN_AWAY[orientation]) if orientation in TURN_AWAY else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored.save(stream, format, exif=exif, **LOSSLESS[format])
    return stream.getvalue()
