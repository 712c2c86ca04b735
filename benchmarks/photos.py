"""Photographs of all-different sizes: real ones of a folder, or drawn ones without it.

They are cut to a random shape and resized (Lanczos) to widths and heights of 500 to 1,100 pixels, no two
pictures alike in both, and saved as JPEG of quality 90 with halved colours, as most web photos are.
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

LEAST, MOST = 500, 1100
_LEAST_FOUND = 150
"""Pictures of a folder that are smaller than this are left out."""


def photos(num: int, folder: Path | None, *, least: int = LEAST, most: int = MOST) -> list[bytes]:
    """So many JPEGs, the same for the same folder, whose photos come again in other shapes."""
    rng = random.Random(0)
    sizes: set[tuple[int, int]] = set()
    while len(sizes) < num:
        sizes.add((rng.randint(least, most), rng.randint(least, most)))
    found = _endless(folder, rng)
    return [
        _jpeg(ImageOps.fit(next(found), size, Image.Resampling.LANCZOS)) for size in sorted(sizes, key=hash)
    ]


def _endless(folder: Path | None, rng: random.Random) -> Iterator[Image.Image]:
    paths = sorted(path for path in (folder or Path()).rglob("*.jp*g")) if folder else []
    rng.shuffle(paths)
    any_found = True
    while any_found and paths:
        any_found = False
        for path in paths:
            try:
                image = Image.open(path).convert("RGB")
            except OSError:
                continue
            if min(image.size) >= _LEAST_FOUND:
                any_found = True
                yield image
    while True:
        yield _drawn(rng)


def _drawn(rng: random.Random) -> Image.Image:
    """Smooth areas with some grain."""
    base = Image.effect_noise((48, 48), 90 + rng.randrange(30)).resize((400, 400), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((400, 400), 24).filter(ImageFilter.GaussianBlur(0.6))
    return Image.merge("RGB", (base, Image.blend(base, grain, 0.3), Image.blend(base, grain, 0.5)))


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()
