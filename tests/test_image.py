import io
import json
import os
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from turned_pictures import LOSSLESS, TURN_AWAY, TURNED_FORMATS, corners, stored_turned
from vila2cli.errors import DataError
from vila2cli.files import BOMB_PIXELS, DEFAULT_MAX_PIXELS
from vila2cli.image import MAX_ASPECT, Size, decode_image, image_size, is_inexact, stored_as, upright_header

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


def test_a_transparent_level_of_16_bit_grey_becomes_white() -> None:
    ramp = Image.frombytes("I;16", (4, 1), struct.pack("<4H", 0, 0x4000, 0x8000, 0x4001))
    levels = list(decode_image(encode(ramp, transparency=0x4000)).tobytes()[::3])
    assert levels == [0, 255, 0x80, 0x40]


def test_float_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="floating-point"):
        decode_image(encode(Image.new("F", (4, 4), 0.5), "TIFF"))


def far_apart(image: Image.Image, other: Image.Image) -> int:
    """The largest difference of a grey level, away from edges, where a format may smooth the colours."""
    assert image.size == other.size
    width, height = image.size
    places = [(x, y) for x in (width // 8, -width // 8 % width) for y in (height // 8, -height // 8 % height)]
    pairs = [zip(image.getpixel(place), other.getpixel(place), strict=True) for place in places]
    return max(abs(a - b) for pair in pairs for a, b in pair)


@pytest.mark.parametrize("format", TURNED_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_once_in_every_format(format: str, orientation: int) -> None:
    """What comes has nothing left by which the next reader would turn it again."""
    upright = corners()
    data = stored_turned(upright, format, orientation)
    image = decode_image(data)
    assert far_apart(image, upright) <= 8
    assert (image.info, dict(image.getexif())) == ({}, {})
    assert ImageOps.exif_transpose(image).tobytes() == image.tobytes()
    stored = (32, 64) if orientation >= 5 else (64, 32)
    assert stored_as(data) == (stored, orientation)
    assert upright_header(data) == (64, 32, {"MPO": "jpeg"}.get(format, format.lower()))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_orientation_in_xmp_alone_is_applied_once(orientation: int) -> None:
    upright = corners()
    stored = upright.transpose(TURN_AWAY[orientation]) if orientation in TURN_AWAY else upright
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    data = encode(stored, "JPEG", xmp=xmp, **LOSSLESS["JPEG"])
    image = decode_image(data)
    assert upright_header(data)[:2] == image.size
    assert far_apart(image, upright) <= 8
    assert ImageOps.exif_transpose(image).tobytes() == image.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_only_pixels_come_out(format: str) -> None:
    """Neither profile nor resolution, nor what else one library or another would act upon."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(corners(), format, icc_profile=profile, dpi=(300, 300))
    assert decode_image(data).info == {}


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encode(
        Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\xff\xff"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data).size == (8, 8)


def test_a_bomb_is_refused_before_decoding_and_the_line_names_the_setting() -> None:
    with pytest.raises(DataError, match=r"over the limit of 178,956,970 pixels.*data\.max_pixels"):
        decode_image(encode(Image.new("1", (20_000, 20_000))))
    just_over = encode(Image.new("1", (20_000, BOMB_PIXELS // 20_000 + 1)))
    with pytest.raises(DataError, match=r"over the limit of 178,956,970 pixels.*data\.max_pixels"):
        decode_image(just_over)


@pytest.mark.parametrize("format", TURNED_FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_image_is_scaled_down_and_keeps_its_shape(format: str, orientation: int) -> None:
    upright = corners((1200, 800))
    data = stored_turned(upright, format, orientation)
    image = decode_image(data, max_pixels=240_000)
    assert image.size in ((600, 400), (599, 400), (600, 399))
    assert far_apart(image, upright.resize(image.size)) <= 8
    assert image.tobytes() == decode_image(data, max_pixels=240_000).tobytes()
    assert stored_as(data)[0] == ((800, 1200) if orientation == 6 else (1200, 800))


def test_an_image_at_the_limit_is_left_as_it_is() -> None:
    noise = Image.effect_noise((40, 30), 80).convert("RGB")
    assert decode_image(encode(noise), max_pixels=1200).tobytes() == noise.tobytes()
    assert decode_image(encode(noise), max_pixels=1199).size == (39, 29)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_every_mode_can_be_scaled_down(mode: str) -> None:
    large = Image.new("RGB", (5000, 4000), "white")
    large.paste("black", (0, 0, 2500, 4000))
    stored = large.convert("L").convert("I").point(lambda grey: grey * 257) if mode == "I;16" else large
    format = "TIFF" if mode == "CMYK" else "PNG"
    image = decode_image(encode(stored.convert(mode), format))
    assert image.width * image.height <= DEFAULT_MAX_PIXELS
    assert image.size == (4472, 3577)
    assert max(image.getpixel((100, 100))) < 4
    assert min(image.getpixel((4400, 3500))) > 251


@pytest.mark.parametrize("size", [(60_000, 20), (20, 60_000), (3_000_000, 1), (250, 2)])
def test_a_line_is_made_shorter_not_refused(size: tuple[int, int]) -> None:
    image = decode_image(encode(Image.new("RGB", size, "red")))
    assert max(image.size) == MAX_ASPECT * min(image.size)
    assert min(image.size) == min(size)
    assert image.getpixel((0, 0)) == (255, 0, 0)


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
        assert image.size == image_size(data) == upright_header(data)[:2]
        darkest, brightest = image.convert("L").getextrema()
        assert brightest - darkest > 150, entry["file"]
        if entry["file"].startswith("CMYK"):
            corner = image.getpixel((2, 2))
            assert min(corner) > 200, f"{entry['file']}: the page around these figures is light, not {corner}"


def photograph(size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    """Soft and sharp edges as a JPEG."""
    across = Image.linear_gradient("L").rotate(90).resize(size)
    rings = Image.radial_gradient("L").point(lambda level: level // 64 % 2 * 255).resize(size)
    image = Image.merge("RGB", (across, rings, Image.radial_gradient("L").resize(size)))
    return encode(image.convert(mode), "JPEG", quality=90, **options)


def made_of(wanted: Size) -> tuple[list[Size], Callable[[Size], Size]]:
    """A processor that makes every image `wanted`, and the sizes that it was asked about."""
    asked: list[Size] = []

    def made(size: Size) -> Size:
        asked.append(size)
        return wanted

    return asked, made


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_decoded_no_larger_than_needed(mode: str, progressive: bool) -> None:
    data = photograph((801, 600), mode, progressive=progressive)
    whole = decode_image(data)
    for wanted, size in {
        (200, 150): (401, 300),
        (201, 150): (801, 600),
        (200, 151): (801, 600),
        (99, 75): (201, 150),
        (9, 9): (101, 75),
        (3000, 9): (801, 600),
    }.items():
        image = decode_image(data, made=made_of(wanted)[1])
        assert (image.size, image.mode) == (size, "RGB")
        apart = np.abs(np.asarray(image, int) - np.asarray(whole.resize(size, Image.Resampling.BOX), int))
        assert apart.mean() < 10
    exact = decode_image(data, draft=0, made=made_of((9, 9))[1])
    assert exact.tobytes() == whole.tobytes()
    assert (is_inexact(exact), is_inexact(whole)) == (False, False)
    assert is_inexact(decode_image(data, made=made_of((400, 300))[1]))
    assert decode_image(data, draft=1, made=made_of((400, 300))[1]).size == (401, 300)


def test_what_an_image_is_made_is_asked_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    asked, made = made_of((150, 200))
    assert decode_image(photograph((800, 600), exif=exif), made=made).size == (300, 400)
    assert asked == [(600, 800)]


def test_only_a_jpeg_is_decoded_smaller() -> None:
    data = encode(Image.open(io.BytesIO(photograph((800, 600)))), "PNG")
    assert decode_image(data, made=made_of((9, 9))[1]).tobytes() == decode_image(data).tobytes()
    assert decode_image(photograph((800, 600)), made=lambda size: None).size == (800, 600)


def test_an_image_that_is_scaled_down_may_be_decoded_smaller_still() -> None:
    data = photograph((800, 600))
    assert decode_image(data, max_pixels=400 * 300).size == (400, 300)
    assert decode_image(data, max_pixels=400 * 300, made=made_of((50, 30))[1]).size == (100, 75)
