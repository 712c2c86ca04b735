"""Layers that were cut off, joined, swapped or left without their stats: none is read in silence."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from layer_data import caption, make_base, read_all, write_layer

from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.shards import TarWriter, open_layer, open_source, read_rejects
from vila2cli.shards.annotations import read_annotations
from vila2cli.shards.reader import read_layer_shard
from vila2cli.shards.sample import Annotation, Reject
from vila2cli.stages.merge import merge
from vila2cli.stages.shards import check

END = b"\0" * 1024


def members_end(data: bytes, number: int) -> int:
    """Where a member of the tar begins, counted from 0; all of our annotations are shorter than a MB."""
    place = 0
    for _ in range(number):
        size = int(data[place + 124 : place + 135], 8)
        place += 512 + -(-size // 512) * 512
    return place


def cut_between_members(data: bytes) -> bytes:
    return data[: members_end(data, 2)]


def cut_and_padded(data: bytes) -> bytes:
    """As a file system leaves it that had the size but not all blocks."""
    kept = members_end(data, 2)
    return data[:kept] + bytes(len(data) - kept)


def cut_and_ended(data: bytes) -> bytes:
    return data[: members_end(data, 2)] + END


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "between two members": cut_between_members,
    "between two members, padded to its size": cut_and_padded,
    "between two members, with an end": cut_and_ended,
    "before its first member": lambda data: END,
    "in a member": lambda data: data[:700],
    "at a block": lambda data: data[:512],
    "empty": lambda data: b"",
    "without the end marker": lambda data: data[: members_end(data, 4)],
    "garbage behind it": lambda data: data + b"garbage",
    "another archive behind it": lambda data: data + data,
    "zeros behind it": lambda data: data + bytes(10240),
}


@pytest.fixture
def filtered(tmp_path: Path, base: Path) -> Path:
    """A filter layer that drops the odd samples, not packed."""
    source = open_source([str(base)])
    writer = open_layer(tmp_path / "filter", layer="filter", source=source, is_packed=False)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                keep = int(sample.key[-1]) % 2 == 0
                out.annotate(sample, Annotation(layer="filter", kind="score", scores={"keep": keep}))
    writer.finish()
    return tmp_path / "filter"


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_filter_layer_lets_nothing_back_in(tmp_path: Path, filtered: Path, how: str) -> None:
    tar = filtered / "000001.tar"
    tar.write_bytes(DAMAGE[how](tar.read_bytes()))
    source = open_source([str(filtered)])
    with pytest.raises(DataError, match=r"000001\.tar"):
        read_all(source)
    with pytest.raises(DataError, match=r"000001\.tar"):
        list(read_annotations(filtered))
    with pytest.raises(DataError, match=r"000001\.tar"):
        merge(source, tmp_path / "merged", captions=["original"])
    assert sorted(path.name for path in (tmp_path / "merged").glob("*.tar")) == ["000000.tar", "000002.tar"]
    if "padded" not in how:  # of equal length it is told from its digest, on reading
        with pytest.raises(DataError, match=r"000001\.tar is damaged or cut off"):
            open_layer(filtered, layer="filter", source=open_source([str(tmp_path / "data")])).missing(
                open_source([str(tmp_path / "data")]).shards
            )
    assert {"unreadable"} <= set(check(source, digests=False).counts)


@pytest.mark.parametrize(
    "how", [how for how in DAMAGE if how not in ("zeros behind it", "before its first member")]
)
def test_without_its_stats_file_a_cut_layer_is_told_from_its_end(filtered: Path, how: str) -> None:
    tar = filtered / "000001.tar"
    (filtered / "000001.stats.json").unlink()
    tar.write_bytes(DAMAGE[how](tar.read_bytes()))
    if how.startswith("between two members, "):  # a whole archive of two samples, for all that it says
        assert len(read_layer_shard(tar).by_key) == 2
        assert check(open_source([str(filtered)])).counts == {"no-stats": 1}
    else:
        with pytest.raises(DataError, match=r"000001\.tar is damaged or cut off at byte"):
            read_layer_shard(tar)


@pytest.mark.parametrize("how", ["between two members", "between two members, with an end", "in a member"])
def test_a_packed_layer_that_was_cut_before_it_was_packed(filtered: Path, how: str) -> None:
    tar = filtered / "000001.tar"
    data = tar.read_bytes()
    tar.unlink()
    (filtered / "000001.tar.gz").write_bytes(gzip.compress(data))
    assert len(read_all(open_source([str(filtered)]))) == 12
    (filtered / "000001.tar.gz").write_bytes(gzip.compress(DAMAGE[how](data)))
    with pytest.raises(DataError, match=r"000001\.tar\.gz is damaged or cut off"):
        read_all(open_source([str(filtered)]))
    (filtered / "000001.tar.gz").write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(DataError, match=r"000001\.tar\.gz is damaged or cut off"):
        read_all(open_source([str(filtered)]))


def test_an_edited_layer_of_equal_length(filtered: Path) -> None:
    tar = filtered / "000001.tar"
    tar.write_bytes(tar.read_bytes().replace(b'"keep": false', b'"keep":  true'))
    with pytest.raises(DataError, match=r"000001\.tar is not the file that was written: its SHA-256"):
        read_all(open_source([str(filtered)]))


def test_an_edit_that_hides_its_time_is_found_by_check(
    filtered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = filtered / "000001.tar"
    status = tar.stat()
    tar.write_bytes(tar.read_bytes().replace(b'"keep": false', b'"keep":  true'))
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = check(open_source([str(filtered)]))
    (problem,) = report.problems
    assert problem.shard == "000001"
    assert "its SHA-256 is not the one in 000001.stats.json" in problem.detail
    assert main(["shards", "check", str(filtered)]) == 4
    assert "its SHA-256" in capsys.readouterr().out
    assert main(["shards", "check", "--fast", str(filtered)]) == 0


def test_an_edited_base_that_hides_its_time_is_found_by_check(base: Path, layer: Path) -> None:
    tar = base / "000001.tar"
    status = tar.stat()
    tar.write_bytes(tar.read_bytes().replace(b"alt 1-2", b"ALT 1-2"))
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert check(open_source([str(base)])).counts == {"changed": 1}
    assert check(open_source([str(layer)])).counts == {"changed": 2}
    (base / "000001.stats.json").unlink()
    assert check(open_source([str(layer)])).counts == {"changed": 1}


def test_stats_of_another_layer(tmp_path: Path, base: Path, layer: Path) -> None:
    other = write_layer(tmp_path / "r2" / "recaption", open_source([str(base)]), names={"000001"})
    shutil.copy2(other / "000001.stats.json", layer / "000001.stats.json")
    assert len(read_all(open_source([str(layer)]))) == 12, "they hold the same"
    stats = json.loads((layer / "000001.stats.json").read_text())
    (layer / "000001.stats.json").write_text(json.dumps(stats | {"written": 3, "out": 3, "dropped": {"x": 1}}))
    with pytest.raises(
        DataError, match=r"000001\.tar\.gz holds 4 annotations, and 000001\.stats\.json .* says 3"
    ):
        read_all(open_source([str(layer)]))


def test_a_copied_layer_is_read_as_it_is_and_known_from_then_on(
    tmp_path: Path, base: Path, layer: Path
) -> None:
    expected = read_all(open_source([str(layer)]))
    copy = tmp_path / "copy" / "r1" / "recaption"
    shutil.copytree(layer, copy, copy_function=shutil.copyfile)
    shutil.copytree(base, tmp_path / "copy" / "data", copy_function=shutil.copyfile)
    before = json.loads((copy / "000000.stats.json").read_text())
    assert read_all(open_source([str(copy)])) == expected
    after = json.loads((copy / "000000.stats.json").read_text())
    assert after["mtime_ns"] == (copy / "000000.tar.gz").stat().st_mtime_ns != before["mtime_ns"]
    base_now = (tmp_path / "copy" / "data" / "000000.tar").stat()
    assert after["made_from"]["000000"]["tag"] == f"mtime {base_now.st_mtime_ns}"
    assert after["made_from"]["000000"]["sha256"] == before["made_from"]["000000"]["sha256"]
    assert {name for name in after if after[name] != before[name]} == {"mtime_ns", "made_from"}


def test_a_layer_of_an_earlier_release_is_read(base: Path, layer: Path) -> None:
    for path in layer.glob("*.stats.json"):
        stats = json.loads(path.read_text())
        del stats["written"], stats["reject_lines"]
        path.write_text(json.dumps(stats))
    assert len(read_all(open_source([str(layer)]))) == 12
    assert check(open_source([str(layer)])).problems == ()


def test_a_base_that_was_cut_off_is_not_read_for_a_whole_one(tmp_path: Path, base: Path) -> None:
    tar = base / "000001.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[: members_end(data, 4)] + END)
    with pytest.raises(
        DataError, match=r"000001\.tar is damaged or cut off: it is .* 000001\.stats\.json beside"
    ):
        read_all(open_source([str(base)]))
    (base / "000001.stats.json").unlink()  # replaced on purpose
    assert len(read_all(open_source([str(base)]))) == 10


def test_a_tar_that_is_missing_is_named(base: Path, layer: Path) -> None:
    (layer / "000002.tar.gz").unlink()
    with pytest.raises(DataError, match="is incomplete: 1 of 3 shards are missing, first 000002"):
        open_source([str(layer)])
    (base / "000001.tar").unlink()
    with pytest.raises(DataError, match=r"holds 000001\.stats\.json and no 000001\.tar"):
        open_source([str(base)])


def test_rejects_that_were_cut_off(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                if sample.key.endswith("0"):
                    out.annotate(sample, caption("x"))
                else:
                    out.reject(Reject(shard.name, sample.key, "empty", "no caption"))
    writer.finish()
    path = tmp_path / "r1" / "000001.rejects.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert [reject.key for reject in read_rejects(tmp_path / "r1", "000001")] == ["1-1", "1-2", "1-3"]
    for data in (lines[0], b"".join(lines)[:-5], b"".join(lines)[:-1], whole + lines[0], b""):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"000001\.rejects\.jsonl is cut off"):
            read_rejects(tmp_path / "r1", "000001")
        with pytest.raises(DataError, match=r"000001\.rejects\.jsonl is cut off"):
            writer.finish()
        assert check(open_source([str(tmp_path / "r1")])).counts == {"rejects": 1}
    path.unlink()
    with pytest.raises(DataError, match=r"holds 0 whole lines, .* says 3"):
        read_rejects(tmp_path / "r1", "000001")


def test_an_extra_member_makes_no_sample_of_its_own(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data", 1)
    layer = write_layer(tmp_path / "r1", open_source([str(base)]))
    with TarWriter(tmp_path / "000000.tar") as tar:
        for i in range(5):
            tar.write_sample(f"0-{i}", {"json": json.dumps(caption("x").to_json()).encode()})
    (layer / "000000.tar.gz").write_bytes((tmp_path / "000000.tar").read_bytes())
    with pytest.raises(DataError, match=r"000000\.tar"):
        read_all(open_source([str(layer)]))


def test_a_layer_without_its_layer_json_is_no_base(base: Path, layer: Path) -> None:
    (layer / "layer.json").unlink()
    with pytest.raises(
        DataError, match=r"000000\.tar\.gz is a shard of the layer 'recaption', and no layer\.json beside"
    ):
        read_all(open_source([str(layer)]))


@pytest.mark.parametrize(
    "text",
    ["{", "", "[]", '{"made_from": 3, "sha256": "x", "bytes": 20480}', '{"out": "6"}', '{"bytes": -1}', "{}"],
)
def test_a_stats_file_that_says_nothing_is_a_problem_of_its_shard(base: Path, layer: Path, text: str) -> None:
    (layer / "000001.stats.json").write_text(text)
    report = check(open_source([f"{layer}/*.tar"]))
    assert {problem.shard for problem in report.problems} == {"000001"}
    assert all("000001.stats.json" in problem.detail for problem in report.problems)
    (layer / "000001.stats.json").unlink()
    (base / "000001.stats.json").write_text(text)
    assert {problem.shard for problem in check(open_source([str(layer)])).problems} == {"000001"}
