"""Every frame ends in one: pixels, shares and grids, three ways of writing a box, eight ways a picture lies."""

import io

import pytest
from PIL import Image, features

from vila2cli.errors import DataError
from vila2cli.formats.specialists.boxes import Frame, box_text, grid_box, seen_from
from vila2cli.image import decode_image, stored_as
from vila2cli.score.box import parse_boxes

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


@pytest.mark.parametrize(
    ("frame", "box"),
    [
        ("pixel-xyxy", (100, 50, 300, 150)),
        ("pixel-xywh", (100, 50, 200, 100)),
        ("pixel-cxcywh", (200, 100, 200, 100)),
        ("unit-xyxy", (0.25, 0.25, 0.75, 0.75)),
        ("unit-xywh", (0.25, 0.25, 0.5, 0.5)),
        ("999-xyxy", (249.75, 249.75, 749.25, 749.25)),
    ],
)
def test_every_frame_ends_in_one(frame: str, box: tuple[float, ...]) -> None:
    assert grid_box(box, Frame.parse(frame, (400, 200)), (400, 200)) == (250, 250, 749, 749)


def test_boxes_follow_a_picture_that_was_made_smaller() -> None:
    frame = Frame("pixel", "xyxy", (1280, 960))
    assert grid_box((0, 0, 640, 480), frame, (384, 288)) == (0, 0, 500, 500)
    assert grid_box((0, 0, 640, 480), frame, (288, 384)) == "size-mismatch"


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((10, 10, 10, 50), "not-a-box"),
        ((10, float("nan"), 20, 50), "not-a-box"),
        ((50, 50, 10, 60), "not-a-box"),
        ((80, 10, 130, 50), "outside"),
        ((10, 10, 10.01, 50), "too-small"),
    ],
)
def test_what_is_no_box_has_a_reason(box: tuple[float, ...], reason: str) -> None:
    assert grid_box(box, Frame("pixel", "xyxy"), (100, 100)) == reason


def test_a_box_that_sticks_out_a_little_is_cut() -> None:
    assert grid_box((-2, 10, 50, 50), Frame("pixel", "xyxy"), (100, 100)) == (0, 100, 500, 500)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=needs_avif)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_upright", [True, False])
def test_a_box_lands_on_its_object_however_the_picture_lies(
    format: str, orientation: int, is_upright: bool
) -> None:
    """A red patch on a picture with an EXIF tag; the box is that of the patch as stored, or as shown."""
    picture = Image.new("RGB", (120, 80), "white")
    picture.paste((255, 0, 0), (16, 24, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    lossless = {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True}
    options = {"quality": 100, "subsampling": "4:4:4"} if format == "AVIF" else lossless
    picture.save(buffer, format, exif=exif, **({} if format in ("PNG", "TIFF") else options))
    data = buffer.getvalue()
    assert stored_as(data) == ((120, 80), orientation)
    shown = decode_image(data)
    seen = _red(shown) if is_upright or orientation < 5 else (16, 24, 40, 40)
    size = shown.size if is_upright or orientation < 5 else (120, 80)
    found = grid_box(seen, Frame("pixel", "xyxy", size), *stored_as(data))
    wanted = [round(999 * value / side) for value, side in zip(_red(shown), shown.size * 2, strict=True)]
    assert list(found) == wanted


def _red(picture: Image.Image) -> tuple[int, ...]:
    box = picture.getchannel("G").point(lambda value: 255 if value < 128 else 0).getbbox()
    assert box is not None
    return box


def test_where_size_and_orientation_do_not_tell_the_picture_is_taken_as_shown() -> None:
    assert seen_from((100, 100), (100, 100), 6) == "upright"
    assert seen_from((120, 80), (120, 80), 3) == "upright"
    assert seen_from((120, 80), (120, 80), 6) == "stored"
    assert seen_from((0, 80), (120, 80), 1) is None


def test_the_text_of_a_box_is_read_back_by_the_scorer() -> None:
    assert box_text((0, 680, 999, 999)) == "[000,680,999,999]"
    assert parse_boxes(box_text((5, 680, 999, 999))) == [(5, 680, 999, 999)]


@pytest.mark.parametrize("text", ["pixels-xyxy", "unit", "unit-yxyx", ""])
def test_an_unknown_frame_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="no box frame"):
        Frame.parse(text)
