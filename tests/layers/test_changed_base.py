"""A base, or a layer below, that changed under a finished layer, and one that only looks changed."""

import gzip
import json
import os
from pathlib import Path

import pytest
from layer_data import caption, make_base, read_all, write_layer

from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.judging.pairing import draw_samples
from vila2cli.shards import Source, open_layer, open_source, read_shard
from vila2cli.shards.reader import check_layers
from vila2cli.stages.merge import merge
from vila2cli.stages.shards import check


def edit(tar: Path, old: bytes, new: bytes) -> None:
    """Other bytes of equal number, at a later time."""
    data = tar.read_bytes()
    assert len(old) == len(new)
    assert old in data
    tar.write_bytes(data.replace(old, new))
    status = tar.stat()
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def touch(tar: Path) -> None:
    status = tar.stat()
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns + 5 * 10**9))


def recaption(folder: Path, source: Source, word: str) -> None:
    """Write a layer, or write it again, with other captions."""
    writer = open_layer(folder, layer="recaption", source=source, manifest={"digest": "abc"})
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                out.annotate(sample, caption(f"{word} of {sample.key}"))


@pytest.mark.parametrize("with_stats", [True, False], ids=["with stats", "without"])
def test_a_changed_alt_text_is_seen_by_all_who_join(
    tmp_path: Path, base: Path, layer: Path, with_stats: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(base / "000001.tar", b"alt 1-2", b"ALT 1-2")
    if not with_stats:
        (base / "000001.stats.json").unlink()
    source, plain = open_source([str(layer)]), open_source([str(base)])
    message = r"data/000001\.tar is not what .*recaption/000001\.tar\.gz was made from"
    with pytest.raises(DataError, match=message):
        read_all(source)
    with pytest.raises(DataError, match=message):
        check_layers(source.shards[1])
    with pytest.raises(DataError, match=message):
        merge(source, tmp_path / "merged", captions=["original", "recaption"])
    assert sorted(path.stem for path in (tmp_path / "merged").glob("*.tar")) == ["000000", "000002"]
    assert check(source).counts["unreadable"] == 1
    assert check(source, digests=False, decode=False).counts["unreadable"] == 1
    with pytest.raises(DataError, match=message):
        draw_samples([str(layer), "alt-text"], num_samples=12, seed=0)
    with pytest.raises(DataError, match=r"data/000001\.tar has changed since"):
        open_layer(layer, layer="recaption", source=plain).missing(plain.shards)
    assert main(["shards", "merge", str(layer), "--out", str(tmp_path / "again")]) == 4
    assert "is not what" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["touched", "copied", "touched, read-only"])
def test_a_file_whose_time_alone_changed_is_the_same(tmp_path: Path, base: Path, layer: Path, how: str) -> None:
    expected = read_all(open_source([str(layer)]))
    for tar in base.glob("*.tar"):
        if how == "copied":
            data = tar.read_bytes()
            tar.unlink()
            tar.write_bytes(data)
        touch(tar)
    if "read-only" in how:
        for path in layer.glob("*.stats.json"):
            path.chmod(0o444)
        layer.chmod(0o555)
    source = open_source([str(layer)])
    assert read_all(source) == expected
    assert check(source).problems == ()
    layer.chmod(0o755)
    counts = merge(source, tmp_path / "merged", captions=["original"])
    assert (counts.num_in, counts.num_out) == (12, 12)


def test_what_was_found_is_noted_and_nothing_is_read_again(base: Path, layer: Path) -> None:
    touch(base / "000000.tar")
    (base / "000000.stats.json").unlink()
    source = open_source([str(layer)])
    read_all(source)
    then = json.loads((layer / "000000.stats.json").read_text())["made_from"]["000000"]
    assert then["tag"] == f"mtime {(base / '000000.tar').stat().st_mtime_ns}"
    before = (layer / "000000.stats.json").stat().st_mtime_ns
    read_all(source)
    assert (layer / "000000.stats.json").stat().st_mtime_ns == before


def test_a_changed_picture_is_named(base: Path, layer: Path) -> None:
    data = (base / "000001.tar").read_bytes()
    jpegs = [data[i : i + 640] for i in range(len(data)) if data.startswith(b"\xff\xd8\xff", i)]
    edit(base / "000001.tar", jpegs[0][150:170], bytes(20))
    with pytest.raises(DataError, match="made for other pictures: the image of '1-0' differs"):
        read_all(open_source([str(layer)]))


def test_a_layer_below_that_was_written_again(tmp_path: Path, base: Path, layer: Path) -> None:
    upper = write_layer(tmp_path / "ocr", open_source([str(layer)]), "ocr")
    second, plain = tmp_path / "r2" / "recaption", open_source([str(base)])
    recaption(second, plain, "second")
    assert len(read_all(open_source([str(second), str(upper)]))) == 12, "its own recaption is among them"
    recaption(layer, plain, "another")
    for specs in ([str(upper)], [str(second), str(upper)]):
        with pytest.raises(
            DataError, match=r"recaption/000002\.tar\.gz is not what .*ocr/000002\.tar\.gz was made from"
        ):
            list(read_shard(open_source(specs).shards[2], on_reject=lambda reject: None))
    assert len(read_all(open_source([str(upper)]), verify=False)) == 12


def test_layers_over_two_states_of_a_base(tmp_path: Path, base: Path, layer: Path) -> None:
    edit(base / "000001.tar", b"alt 1-2", b"ALT 1-2")
    second = write_layer(tmp_path / "r2" / "recaption", open_source([str(base)]))
    assert len(read_all(open_source([str(second)]))) == 12
    with pytest.raises(DataError, match=r"000001\.tar is not what .*r1/recaption/000001\.tar\.gz was made"):
        read_all(open_source([str(layer), str(second)]))


def test_a_base_that_was_packed_since(tmp_path: Path, base: Path, layer: Path) -> None:
    expected = read_all(open_source([str(layer)]))
    moved = tmp_path / "moved"
    moved.mkdir()
    for tar in base.glob("*.tar"):
        (moved / tar.name).write_bytes(gzip.compress(tar.read_bytes()))
    assert read_all(open_source([str(layer)], base=str(moved))) == expected
    changed = (base / "000001.tar").read_bytes().replace(b"alt 1-2", b"ALT 1-2")
    (moved / "000001.tar").write_bytes(gzip.compress(changed))
    with pytest.raises(DataError, match=r"moved/000001\.tar is not what"):
        read_all(open_source([str(layer)], base=str(moved)))


def test_the_output_of_a_command_that_changed(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data", 1)
    pipe = f"pipe:cat {base}/000000.tar"
    layer = write_layer(tmp_path / "r1", open_source([pipe]))
    assert len(read_all(open_source([str(layer), pipe]))) == 4
    edit(base / "000000.tar", b"alt 0-2", b"ALT 0-2")
    with pytest.raises(DataError, match=r"000000\.tar is not what"):
        read_all(open_source([str(layer), pipe]))
