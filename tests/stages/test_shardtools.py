import io
import json
import math
import os
import statistics
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.errors import DataError, RecipeError
from vila2cli.run.locks import lock
from vila2cli.shards import Source, TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation, Turn
from vila2cli.stages.merge import merge
from vila2cli.stages.shards import Figures, check, show, stats

ARCHIVES = Path(os.environ.get("VILA2_TEST_DATA", Path(__file__).parents[2] / "../shared/data")) / "wds"
needs_archives = pytest.mark.skipif(not ARCHIVES.is_dir(), reason=f"needs real archives in {ARCHIVES}")


def jpeg(width: int = 8, height: int = 6) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "JPEG")
    return stream.getvalue()


JPEG = jpeg()


def make_base(folder: Path) -> Path:
    for number in range(2):
        with TarWriter(folder / f"{number:06d}.tar") as tar:
            for i in range(3):
                members = {"jpg": jpeg(8 + i), "txt": b"alt text" if i else b"alt\x1b[2J"}
                tar.write_sample(f"{number}-{i}", members | {"json": b'{"url": "u"}'})
    return folder


def make_layer(folder: Path, base: Path, layer: str = "recaption") -> Path:
    source = open_source([str(base)])
    writer = open_layer(folder, layer=layer, source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for number, sample in enumerate(out.samples()):
                out.annotate(sample, Annotation(layer=layer, kind="caption", text="word " * (number + 1)))
    return folder


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def test_clean_shards_have_no_problem(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data")
    report = check(open_source([str(make_layer(tmp_path / "r1", base))]))
    assert (report.num_shards, report.num_samples, report.problems, report.counts) == (2, 6, (), {})


def test_check_lists_every_problem(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar",
        [
            ("good.jpg", JPEG),
            ("good.txt", b"fine"),
            ("photo.v1.jpg", JPEG),
            ("cut.jpg", JPEG[: len(JPEG) // 2]),
            ("cut.txt", b"half"),
            ("alone.jpg", JPEG),
            ("words.txt", b"no image"),
            ("latin.txt", b"\xff"),
            ("latin.jpg", JPEG),
            ("good.txt", b"again"),
            ("extra.npy", b"1"),
            ("README", b"1"),
        ],
    )
    write_tar(tmp_path / "1.tar", [("good.jpg", JPEG), ("good.txt", b"fine")])
    write_tar(tmp_path / "2.tar", [("x.jpg", JPEG), ("x.txt", b"fine"), ("y.jpg", JPEG)])
    (tmp_path / "2.tar").write_bytes((tmp_path / "2.tar").read_bytes()[:2600])
    data = write_tar(tmp_path / "3.tar", [("z.jpg", JPEG), ("z.txt", b"fine")]).read_bytes()
    (tmp_path / "3.tar").write_bytes(data + data)
    (tmp_path / "4.tar").write_bytes(bytes(10240))
    report = check(open_source([str(tmp_path)]))
    assert report.counts == {
        "dotted-name": 2,
        "duplicate-key": 1,
        "ignored-extension": 2,
        "key-in-two-shards": 1,
        "no-image": 1,
        "no-text": 1,
        "not-utf8": 1,
        "odd-archive": 1,
        "undecodable": 1,
        "unreadable": 1,
    }
    found = {(problem.kind, problem.shard, problem.key) for problem in report.problems}
    assert found >= {
        ("undecodable", "0", "cut"),
        ("key-in-two-shards", "1", "good"),
        ("unreadable", "2", ""),
        ("odd-archive", "3", ""),
    }
    assert report.notes[0] == "1 shard without any file, which every stage passes over; first 4"
    assert "undecodable" not in check(open_source([str(tmp_path)]), decode=False).counts


def test_check_notices_a_missing_end_marker_and_links(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.jpg", JPEG), ("a.txt", b"x" * 512)])
    member_bytes = 512 + -(-len(JPEG) // 512) * 512
    path.write_bytes(path.read_bytes()[: member_bytes + 1024])
    assert [p.kind for p in check(open_source([str(path)])).problems] == ["odd-archive"]
    with tarfile.open(tmp_path / "1.tar", "w") as tar:
        (tmp_path / "b.txt").write_text("hello")
        tar.add(tmp_path / "b.txt", "b.txt")
        link = tarfile.TarInfo("c.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "b.txt"
        tar.addfile(link)
    assert [p.kind for p in check(open_source([str(tmp_path / "1.tar")])).problems] == [
        "no-image",
        "odd-archive",
    ]


def test_stats_count_words_sizes_and_bytes(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data")
    total = stats(open_source([str(make_layer(tmp_path / "r1", base))]))
    assert (total.num_shards, total.num_samples, total.num_images) == (2, 6, 6)
    words = total.words["recaption"]
    assert (words.num, words.mean, words.least, words.greatest) == (6, 2.0, 1, 3)
    assert math.isclose(words.sd, statistics.stdev([1, 2, 3, 1, 2, 3]))
    assert (total.widths.least, total.widths.greatest, total.heights.mean) == (8, 10, 6)
    assert total.shard_bytes == sum(path.stat().st_size for path in base.glob("*.tar"))
    assert total.layer_bytes > 0
    assert total.rejected == {}


def test_stats_of_a_layer_whose_name_could_clear_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = make_layer(tmp_path / "r1", make_base(tmp_path / "data"), layer="odd\x1b[2J")
    assert main(["shards", "stats", str(layer)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "odd\\x1b[2J" in printed


def test_figures_of_nothing_and_of_one() -> None:
    one = Figures()
    assert (one.num, one.mean, one.sd) == (0, 0.0, 0.0)
    one.add(3)
    assert (one.num, one.mean, one.sd, one.least, one.greatest) == (1, 3.0, 0.0, 3, 3)


def test_show_shortens_long_texts(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "0.tar") as tar:
        tar.write_sample("a", {"jpg": JPEG, "txt": b"word " * 20_000})
    source = open_source([str(tmp_path)])
    assert len(show(source).samples[0]) > 99_000
    (line,) = [line for line in show(source, max_chars=100).samples[0].splitlines() if "original" in line]
    assert line.endswith(" ... and 99,909 more characters")


def test_show_escapes_what_a_terminal_would_obey(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data")
    source = open_source([str(base)])
    writer = open_layer(tmp_path / "ocr", layer="ocr", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                turns = (Turn("user", "read it"), Turn("assistant", "\x1b]0;title\x07"))
                out.annotate(sample, Annotation(layer="ocr", kind="turns", turns=turns, round=2, model="m"))
    text = "\n\n".join(show(open_source([str(tmp_path / "ocr")]), 2).samples)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "000000/0-0\n  image: jpg, 8x6, " in text
    assert "original: alt\\x1b[2J" in text
    assert "ocr of round 2 (m)" in text
    assert "assistant: \\x1b]0;title\\x07" in text
    assert "0-1" in text
    assert "0-2" not in text
    assert show(source, 1, start=4).samples[0].startswith("000001/1-1")
    assert show(source, 9, start=6).samples == []


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_merged_shards_stand_alone(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data")
    source = open_source([str(make_layer(tmp_path / "r1", base))])
    total = merge(source, tmp_path / "merged", captions=["original", "recaption"], separator=" | ")
    assert (total.num_in, total.num_out, total.dropped) == (6, 6, {})
    urls = f"{tmp_path}/merged/{{000000..000001}}.tar"
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{n}-{i}" for n in range(2) for i in range(3)]
    assert samples[1]["txt"] == "alt text | word word"
    assert samples[1]["jpg"].size == (9, 6)
    assert samples[1]["json"]["url"] == "u"
    assert samples[1]["json"]["annotations"][0]["layer"] == "recaption"
    originals = [sample for shard in source.shards for sample in read_shard(shard, on_reject=pytest.fail)]
    merged = open_source([str(tmp_path / "merged")])
    again = [sample for shard in merged.shards for sample in read_shard(shard, on_reject=pytest.fail)]
    assert [sample.images for sample in again] == [sample.images for sample in originals]


def test_merge_resumes_and_refuses_to_mix(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data")
    source = open_source([str(make_layer(tmp_path / "r1", base))])
    out = tmp_path / "merged"
    merge(source, out)
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    (out / "000001.tar").unlink()
    merge(source, out)
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == before
    with pytest.raises(RecipeError, match="captions"):
        merge(source, out, captions=["recaption"])


def test_a_merge_grows_with_its_source(tmp_path: Path) -> None:
    def base(*numbers: int, folder: str = "data") -> Source:
        for number in numbers:
            with TarWriter(tmp_path / folder / f"{number}.tar") as tar:
                tar.write_sample(f"{number}", {"txt": f"text {number}".encode()})
        return open_source([f"{tmp_path}/*/?.tar"])

    out = tmp_path / "merged" / "out"
    merge(base(3, 5), out, captions=["original"])
    before = (out / "3.tar").stat()
    assert merge(base(1, 4), out, captions=["original"]).num_out == 4
    assert (out / "3.tar").stat().st_mtime_ns == before.st_mtime_ns
    (tmp_path / "data" / "3.tar").unlink()
    with pytest.raises(DataError, match=r"holds 3\.tar, and no shard of that name is given now"):
        merge(base(), out, captions=["original"])
    base(3)
    with pytest.raises(DataError, match=r"holds 4\.tar, and no shard of that name"):  # data__4 and more__4
        merge(base(4, folder="more"), out, captions=["original"])
    (tmp_path / "more" / "4.tar").unlink()
    data = (tmp_path / "data" / "5.tar").read_bytes()
    (tmp_path / "data" / "5.tar").write_bytes(data.replace(b"text 5", b"TEXT 5"))
    with pytest.raises(DataError, match=r"data/5\.tar has changed since .*out/5\.tar was made from it"):
        merge(base(), out, captions=["original"])


def test_two_merges_at_once_are_refused(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "data" / "000.tar") as tar:
        tar.write_sample("a", {"txt": b"a dog"})
    with lock(tmp_path / "out"), pytest.raises(DataError, match="in use by process"):
        merge(open_source([str(tmp_path / "data")]), tmp_path / "out")


def test_merge_counts_what_it_drops(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar",
        [("a.0.jpg", JPEG), ("a.1.jpg", JPEG), ("a.txt", b"two"), ("b.jpg", JPEG), ("c.txt", b"\xff")],
    )
    total = merge(open_source([str(tmp_path / "0.tar")]), tmp_path / "out")
    assert (total.num_in, total.num_out, total.dropped) == (3, 1, {"no-caption": 1, "not-utf8": 1})
    with tarfile.open(tmp_path / "out" / "0.tar") as tar:
        assert tar.getnames() == ["a.0.jpg", "a.1.jpg", "a.json", "a.txt"]
    rejects = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in rejects] == ["b", "c"]


def make_filter(folder: Path, below: Path, *, dropped: str) -> Path:
    source = open_source([str(below)])
    writer = open_layer(folder, layer="filter", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                scores = {"keep": sample.key != dropped}
                out.annotate(sample, Annotation(layer="filter", kind="score", scores=scores))
    return folder


def test_merge_leaves_out_what_a_filter_does(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data")
    source = open_source([str(make_filter(tmp_path / "kept", base, dropped="1-1"))])
    total = merge(source, tmp_path / "out")
    assert (total.num_in, total.num_out, total.num_rejected, total.dropped) == (6, 5, 0, {"filtered": 1})
    with tarfile.open(tmp_path / "out" / "000001.tar") as tar:
        assert not [name for name in tar.getnames() if name.startswith("1-1.")]
    assert "filtered" in json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]


def test_a_missing_number_as_pandas_writes_it_is_null(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.jpg", JPEG), ("a.json", b'{"width": NaN, "url": "u"}')])
    merge(open_source([str(tmp_path / "0.tar")]), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "0.tar") as tar:
        stream = tar.extractfile("a.json")
        assert stream is not None
        assert json.loads(stream.read(), parse_constant=pytest.fail) == {"width": None, "url": "u"}


def test_merge_of_a_conversation_keeps_it(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    write_tar(tmp_path / "0.tar", [("a.json", json.dumps({"messages": messages}).encode())])
    merge(open_source([str(tmp_path / "0.tar")]), tmp_path / "out")
    (shard,) = open_source([str(tmp_path / "out")]).shards
    (sample,) = read_shard(shard, on_reject=pytest.fail)
    assert sample.turns == (Turn("user", "hi"), Turn("assistant", "ho"))


@needs_archives
def test_check_of_real_archives() -> None:
    clips = check(open_source([f"{ARCHIVES}/clip_retrieval/**/*.tar"]))
    assert clips.num_samples == 11
    assert clips.counts == {"key-in-two-shards": 4, "no-text": 11}
    everything = check(open_source([f"{ARCHIVES}/**/*.tar", f"{ARCHIVES}/**/*gz"]))
    unreadable = [problem for problem in everything.problems if problem.kind == "unreadable"]
    assert unreadable
    assert all("empty shard" in problem.detail for problem in unreadable)
    assert show(open_source([f"{ARCHIVES}/**/sample.tgz"]), 1).samples == [
        "sample/10\n  image: png, 28x28, 306 bytes"
    ]


def test_stats_of_a_damaged_shard_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="damaged"):
        stats(open_source([str(tmp_path)]))
