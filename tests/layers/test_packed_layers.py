"""Layers as .tar.gz: small, the same bytes whoever writes them, in full when they are read."""

import dataclasses
import gzip
import hashlib
import json
import random
import tarfile
from pathlib import Path

import pytest
import webdataset
from layer_data import caption, make_base, read_all, write_layer

from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.files import to_json_bytes
from vila2cli.shards import TarWriter, done, layer_tar, open_layer, open_source
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.packed import pack
from vila2cli.shards.reader import read_layer_shard
from vila2cli.shards.sample import Annotation
from vila2cli.shards.tarfiles import SHARED_MEMBER
from vila2cli.world import sayings
from vila2cli.world.scenes import draw_scene

PROMPTS = ("long-v1", "long-v2", "long-v3")
MAX_BYTES = 260


def recaption(number: int, **changes: object) -> Annotation:
    """What a model of the embedded world writes, with all that is noted of it."""
    draws = random.Random(number)
    prompt = draws.choice(PROMPTS)
    annotation = Annotation(
        layer="recaption",
        kind="caption",
        text=sayings.caption(draw_scene(draws, "pretrain")),
        decision={"by": "only", "source": "model"},
        round=1,
        model="runs/world/round0/sft",
        model_sha256="bf11" * 16,
        prompt_id=prompt,
        prompt_sha256=hashlib.sha256(prompt.encode()).hexdigest(),
        sampling={"dtype": "float32", "engine": "hf", "max_new_tokens": 96, "temperature": 0.0, "top_p": 1.0},
        seed=draws.getrandbits(62),
        num_tokens=draws.randrange(20, 60),
        finish_reason="stop",
        logprob_mean=-draws.random(),
    )
    return dataclasses.replace(annotation, **changes)  # type: ignore[arg-type]


def full(annotations: dict[str, Annotation]) -> dict[str, dict[str, object]]:
    return {key: annotation.to_json() for key, annotation in annotations.items()}


def write(folder: Path, annotations: dict[str, Annotation], *, is_packed: bool = True) -> Path:
    """A layer over one shard of a picture per key."""
    base = folder.with_name(f"{folder.name}-base")
    with TarWriter(base / "000000.tar") as tar:
        for key in annotations:
            tar.write_sample(key, {"jpg": key.encode()})
    source = open_source([str(base)])
    writer = open_layer(folder, layer="recaption", source=source, is_packed=is_packed)
    with writer.shard(source.shards[0]) as out:
        for sample in out.samples():
            out.annotate(sample, annotations[sample.key])
    return layer_tar(folder, "000000")


def test_captions_of_the_world_are_small_and_come_back_whole(tmp_path: Path) -> None:
    annotations = {f"{number:09}": recaption(number) for number in range(500)}
    tar = write(tmp_path / "packed", annotations)
    plain = write(tmp_path / "plain", annotations, is_packed=False)
    assert tar.name == "000000.tar.gz"
    assert tar.stat().st_size <= MAX_BYTES / 2 * len(annotations), "and half of that is pictures' digests"
    assert plain.stat().st_size > 1500 * len(annotations)
    assert list(read_annotation_tar(tar)) == list(read_annotation_tar(plain))
    (entries, *samples) = (json.loads(data) for _, data in members(tar))
    assert {entry["prompt_id"] for entry in entries} == set(PROMPTS)
    assert all(entry["sampling"]["engine"] == "hf" for entry in entries)
    assert {frozenset(sample) for sample in samples} == {
        frozenset(("image_sha256", "logprob_mean", "num_tokens", "seed", "shared", "text"))
    }


def members(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_a_packed_layer(tmp_path: Path) -> None:
    annotations = {f"{number:04}": recaption(number) for number in range(9)}
    tar = write(tmp_path / "layer", annotations)
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode())
    assert [(sample["__key__"], sample["json"]["text"]) for sample in samples] == [
        (key, annotation.text) for key, annotation in annotations.items()
    ]


