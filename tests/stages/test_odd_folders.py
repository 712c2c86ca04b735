"""Folders of pictures as disks have them: links to nothing, pipes, folders that nobody may look into."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_pictures import picture, samples

from vila2cli.errors import DataError, DataWarning
from vila2cli.stages.convert import convert

NOBODY = 65_534


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture())
    return folder


def rejects(folder: Path) -> dict[str, str]:
    rows = map(json.loads, (folder / "rejects.jsonl").read_text().splitlines())
    return {row["key"]: row["reason"] for row in rows}


def test_what_is_called_a_picture_and_is_no_file_is_a_reject(photos: Path, tmp_path: Path) -> None:
    """Links to nothing are what git-annex leaves of pictures that were not fetched."""
    (photos / "annexed.jpg").symlink_to("../.git/annex/objects/x")
    (photos / "circle.jpg").symlink_to("circle.jpg")
    (photos / "linked.jpg").symlink_to("a.png")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    counts = convert("folder", [photos], tmp_path / "out")
    assert list(samples(tmp_path / "out")) == ["a", "b", "linked"]
    assert (counts.num_in, dict(counts.dropped)) == (6, {"unreadable": 3})
    assert sorted(rejects(tmp_path / "out").values()) == ["unreadable"] * 3


def test_a_name_that_is_as_long_as_a_name_may_be(photos: Path, tmp_path: Path) -> None:
    """No text can be called after it with .txt behind."""
    (photos / f"{'c' * 251}.png").write_bytes(picture())
    convert("folder", [photos], tmp_path / "out")
    assert list(samples(tmp_path / "out")) == ["a", "b", "c" * 251]


def test_a_text_in_capitals_beside_a_picture(photos: Path, tmp_path: Path) -> None:
    (photos / "a.TXT").write_text("as a camera writes it")
    convert("folder", [photos], tmp_path / "out")
    assert [one.text for one in samples(tmp_path / "out").values()] == ["as a camera writes it", None]


@pytest.mark.parametrize("text", ["file,caption\n", "file,caption\na.png,b,c\n"])
def test_a_table_with_a_head_alone_is_told_as_such(photos: Path, tmp_path: Path, text: str) -> None:
    table = tmp_path / "alt.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=r"alt\.csv has no row that can be read"):
        convert("folder", [photos], tmp_path / "out", captions=[table])


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Read files as a user who is not root, whom no mode keeps out."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)


def closed(path: Path) -> Path:
    path.chmod(0)
    return path


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A folder that anybody may write into, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_what_may_not_be_read_is_named(shared_place: Path) -> None:
    photos = shared_place / "photos"
    for name in (".", "lost+found", "texts"):
        (photos / name).mkdir(parents=True, exist_ok=True)
        (photos / name / "a.png").write_bytes(picture())
    (photos / "b.png").write_bytes(picture())
    (photos / "texts" / "a.txt").write_text("of nobody's concern")
    shut = [closed(photos / "lost+found"), closed(photos / "b.png"), closed(photos / "texts" / "a.txt")]
    try:
        with as_nobody(), pytest.warns(DataWarning, match=r"lost\+found cannot be read \(Permission denied\)"):
            counts = convert("folder", [photos], shared_place / "out")
    finally:
        for path in shut:
            path.chmod(0o700)
    assert list(samples(shared_place / "out")) == ["a"]
    assert (counts.num_in, dict(counts.dropped)) == (3, {"unreadable": 2})
