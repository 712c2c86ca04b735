import dataclasses
import hashlib
import io
import json
import os
import shutil
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image

from vila2cli import __version__
from vila2cli.errors import DataError, DataWarning
from vila2cli.sample import Annotation, Reject, Sample, Turn
from vila2cli.shards import (
    LayerInfo,
    ShardStats,
    Source,
    TarWriter,
    Unreadable,
    done,
    expand,
    expected_samples,
    folder_stats,
    num_samples,
    open_layer,
    open_source,
    read_shard,
)


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(stream, "JPEG")
    return stream.getvalue()


def make_base(folder: Path, num_shards: int = 3, num_each: int = 4, shade: int = 0, bad: bool = False) -> Path:
    """Shards of grey pictures; with `bad` one sample of each shard is not UTF-8."""
    for number in range(num_shards):
        with TarWriter(folder / f"{number:06d}.tar") as tar:
            for i in range(num_each):
                key = f"{number}-{i}"
                text = b"\xff" if bad and i == 1 else f"alt {key}".encode()
                tar.write_sample(key, {"jpg": jpeg(shade + 16 * number + i), "txt": text})
    return folder


def caption(text: str, layer: str = "recaption") -> Annotation:
    return Annotation(layer=layer, kind="caption", text=text, round=1, prompt_id="long-v1", num_tokens=7)


def write_layer(out: Path, source: Source, layer: str = "recaption", names: set[str] | None = None) -> Path:
    writer = open_layer(out, layer=layer, source=source, manifest={"digest": "abc"})
    for shard in source.shards:
        if names is None or shard.name in names:
            with writer.shard(shard) as shard_out:
                for sample in shard_out.samples():
                    shard_out.annotate(sample, caption(f"{layer} of {sample.key}", layer))
                    shard_out.count(tokens=7)
    writer.finish()
    return out


def read_all(source: Source, *, verify: bool = True) -> list[Sample]:
    return [
        sample
        for shard in source.shards
        for sample in read_shard(shard, on_reject=lambda reject: None, verify=verify)
    ]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "data")


@pytest.fixture
def layer(tmp_path: Path, base: Path) -> Path:
    return write_layer(tmp_path / "r1" / "recaption", open_source([str(base)]))


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
    assert expand([str(layer)]) == [str(layer / f"00000{n}.tar") for n in range(3)]


def test_layer_json_says_what_it_lies_over(base: Path, layer: Path) -> None:
    value = json.loads((layer / "layer.json").read_text())
    assert (value["layer"], value["digest"], value["vila2"]) == ("recaption", "abc", __version__)
    first = value["base"][0]
    assert (first["name"], first["path"]) == ("000000", str(base / "000000.tar"))
    assert first["relative"] == "../../data/000000.tar"


def test_a_shard_says_what_it_was_made_from(tmp_path: Path, base: Path, layer: Path) -> None:
    upper = write_layer(tmp_path / "ocr", open_source([str(layer)]), "ocr")
    made_from = json.loads((upper / "000001.stats.json").read_text())["made_from"]
    files = {"000001": base / "000001.tar", "000001+recaption": layer / "000001.tar"}
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
    shutil.copy(layer / "000000.tar", layer / "foreign.tar")
    with pytest.raises(DataError, match="names no base for"):
        open_source([str(layer / "foreign.tar")])


@pytest.mark.parametrize(
    "data", [b"[]", b"{", b'{"layer": "x"}', b'{"layer": "x", "kind": "caption", "odd": 1}']
)
def test_damaged_annotations_name_the_file(base: Path, layer: Path, data: bytes) -> None:
    with TarWriter(layer / "000000.tar") as tar:
        tar.write_sample("0-0", {"json": data})
    with pytest.raises(DataError, match=r"000000\.tar holds no valid annotation for '0-0'"):
        read_all(open_source([str(layer)]))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"layer": 1, "base": []}'])
def test_damaged_layer_json(base: Path, layer: Path, content: str) -> None:
    (layer / "layer.json").write_text(content)
    with pytest.raises(DataError, match=r"layer\.json"):
        open_source([str(layer)])


# Over what a shard was written


def rewrite(tar: Path, shade: int) -> None:
    """Other pictures under the same keys."""
    number = int(tar.stem)
    with TarWriter(tar) as writer:
        for i in range(4):
            writer.write_sample(f"{number}-{i}", {"jpg": jpeg(shade + i), "txt": b"alt"})


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
    with TarWriter(layer / "000002.tar") as tar:
        tar.write_sample("2-0", {"json": json.dumps(caption("changed").to_json()).encode()})
    with pytest.raises(DataError, match=r"recaption/000002\.tar has changed"):
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
    for name in ("000001.tar.partial", ".summary.json.1234abcd.partial"):
        (folder / name).write_bytes(b"half")
    with TarWriter(folder / "000002.tar"):
        open_layer(folder, layer="recaption", source=source)
        assert sorted(path.name for path in folder.iterdir()) == ["000002.tar.partial", "layer.json"]


# Accounting and completion


