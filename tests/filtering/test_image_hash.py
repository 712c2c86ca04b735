"""The perceptual hash: look-alikes agree, other pictures do not."""

import hashlib
import io
import itertools
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageDraw, ImageFont

from vila2cli.filtering.duplicates import ImageIndex
from vila2cli.filtering.image_hash import ALL_FOUND, NUM_BITS, ImageHash, image_hash
from vila2cli.image import decode_image
from vila2cli.settings import FilterSettings
from vila2cli.world.draw import draw_picture
from vila2cli.world.scenes import draw_scene

MAX_DISTANCE = FilterSettings().max_distance
Layout = Callable[[Random], Image.Image]
WORDS = ("market", "model", "river", "energy", "school", "data", "growth", "water", "image", "value", "history")


def again(image: Image.Image, kind: str = "JPEG", *, side: float = 1.0, **options: int) -> Image.Image:
    """The picture resized and encoded anew."""
    size = (max(1, round(image.width * side)), max(1, round(image.height * side)))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, kind, **options)
    return decode_image(stream.getvalue())


def copies(image: Image.Image) -> list[Image.Image]:
    return [
        again(image, quality=90),
        again(image, quality=40),
        again(image, "WEBP", quality=75),
        again(image, side=0.5, quality=85),
        again(image, side=1.7, quality=85),
    ]


def pictures(num: int) -> list[Image.Image]:
    return [draw_picture(draw_scene(Random(i), "pretrain"), Random(i)).convert("RGB") for i in range(num)]


def test_a_copy_that_was_encoded_or_resized_looks_the_same() -> None:
    for image in pictures(20):
        image = image.resize((320, 240), Image.Resampling.LANCZOS)
        assert all(image_hash(copy).is_like(image_hash(image), MAX_DISTANCE) for copy in copies(image))


def test_other_pictures_look_different() -> None:
    hashes = [image_hash(image) for image in pictures(150)]
    assert not any(a.is_like(b, MAX_DISTANCE) for a, b in itertools.combinations(hashes, 2))


def test_colour_counts_where_brightness_is_the_same() -> None:
    shirt = Image.new("RGB", (200, 200), (230, 230, 230))
    red, green = shirt.copy(), shirt.copy()
    red.paste((200, 40, 40), (50, 50, 150, 150))
    green.paste((20, 120, 40), (50, 50, 150, 150))
    assert abs(red.convert("L").getpixel((100, 100)) - green.convert("L").getpixel((100, 100))) < 8  # type: ignore[operator]
    assert not image_hash(red).is_like(image_hash(green), MAX_DISTANCE)


def test_pictures_without_structure_are_told_apart_by_colour_alone() -> None:
    black, white = Image.new("RGB", (64, 48)), Image.new("RGB", (64, 48), "white")
    grey, noisy = Image.new("RGB", (300, 300), (128, 128, 128)), Image.new("RGB", (300, 300), (128, 128, 128))
    noise = Random(0)
    noisy.putdata([tuple([128 + noise.choice((-1, 0, 1))] * 3) for _ in range(300 * 300)])
    assert image_hash(grey).bits == image_hash(black).bits == image_hash(white).bits
    assert not image_hash(black).is_like(image_hash(white), MAX_DISTANCE)
    assert image_hash(grey).is_like(image_hash(noisy), MAX_DISTANCE)


def test_a_hash_survives_being_stored() -> None:
    for image in pictures(5):
        one = image_hash(image)
        assert ImageHash.parse(str(one)) == one
        assert one.bits < 2**NUM_BITS


def agree_in_a_band(one: ImageHash, other: ImageHash, max_distance: int) -> bool:
    bands = zip(one.bands(max_distance), other.bands(max_distance), strict=True)
    return any(a == b for a, b in bands)


def test_near_hashes_agree_in_a_band() -> None:
    random = Random(3)
    for max_distance in (0, 3, 7, ALL_FOUND):
        for _ in range(200):
            bits = random.getrandbits(NUM_BITS)
            flipped = bits
            for position in random.sample(range(NUM_BITS), max_distance):
                flipped ^= 1 << position
            assert agree_in_a_band(ImageHash(bits, b""), ImageHash(flipped, b""), max_distance)


def small_copies(image: Image.Image) -> list[Image.Image]:
    """As thumbnails are kept: 64 pixels wide at most, and strongly compressed."""
    side = 64 / max(image.size)
    return [again(image, side=side, quality=q) for q in (30, 20, 10)] + [
        again(image, "WEBP", side=side, quality=20)
    ]


def share_found(images: list[Image.Image]) -> float:
    """Of all small copies those that an index finds."""
    hashes = [(image_hash(image), image_hash(copy)) for image in images for copy in small_copies(image)]
    found = [
        copy.is_like(one, MAX_DISTANCE) and agree_in_a_band(one, copy, MAX_DISTANCE) for one, copy in hashes
    ]
    return sum(found) / len(found)


def test_small_strongly_compressed_copies_are_found() -> None:
    assert share_found(pictures(40)) > 0.97


@pytest.mark.slow
def test_photographs(real_data: Path) -> None:
    files = sorted(real_data.glob("coco_ccby/**/*.jpg")) + sorted(real_data.glob("dali_coco_cc0/**/*.jpg"))
    photos = [decode_image(path.read_bytes()) for path in files[:80]]
    hashes = [image_hash(photo) for photo in photos]
    far = sum(
        not image_hash(copy).is_like(one, MAX_DISTANCE)
        for photo, one in zip(photos, hashes, strict=True)
        for copy in copies(photo)
    )
    assert far == 0
    assert not any(a.is_like(b, 32) for a, b in itertools.combinations(hashes, 2))
    assert share_found(photos) > 0.8


