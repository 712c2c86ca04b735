"""A conversion that goes on over inputs that changed: all of it as if made from scratch, or one refusal."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.errors import DataError, RecipeError
from vila2cli.shards import open_source, read_shard
from vila2cli.stages.convert import convert
from vila2cli.stages.shards import check

PER_SHARD = 3


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(stream, "BMP")  # all of equal length
    return stream.getvalue()


def write_rows(path: Path, texts: list[str], image: str = "{text}.bmp") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": text, "image": image.format(text=text), "text": text} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tar(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, text in enumerate(texts):
            for extension, data in (("bmp", picture(number)), ("txt", text.encode()), ("json", b"{}")):
                entry = tarfile.TarInfo(f"{number:05}.{extension}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))


Content = Counter[tuple[str, bytes]]


def content(out: Path) -> Content:
    """Texts and pictures of all samples, each as often as it is there."""
    found: Content = Counter()
    for shard in open_source([str(out)]).shards:
        samples = list(read_shard(shard, on_reject=pytest.fail))
        assert len(samples) <= PER_SHARD
        found.update((sample.text or "", sample.images[0].data) for sample in samples)
    assert check(open_source([str(out)])).problems == ()
    return found


def reasons(out: Path) -> Counter[str]:
    rows = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    return Counter(row["error"] for row in rows)


def stop_after(out: Path, num_shards: int) -> None:
    """Leave what a process leaves that is killed while it writes the next shard."""
    for path in out.iterdir():
        if path.name[:6].isdigit() and int(path.name[:6]) >= num_shards:
            path.unlink()
    (out / f"{num_shards:06}.tar.partial").write_bytes(b"half")


def go(folder: Path, out: Path, form: str = "coyo") -> None:
    convert(form, [folder / "in"], out, images=[folder / "pics"], per_shard=PER_SHARD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of five rows, of which c2 has no picture yet."""
    (tmp_path / "pics").mkdir()
    for name in ("c", "m"):
        texts = [f"{name}{i}" for i in range(5)]
        write_rows(tmp_path / "in" / f"{name}.jsonl", texts)
        for shade, text in enumerate(texts):
            if text != "c2":
                (tmp_path / "pics" / f"{text}.bmp").write_bytes(picture(shade))
    return tmp_path


def test_what_is_new_comes_behind_what_is_finished(folder: Path) -> None:
    go(folder, folder / "out")
    before = {tar.name: tar.read_bytes() for tar in (folder / "out").glob("*.tar")}
    for name in ("a", "z"):  # the first sorts before all that was taken
        write_rows(folder / "in" / f"{name}.jsonl", [f"{name}{i}" for i in range(4)], image="c0.bmp")
    go(folder, folder / "out")
    after = {tar.name: tar.read_bytes() for tar in (folder / "out").glob("*.tar")}
    assert before.items() <= after.items()
    go(folder, folder / "fresh")
    assert content(folder / "out") == content(folder / "fresh")
    assert content(folder / "out").total() == 9 + 8
    assert reasons(folder / "out") == reasons(folder / "fresh")


def test_a_tar_that_arrives_earlier_in_the_order(tmp_path: Path) -> None:
    for name in ("00001", "00002"):
        write_tar(tmp_path / "in" / f"{name}.tar", [f"{name} {i}" for i in range(4)])
    (tmp_path / "pics").mkdir()
    go(tmp_path, tmp_path / "out", "img2dataset")
    stop_after(tmp_path / "out", 1)
    write_tar(tmp_path / "in" / "00000.tar", [f"00000 {i}" for i in range(4)])
    go(tmp_path, tmp_path / "out", "img2dataset")
    go(tmp_path, tmp_path / "fresh", "img2dataset")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    assert content(tmp_path / "out").total() == 12


def test_a_conversion_that_is_done_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shards", "convert", "coyo", str(folder / "in"), "--images", str(folder / "pics")]
    words += ["--per-shard", str(PER_SHARD), "--out", str(folder / "out")]
    assert main(words) == 0
    num = len(list((folder / "out").glob("*.tar")))
    assert "already" not in capsys.readouterr().out
    assert main(["shards", "convert", "coyo", str(folder / "inn"), "--out", str(folder / "new")]) == 4
    said = capsys.readouterr()
    assert said.out + said.err == f"vila2: {folder / 'inn'} does not exist\n"
    stop_after(folder / "out", 1)
    assert main(words) == 0
    assert f"there already: 1 of {num} shards" in capsys.readouterr().out
    assert main(words) == 0
    assert f"there already: all {num} shards" in capsys.readouterr().out