@pytest.mark.parametrize(
    "changes",
    [
        [{}],
        [{"decision": {"by": "retry", "attempts": [{"temperature": 0.0}]}}, {"decision": {}}, {}, {}],
        [
            {"decision": {"temperature": 0}},
            {"decision": {"temperature": 0.0}},
            {"decision": {"temperature": False}},
        ],
        [{"text": ""}, {"text": None}, {"round": 0}, {"round": None}],
        [{"model": None, "model_sha256": None, "prompt_id": None, "prompt_sha256": None}, {"model": ""}, {}],
        [{"sampling": {}}, {"sampling": {"n": [1, {"deep": None}]}}, {"seed": 0}, {"seed": None}],
        [{"finish_reason": "length"}, {"finish_reason": None}, {"tool_version": "0.0.9"}, {"num_tokens": 0}],
        [{"kind": "score", "scores": {"keep": False}}, {"kind": "turns"}, {"scores": {"shared": 3}}],
        [{"fields": {"tags": ["a", "b"], "shared": 1}}, {"fields": {}}],
    ],
)
def test_what_was_said_is_what_is_read(tmp_path: Path, changes: list[dict[str, object]]) -> None:
    """As the same JSON, where a value that is equal would do for Python."""
    annotations = {f"{number:04}": recaption(number, **change) for number, change in enumerate(changes)}
    packed = dict(read_annotation_tar(write(tmp_path / "packed", annotations)))
    plain = dict(read_annotation_tar(write(tmp_path / "plain", annotations, is_packed=False)))
    assert {key: to_json_bytes(value) for key, value in full(packed).items()} == {
        key: to_json_bytes(value) for key, value in full(plain).items()
    }


def test_equal_annotations_are_equal_bytes_with_neither_name_nor_time(tmp_path: Path) -> None:
    annotations = {f"{number:04}": recaption(number) for number in range(20)}
    one = write(tmp_path / "one", annotations)
    other = write(tmp_path / "elsewhere" / "other", dict(reversed(annotations.items())))
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes()[3:8] == bytes(5), "no name, and no time"
    assert pack({}) == (b"", [])