def words(random: Random, num: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(num))


def sheet(lines: list[tuple[int, int, int, str]], *, is_dark: bool = False, side: int = 800) -> Image.Image:
    """Lines of text, each with its place and height, on a plain ground."""
    ground, ink = ((20, 24, 40), (235, 235, 235)) if is_dark else ((255, 255, 255), (10, 10, 10))
    image = Image.new("RGB", (side, side * 3 // 4), ground)
    for x, y, height, text in lines:
        ImageDraw.Draw(image).text((x, y), text, fill=ink, font=ImageFont.load_default(height))
    return image


def lecture(random: Random) -> Image.Image:
    points = [(80, 150 + 60 * i, 26, f"{i + 1}. {words(random, 3)}") for i in range(3)]
    return sheet([(60, 40, 44, "Lecture notes"), *points])


def dark_slide(random: Random) -> Image.Image:
    points = [(80, 150 + 60 * i, 24, f"- {words(random, 4)}") for i in range(4)]
    return sheet([(60, 40, 40, words(random, 3).title()), *points], is_dark=True)


def chapter(random: Random) -> Image.Image:
    return sheet([(250, 200, 60, f"Chapter {random.randint(1, 99)}"), (250, 300, 36, words(random, 2))])


def sentence(random: Random) -> Image.Image:
    return sheet([(50, 270, 30, f"The {words(random, 5)}.")])


def exam(random: Random) -> Image.Image:
    sums = [f"{i + 1}) {random.randint(10, 99)} + {random.randint(10, 99)} = ____" for i in range(4)]
    return sheet([(60, 50 + 140 * i, 30, text) for i, text in enumerate(sums)])


def form(random: Random) -> Image.Image:
    names = ("Name", "Street", "City", "Phone", "Date")
    rows = [(60, 120 + 80 * i, 22, f"{name}: {words(random, 3)}") for i, name in enumerate(names)]
    image = sheet([(60, 40, 36, "Application for membership"), *rows])
    for i in range(len(names)):
        ImageDraw.Draw(image).line((120, 148 + 80 * i, 740, 148 + 80 * i), fill="black")
    return image


def big_number(random: Random) -> Image.Image:
    """What tells two of them apart is often in the small words alone."""
    image = sheet([])
    middle = {"anchor": "mm", "fill": (0, 90, 180)}
    number, text = f"{random.randint(0, 99):02d}%", words(random, 2)
    ImageDraw.Draw(image).text((400, 250), number, font=ImageFont.load_default(160), **middle)
    ImageDraw.Draw(image).text((400, 400), text, font=ImageFont.load_default(30), **middle)
    return image


def weekly(random: Random) -> Image.Image:
    """A bar of strong colour above a few words."""
    image = sheet([(50, 190 + 100 * i, 26, words(random, 3)) for i in range(3)])
    ImageDraw.Draw(image).rectangle((0, 0, 800, 90), fill=(0, 51, 102))
    ImageDraw.Draw(image).text((40, 26), "Weekly report", fill="white", font=ImageFont.load_default(36))
    return image


LAYOUTS = [lecture, dark_slide, chapter, sentence, exam, form, big_number, weekly]


def of_a_layout(layout: Layout, num: int) -> list[Image.Image]:
    """Sheets of one layout, no two of which say the same."""
    found: dict[bytes, Image.Image] = {}
    random = Random(layout.__name__)
    while len(found) < num:
        image = layout(random)
        found[image.tobytes()] = image
    return list(found.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sheets_that_say_something_else_look_different(layout: Layout) -> None:
    """They agree in their low frequencies, which are those of the layout."""
    hashes = [image_hash(image) for image in of_a_layout(layout, 60)]
    pairs = list(itertools.combinations(hashes, 2))
    assert not any(a.is_like(b, MAX_DISTANCE) for a, b in pairs)
    alike = sum(replace(a, detail=None).is_like(replace(b, detail=None), MAX_DISTANCE) for a, b in pairs)
    assert alike > 0, "what the test is about does not happen here"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_of_a_sheet_look_the_same(layout: Layout) -> None:
    for image in of_a_layout(layout, 4):
        others = [*copies(image), again(image, quality=10), again(image, side=0.3, quality=75)]
        thumbnails = [again(image, side=64 / image.width, quality=50)]
        for copy in [*others, *thumbnails]:
            assert image_hash(copy).is_like(image_hash(image), MAX_DISTANCE)


def test_a_sheet_and_a_photograph_have_their_own_hashes_stored() -> None:
    one, noise = image_hash(exam(Random(1))), image_hash(Image.effect_noise((400, 300), 90).convert("RGB"))
    assert one.detail is not None
    assert noise.detail is None
    assert ImageHash.parse(str(one)) == one
    assert ImageHash.parse(str(noise)) == noise
    assert replace(one, detail=None).is_like(one, 0), "a hash that was stored before there was a detail"


def test_real_pictures_lose_their_copies_and_no_others(real_data: Path) -> None:
    """Beside equal files: two of NLVR's drawings, and three pairs of figures that are one cut in two ways."""
    for pattern, found in (("nlvr_dev/**/*.png", 2), ("openstax_astronomy/**/*.jpg", 3)):
        index = ImageIndex(sqlite3.connect(":memory:"), "images", MAX_DISTANCE)
        num_near = 0
        for number, path in enumerate(sorted(real_data.glob(pattern))):
            data = path.read_bytes()
            sha256, look = hashlib.sha256(data).digest(), str(image_hash(decode_image(data)))
            match = index.find(sha256, look)
            if match is None:
                index.add(number, sha256, look)
            else:
                num_near += not match.is_exact
        assert num_near == found