def test_a_file_given_twice_is_read_once(folder: Path) -> None:
    inputs = [folder / "in", folder / "in" / "c.jsonl", folder / "in" / ".." / "in" / "m.jsonl"]
    convert("coyo", inputs, folder / "out", images=[folder / "pics"], per_shard=PER_SHARD)
    assert content(folder / "out").total() == 9


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "stopped"])
def test_an_edit_of_equal_length_under_a_finished_shard(folder: Path, is_finished: bool) -> None:
    go(folder, folder / "out")
    if not is_finished:
        stop_after(folder / "out", 1)
    path = folder / "in" / "c.jsonl"
    path.write_text(path.read_text().replace('"text": "c1"', '"text": "C1"'))
    with pytest.raises(
        DataError,
        match=r"out/000000\.tar was made from other .*c\.jsonl \(c1\) differs: its text is not what it was",
    ):
        go(folder, folder / "out")
    path.write_text(path.read_text().replace('"text": "C1"', '"text": "c1"'))
    go(folder, folder / "out")
    assert content(folder / "out").total() == 9


def test_an_edit_of_what_was_not_taken_yet(folder: Path) -> None:
    go(folder, folder / "out")
    stop_after(folder / "out", 1)
    path = folder / "in" / "m.jsonl"
    path.write_text(path.read_text().replace('"text": "m1"', '"text": "M1 is longer"'))
    go(folder, folder / "out")
    go(folder, folder / "fresh")
    assert content(folder / "out") == content(folder / "fresh")


def test_a_picture_that_arrives_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(folder, folder / "out")
    (folder / "pics" / "c2.bmp").write_bytes(picture(2))
    words = ["shards", "convert", "coyo", str(folder / "in"), "--images", str(folder / "pics")]
    assert main([*words, "--per-shard", str(PER_SHARD), "--out", str(folder / "out")]) == 4
    said = capsys.readouterr().err
    assert "(c2) differs: it was rejected (c2: c2.bmp is in none of the places" in said
    assert "remove its stats.json and those of the shards after it" in said
    for stats in (folder / "out").glob("*.stats.json"):
        stats.unlink()
    go(folder, folder / "out")
    go(folder, folder / "fresh")
    assert content(folder / "out") == content(folder / "fresh")
    assert reasons(folder / "out") == Counter()


@pytest.mark.parametrize("how", ["other bytes", "gone", "no picture"])
def test_a_picture_that_changed(folder: Path, how: str) -> None:
    go(folder, folder / "out")
    path = folder / "pics" / "c1.bmp"
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(picture(99) if how == "other bytes" else b"no picture")
    what = {"other bytes": "its picture is not what it was"}.get(how, "")
    with pytest.raises(
        DataError, match=rf"000000\.tar was made from other files .*c\.jsonl \(c1\) differs: {what}"
    ):
        go(folder, folder / "out")


def test_touched_files_are_the_same_files(folder: Path) -> None:
    go(folder, folder / "out")
    before = {tar.name: tar.stat().st_mtime_ns for tar in (folder / "out").glob("*.tar")}
    for path in [*(folder / "pics").iterdir(), *(folder / "in").iterdir()]:
        os.utime(path, (1, 1))
    taken = json.loads((folder / "out" / "000000.stats.json").read_text())["taken"]
    go(folder, folder / "out")
    assert {tar.name: tar.stat().st_mtime_ns for tar in (folder / "out").glob("*.tar")} == before
    assert json.loads((folder / "out" / "000000.stats.json").read_text())["taken"] != taken, (
        "noted for next time"
    )


def test_a_source_that_is_gone_or_longer(folder: Path) -> None:
    go(folder, folder / "out")
    path = folder / "in" / "c.jsonl"
    path.rename(folder / "c.jsonl")
    with pytest.raises(
        DataError, match=r"000000\.tar was made from .*c\.jsonl, which is not among the inputs now"
    ):
        go(folder, folder / "out")
    write_rows(path, [f"c{i}" for i in range(6)])
    with pytest.raises(RecipeError, match=r"c\.jsonl has changed since .*000000\.tar was made from it: sizes"):
        go(folder, folder / "out")


def test_a_finished_shard_that_was_cut_off(folder: Path) -> None:
    go(folder, folder / "out")
    tar = folder / "out" / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:1024])
    with pytest.raises(DataError, match=r"000001\.tar is damaged or cut off"):
        go(folder, folder / "out")


def test_a_shard_that_was_removed_is_made_again(folder: Path) -> None:
    go(folder, folder / "out")
    data = (folder / "out" / "000001.tar").read_bytes()
    (folder / "out" / "000001.stats.json").unlink()
    go(folder, folder / "out")
    assert (folder / "out" / "000001.tar").read_bytes() == data


def test_fewer_items_than_were_taken(folder: Path) -> None:
    write_rows(folder / "in" / "c.jsonl", ["c0"])
    (folder / "in" / "m.jsonl").unlink()
    go(folder, folder / "out")
    shutil.copy(folder / "out" / "000000.tar", folder / "out" / "000001.tar")
    shutil.copy(folder / "out" / "000000.stats.json", folder / "out" / "000001.stats.json")
    with pytest.raises(DataError, match=r"000001\.tar was made from more items than there are now"):
        go(folder, folder / "out")


def test_new_items_that_are_all_unusable(folder: Path) -> None:
    go(folder, folder / "out")
    before = content(folder / "out")
    write_rows(folder / "in" / "z.jsonl", ["z0", "z1"])
    with pytest.raises(DataError, match=r"none of 2 items can be used, see .*000003\.rejects\.jsonl"):
        go(folder, folder / "out")
    assert content(folder / "out") == before


