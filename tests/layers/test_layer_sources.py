"""What a layer was written over, and how a change of it is noticed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from layer_data import caption, make_base, read_all, rewrite, write_layer

from vila2cli.errors import DataError, DataWarning
from vila2cli.shards import (
    TarWriter,
    Unreadable,
    expected_samples,
    open_layer,
    open_source,
)
from vila2cli.stages.lineage import lineage


def test_what_is_not_done_may_change_and_what_is_done_may_not(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    layer = write_layer(tmp_path / "r1", source, names={"000000"})
    rewrite(base / "000001.tar", 200)  # a repaired copy, say
    writer = open_layer(layer, layer="recaption", source=source)
    assert [shard.name for shard in writer.missing(source.shards)] == ["000001", "000002"]
    write_layer(layer, source, names={"000001", "000002"})
    assert [len(sample.annotations) for sample in read_all(open_source([str(layer)]))] == [1] * 12
    rewrite(base / "000001.tar", 100)
    with pytest.raises(DataError, match=r"000001\.tar has changed since .* remove 000001\.stats\.json to have"):
        writer.missing(source.shards)
    (layer / "000001.stats.json").unlink()
    assert [shard.name for shard in writer.missing(source.shards)] == ["000001"]


def test_a_changed_layer_below_is_noticed(tmp_path: Path, base: Path, layer: Path) -> None:
    source = open_source([str(layer)])
    upper = write_layer(tmp_path / "ocr", source, "ocr")
    with TarWriter(layer / "000002.tar.gz") as tar:
        tar.write_sample("2-0", {"json": json.dumps(caption("changed").to_json()).encode()})
    with pytest.raises(DataError, match=r"recaption/000002\.tar\.gz has changed"):
        open_layer(upper, layer="ocr", source=source).missing(source.shards)
    other = write_layer(tmp_path / "r2" / "recaption", open_source([str(base)]))
    info = json.loads((other / "layer.json").read_text())
    (other / "layer.json").write_text(json.dumps(info | {"digest": "of other settings"}))
    with pytest.raises(DataError, match="was started over other shards: 'recaption'"):
        open_layer(upper, layer="ocr", source=open_source([str(other)]))


def test_a_copied_base_is_read_once_to_be_known_again(tmp_path: Path, base: Path, layer: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for tar in base.glob("*.tar"):
        (copy / tar.name).write_bytes(tar.read_bytes())
    source = open_source([str(copy)])
    before = json.loads((layer / "000000.stats.json").read_text())
    writer = open_layer(layer, layer="recaption", source=source)
    assert writer.missing(source.shards) == []
    after = json.loads((layer / "000000.stats.json").read_text())
    assert before["made_from"]["000000"].pop("tag") != after["made_from"]["000000"].pop("tag")
    assert before == after
    assert open_source([str(layer)]).shards[0].url == str(copy / "000000.tar"), (
        "the layer knows where it is now"
    )


def test_nothing_of_the_base_is_read_before_its_turn(tmp_path: Path, base: Path) -> None:
    """At terabytes, reading all shards before the first one is work takes hours."""
    for tar in base.glob("*.tar"):
        tar.write_bytes(b"no archive at all" * 1000)
    source = open_source([str(base)])
    assert set(source.outline()["shards"]) == {"000000", "000001", "000002"}
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    assert len(writer.missing(source.shards)) == 3
    assert expected_samples(source.shards) == (None, False)


def test_the_digest_of_a_base_that_a_layer_was_made_from_is_known(base: Path, layer: Path) -> None:
    known = open_source([str(layer)]).digest()
    path = base / "000000.tar"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (base / "000000.stats.json").unlink()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_source([str(layer)]).digest() == known, "same size, same time: it is not read for this"
    os.utime(path)
    assert open_source([str(layer)]).digest() != known


def test_notes_are_kept_and_shown(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data", 1)
    data = (base / "000000.tar").read_bytes()
    (base / "000000.tar").write_bytes(data[: len(data.rstrip(b"\0")) // 512 * 512 + 512])
    (base / "000000.stats.json").unlink()
    source = open_source([str(base)])
    with pytest.warns(DataWarning, match=r"000000\.tar: the archive has no end marker"):
        layer = write_layer(tmp_path / "r1", source)
    (note,) = json.loads((layer / "000000.stats.json").read_text())["notes"]
    assert "no end marker" in note


def test_shards_that_cannot_be_read_are_told_of_at_the_end() -> None:
    unreadable = Unreadable()
    unreadable.check()
    for number in range(4):
        unreadable.fail(DataError(f"no {number}"))
        unreadable.succeed()
    with pytest.raises(DataError, match=r"^4 shards cannot be read; .*: no 0; no 1; no 2; \.\.\.$"):
        unreadable.check()
    for letter in "abc":
        assert not unreadable.are_too_many
        unreadable.fail(DataError(letter))
    assert unreadable.are_too_many
    with pytest.raises(DataError, match="3 shards in a row cannot be read, the last one: c"):
        unreadable.check()


def test_leftovers_of_killed_processes_are_swept_and_files_in_work_are_not(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    folder = tmp_path / "r1"
    folder.mkdir()
    for name in (".vila2-000001.tar.partial", ".vila2-summary.json.1234abcd.partial"):
        (folder / name).write_bytes(b"half")
    with TarWriter(folder / "000002.tar"):
        open_layer(folder, layer="recaption", source=source)
        assert sorted(path.name for path in folder.iterdir()) == [".vila2-000002.tar.partial", "layer.json"]


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("base",), None),
        (("base",), ["000000"]),
        (("base", 0), {}),
        (("base", 0, "url"), None),
        (("base", 0, "path"), {}),
        (("base", 0, "relative"), 3),
        (("base", 0, "layers"), "pipe:true"),
        (("base", 0, "layers"), [{"name": "alt"}]),
        (("layers",), 3),
        (("layer",), ["recaption"]),
        (("digest",), {}),
    ],
)
def test_a_layer_json_of_another_make_is_one_error(layer: Path, keys: tuple[Any, ...], value: Any) -> None:
    """Whoever reads it: as a source, for its lineage, or to go on with it."""
    path = layer / "layer.json"
    made = json.loads(path.read_text())
    inner = made
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(made))
    for read in (lambda: open_source([str(layer)]), lambda: lineage(layer)):
        with pytest.raises(DataError, match=rf"layer\.json: {keys[0]}.*; was it edited\?"):
            read()
