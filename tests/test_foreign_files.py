"""Nothing that another made is removed or overwritten: it is left alone, or refused in one line."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vila2cli.ask.kept_answers import Answers
from vila2cli.cli.app import main
from vila2cli.errors import DataError, RecipeError
from vila2cli.files import refuse_foreign, sweep, write_atomically
from vila2cli.run.folder import claim, complete_folder
from vila2cli.run.locks import lock
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter
from vila2cli.world.write import write_world


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards in `data/`, and in the current folder nothing else."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        with TarWriter(tmp_path / "data" / f"{number:06}.tar") as tar:
            stream = io.BytesIO()
            Image.effect_noise((64, 64), number + 9.0).convert("RGB").save(stream, "JPEG")
            tar.write_sample(f"{number}", {"jpg": stream.getvalue(), "txt": b"alt"})
    return tmp_path / "data"


MINE = (
    "download.tar.partial",
    "000000.tar.partial",
    ".notes.partial",
    "x.partial",
    ".000000.tar.1234abcd.partial",
)


def test_merge_leaves_partial_files_of_others(data: Path) -> None:
    out = data.parent / "merged"
    out.mkdir()
    for name in MINE:
        (out / name).write_text("mine")
    (out / "folder.partial").mkdir()
    (out / "folder.partial" / "a").write_text("mine")
    for name in (".vila2-000001.tar.partial", ".vila2-x.json.1234abcd.partial"):
        (out / name).write_text("ours, of a run that was killed")
    assert main(["shards", "merge", "data", "--captions", "original", "--out", "merged"]) == 0
    assert {(out / name).read_text() for name in MINE} == {"mine"}
    assert (out / "folder.partial" / "a").read_text() == "mine"
    assert not list(out.glob(".vila2-*"))
    assert sorted(path.name for path in out.glob("*.tar")) == ["000000.tar", "000001.tar"]


def test_a_link_is_no_leftover(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".vila2-x.partial").symlink_to(tmp_path / "mine")
    sweep(tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / ".vila2-x.partial").is_symlink()


@pytest.mark.parametrize("resume", [False, True])
def test_a_partial_folder_of_another_is_refused(tmp_path: Path, resume: bool) -> None:
    out, partial = tmp_path / "soup", tmp_path / "soup.partial"
    partial.mkdir()
    (partial / "thesis.txt").write_text("mine")
    with (
        pytest.raises(DataError, match=r"soup\.partial is there and was not made by vila2"),
        complete_folder(out, resume=resume),
    ):
        pytest.fail("it was begun")
    assert (partial / "thesis.txt").read_text() == "mine"
    (partial / "thesis.txt").unlink()
    with complete_folder(out, resume=resume) as folder:
        (folder / "weights").write_text("x")
    assert [path.name for path in out.iterdir()] == ["weights"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("elsewhere")])
def test_a_file_or_link_with_the_name_of_a_partial_folder_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    make(tmp_path / "out.partial")
    with pytest.raises(DataError, match="was not made by vila2"), complete_folder(tmp_path / "out"):
        pytest.fail("it was begun")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(DataError, match="is there already"), complete_folder(tmp_path / "link"):
        pytest.fail("it was begun")


def test_what_a_killed_run_of_ours_left_is_gone_on_from_or_removed(tmp_path: Path) -> None:
    def begin(resume: bool) -> None:
        with complete_folder(tmp_path / "out", resume=resume) as folder:
            seen.append(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
            (folder / "half").touch()
            raise KeyboardInterrupt

    seen: list[list[str]] = []
    for resume in (True, True, False):
        with pytest.raises(KeyboardInterrupt):
            begin(resume)
    assert seen == [[], ["half"], []]


@pytest.mark.parametrize(
    "name",
    [
        "000.rejects.jsonl",
        "000.stats.json",
        "recipe.toml",
        "summary.json",
        "metrics.json",
        "rejects.jsonl",
        "layer.json",
    ],
)
def test_a_folder_with_files_of_another_is_not_claimed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RecipeError, match=f"holds {name} and no manifest"):
        claim(tmp_path, {"stage": "merge"}, load_recipe())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_locks_have_names_of_their_own(tmp_path: Path) -> None:
    for name in (".out.lock", ".out.whole.lock", "out.lock", ".out.0of2.lock"):
        (tmp_path / name).write_text("mine")
    with lock(tmp_path / "out"):
        claim(tmp_path / "out", {"stage": "merge"})
    assert {path.read_text() for path in tmp_path.glob("*.lock")} == {"mine"}


def test_a_world_is_not_written_over_shards(data: Path) -> None:
    mine = data / "pretrain" / "000000.tar"
    mine.parent.mkdir()
    mine.write_bytes((data / "000000.tar").read_bytes())
    before = mine.read_bytes()
    for tar in data.glob("*.tar"):
        tar.unlink()
    with pytest.raises(RecipeError, match=r"pretrain/000000\.tar is no part of this world"):
        write_world(load_recipe(), data)
    assert mine.read_bytes() == before


def test_a_page_is_written_over_pages_only(data: Path) -> None:
    (data.parent / "run" / "round0" / "sft").mkdir(parents=True)
    notes = data.parent / "notes.html"
    notes.write_text("<p>mine")
    assert main(["report", "run", "--out", "notes.html"]) == 4
    assert notes.read_text() == "<p>mine"
    for _ in range(2):
        assert main(["report", "run", "--out", "page.html"]) == 0
    (data.parent / "empty.html").touch()
    assert main(["report", "run", "--out", "empty.html"]) == 0


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(os.urandom(1000))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("x", "folder", "link"):
        with pytest.raises(DataError):
            refuse_foreign(tmp_path / name, "by vila2")
    refuse_foreign(tmp_path / "none", "by vila2")


@pytest.mark.parametrize("text", ["no newline at the end", '{"mine": 1}', "a line\nanother", "{"])
def test_answers_are_not_added_to_a_file_of_another(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    if text == "{":  # may be an answer of which a crash left one letter
        with Answers(path):
            pass
        return
    with pytest.raises(DataError, match=r"notes\.txt.* is no answer"), Answers(path):
        pytest.fail("it was opened")
    assert path.read_text() == text


def test_a_write_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", [".vila2-out.lock", ".vila2-out.whole.lock", "out/.vila2-000000.tar.partial"])
def test_a_link_with_the_name_of_a_file_of_ours_is_not_written_through(
    data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.parent / "out").mkdir()
    (data.parent / "mine").write_text("mine")
    (data.parent / name).symlink_to(data.parent / "mine")
    assert main(["shards", "merge", "data", "--captions", "original", "--out", "out"]) == DataError.exit_code
    assert Path(name).name in capsys.readouterr().err
    assert (data.parent / "mine").read_text() == "mine"