def test_what_an_earlier_release_converted_is_gone_on_with(folder: Path) -> None:
    go(folder, folder / "out")
    expected = content(folder / "out")
    stop_after(folder / "out", 2)
    for path in (folder / "out").glob("*.stats.json"):
        stats = json.loads(path.read_text())
        for key in ("taken", "sources", "reject_lines", "written"):
            del stats[key]
        path.write_text(json.dumps(stats))
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    manifest["inputs"] |= {"inputs": [str(folder / "in")], "sizes": {}, "images": [str(folder / "pics")]}
    (folder / "out" / "manifest.json").write_text(json.dumps(manifest))
    go(folder, folder / "out")
    assert content(folder / "out") == expected
    assert json.loads((folder / "out" / "000000.stats.json").read_text())["sources"][0][0].endswith("c.jsonl")


def test_pictures_that_an_earlier_release_rejected_for_want_of_a_caption_stay_so(tmp_path: Path) -> None:
    rows, images, out = tmp_path / "rows.jsonl", tmp_path / "images", tmp_path / "out"
    images.mkdir()
    rows.write_text("".join(json.dumps({"image": f"{n}.bmp", "text": n.strip("b")}) + "\n" for n in "abcdeb"))
    for name in "acde":
        (images / f"{name}.bmp").write_bytes(picture(ord(name)))
    convert("coyo", [rows], out, images=[images], per_shard=PER_SHARD)
    path = out / "000000.rejects.jsonl"
    reject = {**json.loads(path.read_text()), "reason": "no-caption", "error": "b.bmp has no text"}
    path.write_text(json.dumps(reject) + "\n")
    stop_after(out, 1)
    (images / "b.bmp").write_bytes(picture(0))
    counts = convert("coyo", [rows], out, images=[images], per_shard=PER_SHARD)
    assert (counts.num_in, counts.num_out, counts.num_bare) == (6, 5, 1)


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    for number in range(40):
        write_tar(tmp_path / "in" / f"{number:05}.tar", [f"{number} {i}" for i in range(20)])
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vila2cli", "shards", "convert", "img2dataset", str(tmp_path / "in")]
    command += ["--per-shard", "3", "--out", str(out)]
    num_killed = 0
    for number in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = (number + 1) * 12
        while process.poll() is None and len(list(out.glob("*.tar"))) < wanted:
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        num_killed += process.wait() == -signal.SIGKILL
        write_tar(tmp_path / "in" / f"{number:05}-late.tar", [f"late {number} {i}" for i in range(5)])
    assert num_killed > 2
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    texts = Counter({text: num for (text, _), num in content(out).items()})
    expected = [f"{number} {i}" for number in range(40) for i in range(20)]
    expected += [f"late {number} {i}" for number in range(6) for i in range(5)]
    assert texts == Counter(expected)


NAMES = st.sampled_from("abcdef")
STEPS = st.one_of(
    st.tuples(st.just("add"), NAMES, st.integers(1, 5)),
    st.tuples(st.just("edit"), NAMES, st.integers(0, 4)),
    st.tuples(st.just("remove"), NAMES, st.just(0)),
    st.tuples(st.just("touch"), NAMES, st.just(0)),
    st.tuples(st.just("picture"), NAMES, st.integers(0, 4)),
    st.tuples(st.just("no picture"), NAMES, st.integers(0, 4)),
    st.tuples(st.just("run"), NAMES, st.integers(0, 6)),
)


def step(folder: Path, kind: str, name: str, number: int) -> None:
    """One change of the inputs, or a run that is killed after some shards."""
    rows, image = folder / "in" / f"{name}.jsonl", folder / "pics" / f"{name}{number}.bmp"
    if kind == "add":
        write_rows(rows, [f"{name}{i}" for i in range(number)])
    elif kind == "edit" and rows.exists():
        rows.write_text(rows.read_text().replace(f'"text": "{name}{number}"', f'"text": "{name}X"'))
    elif kind == "remove":
        rows.unlink(missing_ok=True)
    elif kind == "touch":
        for path in folder.glob("*/*"):
            os.utime(path)
    elif kind == "picture":
        image.write_bytes(picture(number + 10 * image.exists()))
    elif kind == "no picture":
        image.unlink(missing_ok=True)
    elif kind == "run":
        with contextlib.suppress(DataError, RecipeError):
            go(folder, folder / "out")
            stop_after(folder / "out", number)


@settings(max_examples=50, deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=12))
def test_whatever_happens_in_between(steps: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pics").mkdir()
        write_rows(folder / "in" / "c.jsonl", [f"c{i}" for i in range(5)])
        for letter in "abcdef":
            for number in range(4):
                (folder / "pics" / f"{letter}{number}.bmp").write_bytes(picture(number))
        for kind, letter, number in steps:
            step(folder, kind, letter, number)
        try:
            go(folder, folder / "out")
        except (DataError, RecipeError):
            return
        go(folder, folder / "fresh")
        assert content(folder / "out") == content(folder / "fresh")
        assert reasons(folder / "out") == reasons(folder / "fresh")
