import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from layer_data import make_base, read_all, write_layer

from vila2cli import __version__
from vila2cli.errors import DataError
from vila2cli.shards import (
    LayerInfo,
    TarWriter,
    done,
    expand,
    open_layer,
    open_source,
)
from vila2cli.shards.sample import Annotation, Turn


def test_a_layer_stands_for_its_base(base: Path, layer: Path) -> None:
    for specs in ([str(layer)], [f"{layer}/*.tar"], [f"{layer}/layer.json"], [str(base), str(layer)]):
        source = open_source(specs)
        assert source.layers == (LayerInfo("recaption", str(layer)),)
        samples = read_all(source)
        assert [sample.key for sample in samples] == [f"{n}-{i}" for n in range(3) for i in range(4)]
        for sample in samples:
            assert sample.text == f"alt {sample.key}"
            annotation = sample.annotation("recaption")
            assert annotation is not None
            assert annotation.text == f"recaption of {sample.key}"
            assert annotation.image_sha256 == sample.image_sha256 != ""
            assert annotation.tool_version == __version__


def test_named_tars_are_exactly_those(base: Path, layer: Path) -> None:
    source = open_source([str(layer / "000001.tar")])
    assert [(shard.name, shard.url) for shard in source.shards] == [("000001", str(base / "000001.tar"))]
    assert expand([str(layer)]) == [str(layer / f"00000{n}.tar.gz") for n in range(3)]


def test_layer_json_says_what_it_lies_over(base: Path, layer: Path) -> None:
    value = json.loads((layer / "layer.json").read_text())
    assert (value["layer"], value["digest"], value["vila2"]) == ("recaption", "abc", __version__)
    first = value["base"][0]
    assert (first["name"], first["path"]) == ("000000", str(base / "000000.tar"))
    assert first["relative"] == "../../data/000000.tar"


def test_a_shard_says_what_it_was_made_from(tmp_path: Path, base: Path, layer: Path) -> None:
    upper = write_layer(tmp_path / "ocr", open_source([str(layer)]), "ocr")
    made_from = json.loads((upper / "000001.stats.json").read_text())["made_from"]
    files = {"000001": base / "000001.tar", "000001+recaption": layer / "000001.tar.gz"}
    assert {name: one["num_bytes"] for name, one in made_from.items()} == {
        name: path.stat().st_size for name, path in files.items()
    }
    assert {name: one["sha256"] for name, one in made_from.items()} == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }


def test_every_field_of_an_annotation_comes_back(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base / "000000.tar")])
    written = Annotation(
        layer="ocr",
        kind="turns",
        turns=(Turn("user", "what is written?"), Turn("assistant", "\u2028é\x1b[31m")),
        scores={"score": 0.1, "nested": [1, None]},
        round=2,
        model="ckpt/ocr",
        model_sha256="f" * 64,
        sampling={"temperature": 0.7},
        seed=3,
        logprob_mean=-0.25,
    )
    writer = open_layer(tmp_path / "ocr", layer="ocr", source=source)
    with writer.shard(source.shards[0]) as out:
        for sample in out.samples():
            out.annotate(sample, written)
    for sample in read_all(open_source([str(tmp_path / "ocr")])):
        read = sample.annotations[0]
        assert read == dataclasses.replace(written, image_sha256=sample.image_sha256, tool_version=__version__)


def test_layer_over_layer_keeps_the_order(tmp_path: Path, base: Path, layer: Path) -> None:
    upper = write_layer(tmp_path / "spatial", open_source([str(layer)]), "spatial")
    other = write_layer(tmp_path / "ocr", open_source([str(layer)]), "ocr")
    (tmp_path / "spatial" / "000000.stats.json").unlink()
    source = open_source([str(upper), str(other)])
    assert [info.name for info in source.layers] == ["recaption", "spatial", "ocr"]
    assert [[a.layer for a in sample.annotations] for sample in read_all(source)] == [
        ["recaption", "spatial", "ocr"]
    ] * 12
    assert len(source.digest()) == 3 * 4


def test_same_layer_of_two_rounds(tmp_path: Path, base: Path, layer: Path) -> None:
    second = write_layer(tmp_path / "r2" / "recaption", open_source([str(base)]))
    source = open_source([str(layer), str(second)])
    assert [len(sample.annotations) for sample in read_all(source)] == [2] * 12
    assert set(source.digest()) >= {"000000", "000000+recaption", "000000+recaption.2"}


def test_wrong_pictures_are_an_error(tmp_path: Path, base: Path, layer: Path) -> None:
    make_base(tmp_path / "other", shade=100)
    source = open_source([str(layer)], base=str(tmp_path / "other"))
    with pytest.raises(DataError, match="made for other pictures: the image of '0-0' differs"):
        read_all(source)
    assert len(read_all(source, verify=False)) == 12


def test_wrong_keys_are_an_error(tmp_path: Path, base: Path, layer: Path) -> None:
    make_base(tmp_path / "fewer", num_each=3)
    with pytest.raises(DataError, match=r"annotates '0-3', which .* does not hold"):
        read_all(open_source([str(layer)], base=str(tmp_path / "fewer")))


def test_changed_base_is_an_error(base: Path, layer: Path) -> None:
    make_base(base, num_each=30)
    with pytest.raises(DataError, match=r"000000\.tar has changed since"):
        open_source([str(layer)])