def test_in_is_out_and_dropped(tmp_path: Path) -> None:
    source = open_source([str(make_base(tmp_path / "data", 2, 5, bad=True))])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                if sample.key.endswith("2"):
                    out.reject(Reject(shard.name, sample.key, "repetition", "said the same\nagain"))
                elif sample.key.endswith("3"):
                    out.skip(sample, "not-drawn")
                else:
                    out.annotate(sample, caption("x"))
                    out.count(tokens=5, kept=1)
    total = writer.finish()
    assert (total.num_in, total.num_out, total.num_rejected, total.tokens) == (10, 4, 4, 20)
    assert total.dropped == {"not-drawn": 2, "not-utf8": 2, "repetition": 2}
    assert total.reject_rate == 0.4
    assert total == folder_stats(tmp_path / "r1")
    stats = json.loads((tmp_path / "r1" / "000001.stats.json").read_text())
    assert stats["in"] == stats["out"] + sum(stats["dropped"].values()) == 5
    assert stats["kept"] == 2
    rejects = [json.loads(line) for line in (tmp_path / "r1" / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["shard"], reject["key"]) for reject in rejects] == [
        ("000000", "0-1"),
        ("000000", "0-2"),
        ("000001", "1-1"),
        ("000001", "1-2"),
    ]
    layered = open_source([str(tmp_path / "r1")])
    assert [num_samples(shard) for shard in layered.shards] == [5, 5]
    assert [len(sample.annotations) for sample in read_all(layered)] == [1, 0, 0, 1] * 2


def test_rejects_of_a_plain_reader_add_up_too(tmp_path: Path) -> None:
    source = open_source([str(make_base(tmp_path / "data", 1, bad=True))])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with writer.shard(source.shards[0]) as out:
        for sample in read_shard(source.shards[0], on_reject=out.reject):
            out.annotate(sample, caption("x"))
    assert (writer.stats().num_in, writer.stats().num_out) == (4, 3)


@pytest.mark.parametrize("through_writer", [True, False])
def test_a_forgotten_sample_is_noticed(tmp_path: Path, base: Path, through_writer: bool) -> None:
    source = open_source([str(base)])
    shard = source.shards[0]
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    out = writer.shard(shard)
    for sample in out.samples() if through_writer else read_shard(shard, on_reject=out.reject):
        if not sample.key.endswith("2"):
            out.annotate(sample, caption("x"))
    with pytest.raises(AssertionError, match="4 in, but 3 out and 0 dropped"):
        out.close()
    assert writer.done() == set()
    assert [path.name for path in (tmp_path / "r1").iterdir()] == ["layer.json"]


def test_order_of_answers_does_not_matter(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    contents = []
    for out_dir, turn in ((tmp_path / "a", 1), (tmp_path / "b", -1)):
        writer = open_layer(out_dir, layer="recaption", source=source)
        opened = [writer.shard(shard) for shard in source.shards]
        waiting = [(out, sample) for out in opened for sample in out.samples()]
        for out, sample in waiting[::turn]:
            out.annotate(sample, caption(sample.key))
        for out in opened[::turn]:
            out.close()
        writer.finish()
        contents.append([(out_dir / f"{shard.name}.tar").read_bytes() for shard in source.shards])
    assert contents[0] == contents[1]


def test_failed_shard_leaves_nothing_and_resume_does_the_rest(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    layer = write_layer(tmp_path / "r1", source, names={"000000"})
    before = (layer / "layer.json").stat().st_mtime_ns
    writer = open_layer(layer, layer="recaption", source=source)

    def interrupted() -> None:
        with writer.shard(source.shards[1]) as out:
            for sample in out.samples():
                out.annotate(sample, caption("x"))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert writer.done() == {"000000"}
    write_layer(layer, source, names={"000001", "000002"})
    assert writer.done() == {"000000", "000001", "000002"}
    assert (layer / "layer.json").stat().st_mtime_ns == before
    assert not list(layer.glob("*partial*"))


def test_resume_with_other_shards_is_an_error(tmp_path: Path, base: Path, layer: Path) -> None:
    with pytest.raises(DataError, match="holds layer 'recaption', not 'ocr'"):
        open_layer(layer, layer="ocr", source=open_source([str(base)]))
    with pytest.raises(DataError, match="was started over other shards: '000002'"):
        open_layer(layer, layer="recaption", source=open_source([f"{base}/00000[01].tar"]))


def test_all_samples_rejected_is_a_valid_layer(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base / "000000.tar")])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with writer.shard(source.shards[0]) as out:
        for sample in out.samples():
            out.reject(Reject(out.name, sample.key, "empty", ""))
    assert [sample.annotations for sample in read_all(open_source([str(tmp_path / "r1")]))] == [()] * 4


def work(out_dir: Path, base: Path, index: int) -> None:
    source = open_source([str(base)])
    writer = open_layer(out_dir, layer="recaption", source=source)
    for shard in source.shards[index::3]:
        with writer.shard(shard) as out:
            for sample in out.samples():
                out.reject(Reject(shard.name, sample.key, "empty", ""))
    writer.finish()
    with writer.alone():
        stats = writer.stats()
        time.sleep(0.05 * (2 - index))
        (out_dir / "summary.json").write_text(json.dumps(stats.to_json()))


def test_workers_share_a_folder(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data", 9, 2)
    processes = [get_context("fork").Process(target=work, args=(tmp_path / "r1", base, i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "r1" / "rejects.jsonl").read_text().splitlines()) == 18
    assert folder_stats(tmp_path / "r1").num_in == 18
    assert json.loads((tmp_path / "r1" / "summary.json").read_text())["in"] == 18
    assert not list((tmp_path / "r1").glob("*partial*"))


def test_stats_add_up() -> None:
    one = ShardStats(num_in=3, num_out=1, dropped={"a": 2}, num_rejected=2, seconds=1.5, tokens=4, bytes=10)
    both = one + ShardStats(num_in=1, num_out=0, dropped={"a": 1}, seconds=0.5)
    assert both == ShardStats(
        num_in=4, num_out=1, dropped={"a": 3}, num_rejected=2, seconds=2.0, tokens=4, bytes=10
    )
    assert ShardStats().reject_rate == 0.0