def test_a_layer_begun_unpacked_is_finished_so(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    plain = open_layer(
        tmp_path / "r1", layer="recaption", source=source, manifest={"digest": "abc"}, is_packed=False
    )
    with plain.shard(source.shards[0]) as out:
        for sample in out.samples():
            out.annotate(sample, caption(f"recaption of {sample.key}"))
    layer_json = json.loads((tmp_path / "r1" / "layer.json").read_text())
    del layer_json["packed"]  # as it was before layers were packed
    (tmp_path / "r1" / "layer.json").write_text(json.dumps(layer_json))
    write_layer(tmp_path / "r1", source, names={"000001", "000002"})
    assert sorted(path.name for path in (tmp_path / "r1").glob("*.tar*")) == [f"00000{n}.tar" for n in range(3)]
    assert done(tmp_path / "r1") == {"000000", "000001", "000002"}
    upper = write_layer(tmp_path / "r2", open_source([str(tmp_path / "r1")]), "short")
    both = read_all(open_source([str(upper)]))
    assert [[a.text for a in sample.annotations] for sample in both] == [
        [f"recaption of {sample.key}", f"short of {sample.key}"] for sample in both
    ]


def test_globs_and_ranges_of_tars_find_packed_ones(layer: Path) -> None:
    shards = open_source([str(layer)]).shards
    for spec in ("*.tar", "0*.tar", "{000000..000002}.tar", "*.tar*"):
        assert open_source([f"{layer}/{spec}"]).shards == shards
    assert open_source([f"{layer}/000001.tar"]).shards == shards[1:2]


def test_a_shard_that_is_there_twice_is_refused(tmp_path: Path, layer: Path) -> None:
    (layer / "000001.tar").write_bytes(gzip.decompress((layer / "000001.tar.gz").read_bytes()))
    for read in (lambda: open_source([str(layer)]), lambda: done(layer)):
        with pytest.raises(DataError, match=r"000001\.tar and 000001\.tar\.gz, which are one shard"):
            read()
    (layer / "000001.tar.gz").unlink()
    assert len(read_all(open_source([str(layer)]))) == 12, "a shard unpacked by hand"
    (layer / "000002.tar.gz").write_bytes(
        gzip.compress(gzip.decompress((layer / "000002.tar.gz").read_bytes()), 1)
    )
    assert len(read_all(open_source([str(layer)]))) == 12, "and one packed anew"
    assert main(["shards", "check", str(layer)]) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-20], "damaged or cut off"),
        (lambda data: data[:40], "damaged or cut off"),
        (lambda data: data + data, "data after the end marker"),
        (lambda data: data + b"garbage", "damaged or cut off"),
        (
            lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
            "damaged or cut off|cannot be read|valid",
        ),
        (
            lambda data: gzip.compress(gzip.decompress(data).replace(b"recaption of 1-2", b"recaption of 1-x")),
            "SHA",
        ),
    ],
)
def test_a_damaged_packed_shard_is_told(layer: Path, change: object, words: str) -> None:
    tar = layer / "000001.tar.gz"
    tar.write_bytes(change(tar.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=words):
        read_layer_shard(tar)


@pytest.mark.parametrize(
    ("shared", "record"),
    [
        (b"[]", b'{"shared": 0, "text": "x"}'),
        (b'[{"layer": "r", "kind": "caption"}]', b'{"shared": 1}'),
        (b'[{"layer": "r", "kind": "caption"}]', b'{"shared": -1}'),
        (b'[{"layer": "r", "kind": "caption"}]', b'{"shared": true}'),
        (b'[{"layer": "r", "kind": "caption"}]', b'{"shared": "0"}'),
        (b'[{"layer": "r", "kind": "caption"}]', b'{"shared": 0, "new": 1}'),
        (b'[{"layer": "r", "kind": "caption"}]', b"[]"),
        (b'[{"layer": "r"}]', b'{"shared": 0}'),
        (b'[{"layer": "r", "kind": "caption", "new": 1}]', b'{"shared": 0}'),
        (b'{"layer": "r"}', b'{"shared": 0}'),
        (b"[1]", b'{"shared": 0}'),
        (b"[", b'{"shared": 0}'),
        (b"[" * 100_000, b'{"shared": 0}'),
        (b"", b'{"shared": 0}'),
    ],
)
def test_what_names_no_entry_is_no_annotation(tmp_path: Path, shared: bytes, record: bytes) -> None:
    with TarWriter(tmp_path / "000000.tar.gz") as tar:
        tar.write_shared(shared)
        tar.write_sample("a", {"json": record})
    with pytest.raises(DataError, match=r"000000\.tar\.gz holds no valid|__shared__ in .* cannot be read"):
        dict(read_annotation_tar(tmp_path / "000000.tar.gz"))


def test_show_prints_where_an_annotation_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "layer", {"a": recaption(1), "b": recaption(2)})
    assert main(["shards", "show", str(tmp_path / "layer"), "-n", "1"]) == 0
    said = capsys.readouterr().out
    annotation = recaption(1)
    for part in (
        annotation.model_sha256,
        annotation.prompt_sha256,
        str(annotation.seed),
        '"max_new_tokens": 96',
    ):
        assert str(part) in said
    assert main(["shards", "check", str(tmp_path / "layer"), "--fast"]) == 0


def test_a_shard_without_annotations_is_packed_too(tmp_path: Path) -> None:
    source = open_source([str(make_base(tmp_path / "data", 1))])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with writer.shard(source.shards[0]) as out:
        for sample in out.samples():
            out.skip(sample, "not-drawn")
    tar = layer_tar(tmp_path / "r1", "000000")
    assert members(tar) == []
    assert SHARED_MEMBER not in dict(read_layer_shard(tar).by_key)
    assert [sample.annotations for sample in read_all(open_source([str(tmp_path / "r1")]))] == [()] * 4
