"""What tests of several stages are made of."""

from pathlib import Path

import pytest
from own_pictures import picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures as people have them: in folders, in any spelling, beside other files."""
    files = {
        "IMG_1.JPG": picture("JPEG"),
        "trip/IMG_1.jpg": picture("JPEG", "blue"),
        "trip/day.2/a b.webp": picture("WEBP"),
        "trip/day.2/ünï.png": picture(),
        "a.png": picture(),
        "a.jpg": picture("JPEG"),
        "phone.heic": b"not read",
        "broken.png": b"no picture",
        ".thumbs/IMG_1.jpg": b"hidden",
        "notes.docx": b"no picture",
    }
    for name, data in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"
