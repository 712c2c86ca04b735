"""Depth maps: units, holes, orientation, and what is no depth map."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vila2cli.errors import DataError, RecipeError
from vila2cli.formats.folders import FileFolder
from vila2cli.formats.specialists.depth import DepthMaps
from vila2cli.formats.specialists.pictures import Boxed
from vila2cli.stages.build import build
from vila2cli.world.draw import encode_jpeg

NEAR, FAR = (100, 200, 300, 600), (600, 200, 900, 600)
PLACE = Path("part/a.jpg")


@pytest.fixture
def depth_HW() -> Any:
    """1.5 m on the left, 6 m on the right, and holes."""
    millimetres = np.full((50, 100), 6000, np.uint16)
    millimetres[:, :50] = 1500
    millimetres[::2, ::3] = 0
    return millimetres


def measured(folder: Path, unit: float | None = None, orientation: int = 1) -> list[float | None]:
    things = [Boxed(category="cup", box=NEAR), Boxed(category="cup", box=FAR)]
    stored = (50, 100) if orientation >= 5 else (100, 50)
    maps = DepthMaps(FileFolder(folder), unit)
    return [thing.distance for thing in maps.measure(things, PLACE, stored, orientation)]


def test_png_is_in_millimetres_and_npy_in_metres(tmp_path: Path, depth_HW: Any) -> None:
    Image.fromarray(depth_HW).save(tmp_path / "a.png")
    assert measured(tmp_path) == [1.5, 6.0]
    assert measured(tmp_path, 1 / 256) == [round(1500 / 256, 4), round(6000 / 256, 4)]
    (tmp_path / "part").mkdir()
    metres_1HW = np.where(depth_HW, depth_HW / 500, np.nan)[None].astype(np.float32)
    np.save(tmp_path / "part" / "a.npy", metres_1HW)
    assert measured(tmp_path) == [3.0, 12.0]


def test_a_map_may_lie_as_the_file_does_or_as_it_is_shown(tmp_path: Path, depth_HW: Any) -> None:
    np.save(tmp_path / "a.npy", depth_HW / 1000)
    assert measured(tmp_path, orientation=6) == [1.5, 6.0]
    lying = np.rot90(depth_HW, 1)  # the tag turns it back, clockwise
    np.save(tmp_path / "a.npy", lying / 1000)
    assert measured(tmp_path, orientation=6) == [1.5, 6.0]


def test_where_nothing_was_measured_there_is_no_depth(tmp_path: Path, depth_HW: Any) -> None:
    depth_HW[:, :50] = 0
    Image.fromarray(depth_HW).save(tmp_path / "a.png")
    assert measured(tmp_path) == [None, 6.0]


def test_what_is_no_depth_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no part/a\.png"):
        measured(tmp_path)
    path = tmp_path / "a.png"
    for data, problem in ((b"", "cannot identify"), (encode_jpeg(Image.new("RGB", (9, 9))), "cannot identify")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=problem):
            measured(tmp_path)
    Image.new("L", (100, 50)).save(path)
    with pytest.raises(DataError, match="mode L, not 16-bit"):
        measured(tmp_path)
    Image.new("I;16", (50, 50)).save(path)
    with pytest.raises(DataError, match="50x50 points"):
        measured(tmp_path)
    for array in (np.zeros((2, 3, 3)), np.zeros((50, 100), bool), np.array([{}]), np.zeros((0, 0))):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(DataError, match="cannot read the depth map"):
            measured(tmp_path)
    for data in (b"", b"PK\x03\x04", b"\x93NUMPY", npy_header((10**7, 10**7))):
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.raises(DataError, match="cannot read the depth map"):
            measured(tmp_path)
    (tmp_path / "a.npy").unlink()
    path.write_bytes(png_header(20_000, 20_000))
    with pytest.raises(DataError, match="cannot read the depth map"):
        measured(tmp_path)


def npy_header(shape: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of 16-bit grey that ends where its pixels would begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_depth_decides_front_and_behind(tmp_path: Path, depth_HW: Any) -> None:
    for folder in ("images", "depth"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(encode_jpeg(Image.new("RGB", (100, 50))))
    Image.fromarray(depth_HW).save(tmp_path / "depth" / "a.png")
    objects = [{"category": "cup", "box": NEAR}, {"category": "jug", "box": FAR}]
    lines = [{"image": f"{name}.jpg", "frame": "999-xyxy", "objects": objects} for name in ("a", "b")]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given: dict[str, Any] = {"format": "lines", "annotations": [tmp_path / "lines.jsonl"]}
    given |= {"images": tmp_path / "images", "out": tmp_path / "out", "depth": tmp_path / "depth"}
    summary = build("spatial", **given).to_json()
    assert (summary["out"], summary["dropped"]) == (1, {"unreadable-depth": 1})
    kinds = {"in-front", "behind", "camera-close", "camera-far", "left", "right", "camera-left", "camera-right"}
    assert set(summary["questions"]) == kinds
    with pytest.raises(RecipeError, match="--depth is for spatial"):
        build("grounding", **given)
    with pytest.raises(RecipeError, match="--depth-unit needs --depth"):
        build("spatial", **{**given, "depth": None, "depth_unit": 0.001})