def test_base_that_has_moved(tmp_path: Path, base: Path, layer: Path) -> None:
    base.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"is gone: .* --base FOLDER"):
        open_source([str(layer)])
    with pytest.raises(DataError, match="is not in"):
        open_source([str(layer)], base=str(tmp_path))
    source = open_source([str(layer)], base=str(tmp_path / "moved"))
    assert len(read_all(source)) == 12


def test_a_copy_of_data_and_layer_is_read_by_itself(tmp_path: Path, base: Path, layer: Path) -> None:
    copy = tmp_path / "copy"
    for folder in (base, layer):
        shutil.copytree(folder, copy / folder.relative_to(tmp_path))
    copied = open_source([str(copy / layer.relative_to(tmp_path))])
    assert {Path(shard.url).parent.resolve() for shard in copied.shards} == {copy / base.relative_to(tmp_path)}
    assert read_all(copied) == read_all(open_source([str(layer)]))
    # A layer over the original and one over the copy are not two halves of one source.
    with pytest.raises(DataError, match=r"000000\.tar is a copy of .*000000\.tar, and each has layers"):
        open_source([str(layer), str(copy / layer.relative_to(tmp_path))])
    both = open_source([str(layer), str(copy / layer.relative_to(tmp_path))], base=str(base))
    assert [len(shard.layers) for shard in both.shards] == [2] * len(both.shards)


def test_base_in_two_folders_that_have_moved(tmp_path: Path) -> None:
    for shade, name in enumerate(("a", "b")):
        make_base(tmp_path / "data" / name, 1, shade=shade * 100)
    source = open_source([f"{tmp_path}/data/*/*.tar"])
    assert [shard.name for shard in source.shards] == ["a__000000", "b__000000"]
    layer = write_layer(tmp_path / "layer", source)
    assert done(layer) == {"a__000000", "b__000000"}
    (tmp_path / "data").rename(tmp_path / "moved")
    again = open_source([str(layer)], base=str(tmp_path / "moved"))
    assert [(shard.name, Path(shard.url).parent.name) for shard in again.shards] == [
        ("a__000000", "a"),
        ("b__000000", "b"),
    ]
    assert len(read_all(again)) == 8


def test_paths_are_tried_from_the_layer_then_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    make_base(project / "data", 1)
    monkeypatch.chdir(project)
    write_layer(Path("runs/recaption"), open_source(["data/*.tar"]))
    assert open_source(["runs/recaption"]).shards[0].url == "data/000000.tar"
    project.rename(tmp_path / "renamed")
    monkeypatch.chdir(tmp_path)
    source = open_source(["renamed/runs/recaption"])
    assert len(read_all(source)) == 4
    make_base(tmp_path / "data", 1, num_each=9)
    assert Path(open_source(["renamed/runs/recaption"]).shards[0].url).resolve() == (
        tmp_path / "renamed" / "data" / "000000.tar"
    ), "another project's shard of the same name is not taken for the base"
    shutil.copytree(tmp_path / "renamed/runs/recaption", tmp_path / "copied" / "deep" / "recaption")
    with pytest.raises(DataError, match="has changed since"):
        open_source(["copied/deep/recaption"])


def test_incomplete_layer_folder(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    layer = write_layer(tmp_path / "r1", source, names={"000001"})
    with pytest.raises(DataError, match=r"layer 'recaption' in .* is incomplete: 2 of 3 shards are missing"):
        open_source([str(layer)])
    assert len(read_all(open_source([f"{layer}/*.tar"]))) == 4
    write_layer(layer, source, names={"000000", "000002"})
    assert len(read_all(open_source([str(layer)]))) == 12


def test_tar_that_does_not_belong_to_the_layer(base: Path, layer: Path) -> None:
    shutil.copy(layer / "000000.tar.gz", layer / "foreign.tar.gz")
    with pytest.raises(DataError, match="names no base for"):
        open_source([str(layer / "foreign.tar.gz")])


@pytest.mark.parametrize(
    "data", [b"[]", b"{", b'{"layer": "x"}', b'{"layer": "x", "kind": "caption", "odd": 1}']
)
def test_damaged_annotations_name_the_file(base: Path, layer: Path, data: bytes) -> None:
    with TarWriter(layer / "000000.tar.gz") as tar:
        tar.write_sample("0-0", {"json": data})
    with pytest.raises(DataError, match=r"000000\.tar\.gz holds no valid annotation for '0-0'"):
        read_all(open_source([str(layer)]))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"layer": 1, "base": []}'])
def test_damaged_layer_json(base: Path, layer: Path, content: str) -> None:
    (layer / "layer.json").write_text(content)
    with pytest.raises(DataError, match=r"layer\.json"):
        open_source([str(layer)])


@pytest.mark.parametrize("replaced", [False, True])
def test_a_layer_that_is_removed_while_it_is_written_gets_no_shard(
    tmp_path: Path, base: Path, replaced: bool
) -> None:
    """In a folder without its layer.json, or in another layer's, the shard would pass for something else."""
    out = tmp_path / "out"
    source = open_source([str(base)])
    writer = open_layer(out, layer="recaption", source=source)
    writing = writer.shard(source.shards[0])
    for sample in writing.samples():
        writing.annotate(sample, Annotation(layer="recaption", kind="caption", text="x"))
    shutil.rmtree(out)
    if replaced:
        open_layer(out, layer="other", source=source)
    with pytest.raises(DataError, match="removed or replaced"):
        writing.close()
    assert not list(tmp_path.glob("out/*.tar.gz"))
