"""The perceptual hash: look-alikes agree, other pictures do not."""

import io
import itertools
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from vila2cli.image import decode_image
from vila2cli.score.image_hash import ALL_FOUND, NUM_BITS, ImageHash, image_hash
from vila2cli.settings import FilterSettings
from vila2cli.world.draw import draw_picture
from vila2cli.world.scenes import draw_scene

MAX_DISTANCE = FilterSettings().max_distance


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
