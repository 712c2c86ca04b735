import io
import json
import os
import random
import struct
import warnings
from pathlib import Path

import pytest
from PIL import Image, features

from vila2cli.errors import DataError
from vila2cli.image import decode_image, image_size

ODD_IMAGES = (
    Path(os.environ.get("VILA2_TEST_DATA", Path(__file__).parents[1] / "../shared/data")) / "odd_images"
)
needs_odd_images = pytest.mark.skipif(not ODD_IMAGES.is_dir(), reason=f"needs real images in {ODD_IMAGES}")


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = decode_image(encode(Image.new("RGB", (6, 4), "white").convert(mode)))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (255, 255, 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str) -> None:
    clear_red = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
    assert decode_image(encode(clear_red)).getpixel((1, 1)) == (255, 255, 255)


def test_half_transparency_is_blended() -> None:
    red, green, blue = decode_image(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))).getpixel((0, 0))
    assert (red, green) == (255, blue)
    assert abs(green - 127) <= 1


def test_transparent_palette_entry_and_colour_key() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    assert decode_image(encode(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(encode(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    blue = Image.new("RGB", (4, 4), (0, 0, 255))
    assert decode_image(encode(blue, transparency=(0, 0, 255))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(format: str) -> None:
    red = decode_image(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format)).getpixel((4, 4))
    assert red[0] > 250
    assert max(red[1:]) < 5


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_steps(format: str) -> None:
    ramp = Image.frombytes("I;16", (4, 1), struct.pack("<4H", 0, 0x4000, 0x8000, 0xFFFF))
    levels = list(decode_image(encode(ramp, format)).tobytes()[::3])
    assert levels == [0, 0x40, 0x80, 0xFF]


def test_float_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="floating-point"):
        decode_image(encode(Image.new("F", (4, 4), 0.5), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """The upright picture has its red corner at the top left; it is stored turned away from there."""
    upright = Image.new("RGB", (16, 8), "white")
    upright.paste("red", (0, 0, 8, 4))
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encode(stored, "PNG", exif=exif))
    assert image.tobytes() == upright.tobytes()


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encode(
        Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\xff\xff"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data).size == (8, 8)


def test_max_pixels_is_checked_before_decoding() -> None:
    bomb = encode(Image.new("1", (20_000, 20_000)))
    for data, limit in [(bomb, 16_000_000), (encode(Image.new("L", (11, 10))), 109)]:
        with pytest.raises(DataError, match="limit"):
            decode_image(data, max_pixels=limit)
    assert decode_image(encode(Image.new("L", (11, 10))), max_pixels=110).size == (11, 10)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_no_image(data: bytes) -> None:
    with pytest.raises(DataError):
        decode_image(data)
    with pytest.raises(DataError):
        image_size(data)


def test_formats_that_start_programs_are_not_opened() -> None:
    with pytest.raises(DataError, match="not an image in a format that is read"):
        decode_image(encode(Image.new("RGB", (8, 8)), "EPS"))


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("GIF", {}), ("TIFF", {})]
)
def test_damaged_bytes_are_data_errors(format: str, options: dict[str, object]) -> None:
    """Whatever is flipped or cut, the outcome is an image or a DataError."""
    rng = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    image = Image.effect_noise((24, 24), 80).convert("RGB")
    whole = encode(image, format, **({} if format == "GIF" else {"exif": exif}))
    num_refused = 0
    for _ in range(300):
        data = bytearray(whole[: rng.choice([len(whole), rng.randrange(1, len(whole))])])
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert decode_image(bytes(data)).mode == "RGB"
        except DataError:
            num_refused += 1
    assert num_refused > 50


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_whose_pixels_are_damaged_is_a_data_error() -> None:
    data = bytearray(encode(Image.effect_noise((96, 96), 50).convert("RGB"), "AVIF"))
    start = data.find(b"mdat") + 4
    data[start : start + 200] = random.Random(5).randbytes(200)
    with pytest.raises(DataError, match=r"cannot be decoded: .*Failed to decode frame"):
        decode_image(bytes(data))


@needs_odd_images
def test_real_odd_images() -> None:
    index = [json.loads(line) for line in (ODD_IMAGES / "index.jsonl").read_text().splitlines()]
    assert {entry.get("mode") for entry in index} >= {"CMYK", "L", "RGBA"}
    for entry in index:
        data = (ODD_IMAGES / entry["file"]).read_bytes()
        if entry["file"].startswith("truncated"):
            with pytest.raises(DataError, match="truncated"):
                decode_image(data)
            continue
        image = decode_image(data)
        assert image.mode == "RGB"
        assert image.size == image_size(data)
        darkest, brightest = image.convert("L").getextrema()
        assert brightest - darkest > 150, entry["file"]
        if entry["file"].startswith("CMYK"):
            corner = image.getpixel((2, 2))
            assert min(corner) > 200, f"{entry['file']}: the page around these figures is light, not {corner}"
