import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from archives import JPEG, read, write_tar
from vila2cli.errors import DataError, DataWarning
from vila2cli.files import to_json_bytes
from vila2cli.shards import TarWriter, done, expand, num_samples, open_source, read_shard
from vila2cli.shards.tarfiles import split_name

ARCHIVES = Path(os.environ.get("VILA2_TEST_DATA", Path(__file__).parents[2] / "../shared/data")) / "wds"
needs_archives = pytest.mark.skipif(not ARCHIVES.is_dir(), reason=f"needs real archives in {ARCHIVES}")


webdataset_leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


# What lies in a sample


def test_a_sample_has_image_text_and_metadata(tmp_path: Path) -> None:
    members = [("a.jpg", JPEG), ("a.txt", b"a red \xc3\xa9clair"), ("a.json", b'{"url": "x"}'), ("a.cls", b"3")]
    (sample,), rejects = read(write_tar(tmp_path / "0.tar", members))
    assert rejects == []
    assert (sample.key, sample.text, sample.meta) == ("a", "a red éclair", {"url": "x"})
    assert [(image.data, image.extension) for image in sample.images] == [(JPEG, "jpg")]


def test_several_images_come_in_numeric_order(tmp_path: Path) -> None:
    numbers = [10, 2, 0, 1]
    members = [(f"a.{number}.png", str(number).encode()) for number in numbers]
    (sample,), _ = read(write_tar(tmp_path / "0.tar", members))
    assert [image.data for image in sample.images] == [b"0", b"1", b"2", b"10"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("000.jpg", ("000", "jpg")),
        ("000.0.JPG", ("000", "0.jpg")),
        ("v1.5/photo.jpg", ("v1.5/photo", "jpg")),
        ("./photo.tar.gz", ("./photo", "tar.gz")),
        ("folder.d/noextension", None),
        (".hidden.jpg", None),
        ("folder/._mac.jpg", None),
        ("__meta__/dataset.json", None),
    ],
)
def test_split_name(name: str, split: tuple[str, str] | None) -> None:
    assert split_name(name) == split


def test_split_name_agrees_with_webdataset() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        name = "".join(rng.choice("ab./") for _ in range(rng.randrange(1, 9)))
        if split_name(name) is not None:
            prefix, suffix = webdataset.tariterators.base_plus_ext(name)
            assert split_name(name) == (prefix, suffix)


@pytest.mark.parametrize(
    ("members", "reasons"),
    [
        ([("a.jpg", JPEG), ("a.txt", b"1"), ("a.jpg", JPEG), ("a.txt", b"2")], ["duplicate-key"]),
        ([("a.jpg", JPEG), ("b.jpg", JPEG), ("a.txt", b"late")], ["not-adjacent"]),
        ([("a.jpg", JPEG), ("b.jpg", JPEG), ("a.jpg", JPEG)], ["duplicate-key"]),
        ([("a.jpg", JPEG), ("x.v1.jpg", JPEG), ("x.v2.jpg", JPEG)], ["dotted-name"]),
        ([("a.jpg", JPEG), ("b.jpg", b"")], ["empty-image"]),
        ([("a.jpg", JPEG), ("b.jpg", JPEG), ("b.png", JPEG)], ["ambiguous-image"]),
        ([("a.jpg", JPEG), ("b.txt", "caf\xe9".encode("latin-1"))], ["not-utf8"]),
        ([("a.jpg", JPEG), ("b.json", b'{"a": "\xff"}')], ["not-utf8"]),
        ([("a.jpg", JPEG), ("b.json", b'{"a": "\\ud800"}')], ["not-utf8"]),
        ([("a.jpg", JPEG), ("b.json", b'{"a": ')], ["bad-json"]),
        ([("a.jpg", JPEG), ("b.json", b'{"a": "\xed\xa0\x80"}')], ["not-utf8"]),
        ([("a.jpg", JPEG), ("b.json", b'{"\\udc00": 1}')], ["not-utf8"]),
        ([("a.jpg", JPEG), ("b.json", b"[" * 100_000)], ["bad-json"]),
        ([("a.jpg", JPEG), ("b.json", b'{"a":' * 300 + b"1" + b"}" * 300)], ["bad-json"]),
        ([("a.jpg", JPEG), ("b.json", b'{"a": ' + b"9" * 400 + b"}")], ["bad-json"]),
        ([("a.jpg", JPEG), ("b.image.jpg", JPEG), ("b.txt", b"1")], ["no-image"]),
        ([("a.jpg", JPEG), ("b.heic", JPEG), ("b.txt", b"1"), ("b.json", b"{}")], ["no-image"]),
        ([("a.jpg", JPEG), ("b.image.0.png", JPEG), ("b.json", b'{"messages": []}')], ["no-image"]),
        ([("a.jpg", JPEG), ("b.json", b"[]")], ["bad-json"]),
        ([("a.jpg", JPEG), ("../b.jpg", JPEG)], ["bad-key"]),
        ([("a.jpg", JPEG), ("b.json", b'{"messages": "hello"}')], ["bad-messages"]),
        ([("a.jpg", JPEG), ("b.json", b'{"messages": [{"role": "cat", "content": ""}]}')], ["bad-messages"]),
        ([("a.jpg", JPEG), ("b.json", b'{"interleaved": {"texts": ["x"]}}')], ["bad-document"]),
        ([("a.jpg", JPEG), ("b.json", b'{"interleaved": {"texts": [null], "images": [0]}}')], ["bad-document"]),
    ],
)
def test_what_cannot_be_used_is_rejected_and_counted(
    tmp_path: Path, members: list[tuple[str, bytes]], reasons: list[str]
) -> None:
    samples, rejects = read(write_tar(tmp_path / "0.tar", members))
    assert [reject.reason for reject in rejects] == reasons
    assert samples[0].key == "a"
    assert samples[0].text != "2"
    assert {reject.shard for reject in rejects} == {"0"}


def test_a_picture_may_have_others_beside_it_that_are_not_read(tmp_path: Path) -> None:
    members = [("a.JPG", JPEG), ("a.mask.png", b"0"), ("a.txt", b"one"), ("b.jfif", JPEG), ("b.heic", b"0")]
    samples, rejects = read(write_tar(tmp_path / "0.tar", members))
    assert [[image.data for image in sample.images] for sample in samples] == [[JPEG], [JPEG]]
    assert not rejects


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": NaN, "b": 1e999, "c": -Infinity, "d": 1e3}', {"a": None, "b": None, "c": None, "d": 1000.0}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": "\\ud83d\\ude00", "b": "\\u0000"}', {"a": "\U0001f600", "b": "\0"}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "\xe9"}'.encode("utf-16"), {"a": "\xe9"}),
        (b'{"a": ' + b"[" * 199 + b"]" * 199 + b"}", None),
    ],
)
def test_odd_json_that_can_be_read_can_be_written_again(tmp_path: Path, text: bytes, value: object) -> None:
    (sample,), _ = read(write_tar(tmp_path / "0.tar", [("a.jpg", JPEG), ("a.json", text)]))
    assert value is None or sample.meta == value
    assert json.loads(to_json_bytes(dict(sample.meta))) == sample.meta


def test_key_in_latin_1_is_rejected_in_printable_form(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("caf\xe9.jpg", JPEG), ("b.jpg", JPEG)], encoding="latin-1", format=0)
    samples, (reject,) = read(path)
    assert [sample.key for sample in samples] == ["b"]
    assert (reject.reason, reject.key) == ("not-utf8", "caf\\udce9")


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (sample,), _ = read(write_tar(tmp_path / "0.tar", [("a.txt", "\ufeffhello".encode())]))
    assert sample.text == "hello"


def test_folders_links_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "v1.2"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(JPEG)
    (folder / ".a.jpg").write_bytes(JPEG)
    (folder / "b.jpg").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(folder, "v1.2")
    with pytest.warns(DataWarning, match=r"0\.tar: 1 links or devices are ignored, first 'v1\.2/b\.jpg'"):
        samples, rejects = read(tmp_path / "0.tar")
    assert [sample.key for sample in samples] == ["v1.2/a"]
    assert rejects == []


# Specs


def make_shards(folder: Path, num: int) -> list[str]:
    return [str(write_tar(folder / f"{i:06d}.tar", [(f"{i}.txt", b"x")])) for i in range(num)]


def test_expand_globs_braces_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = make_shards(tmp_path / "data", 3)
    (tmp_path / "data" / "000000.stats.json").write_text("{}")
    (tmp_path / "data" / ".vila2-000009.tar.partial").touch()
    relative = [f"data/00000{i}.tar" for i in range(3)]
    assert expand([f"{tmp_path}/data/*.tar"]) == paths
    assert expand(["data/*"]) == expand(["data"]) == expand(["data/{000000..000002}.tar"]) == relative
    assert expand(["data/{000000..000002}.*"]) == expand(["**/*.tar"]) == relative
    assert expand(["data/000002.tar", "data/*.tar"]) == [relative[2], *relative[:2]]
    assert expand(["../" + tmp_path.name + "/data/*.tar"])[0].endswith("data/000000.tar")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing/*.tar", "no shards match 'nothing/"),
        ("data/{000000..000003}.tar", "there is no data/000003.tar"),
        ("data/000000.txt", "there is no"),
        ("data/{0", "braces"),
        ("empty", "holds no .tar"),
        ("note.txt", "should end in"),
    ],
)
def test_expand_names_the_spec_that_matches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_shards(tmp_path / "data", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").touch()
    with pytest.raises(DataError, match=message):
        expand(["data", spec])


def test_no_specs() -> None:
    with pytest.raises(DataError, match="no shards"):
        open_source([])


def test_equal_file_names_get_unique_names(tmp_path: Path) -> None:
    for folder in ("a/x", "b/x", "c"):
        make_shards(tmp_path / folder, 2)
    source = open_source([f"{tmp_path}/a/x", f"{tmp_path}/b/x", f"{tmp_path}/c/000001.tar"])
    assert [shard.name for shard in source.shards] == [
        "a__x__000000",
        "a__x__000001",
        "b__x__000000",
        "b__x__000001",
        "c__000001",
    ]
    twice = open_source([f"{tmp_path}/c", f"{tmp_path}/c/*.tar"])
    assert [shard.name for shard in twice.shards] == ["000000", "000001"]
    shutil.copy(tmp_path / "c/000000.tar", tmp_path / "c/000000.tgz")
    names = [shard.name for shard in open_source([f"{tmp_path}/c"]).shards]
    assert len(set(names)) == 3


def test_digest_follows_the_content(tmp_path: Path) -> None:
    make_shards(tmp_path, 2)
    before = open_source([str(tmp_path)]).digest()
    assert list(before) == ["000000", "000001"]
    write_tar(tmp_path / "000001.tar", [("1.txt", b"y")])
    after = open_source([str(tmp_path)]).digest()
    assert before["000000"] == after["000000"]
    assert before["000001"] != after["000001"]


# Writing


def test_writing_is_atomic_and_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "out" / "000000.tar"

    def write() -> bytes:
        with TarWriter(path) as tar:
            tar.write_sample("folder.d/é", {"txt": b"a", "jpg": JPEG})
            tar.write_sample("b" * 150, {"json": b"{}"})
            assert not path.exists() or done(path.parent)
        return path.read_bytes()

    assert write() == write()
    assert done(path.parent) == {"000000"}
    assert [sample.key for sample in read(path)[0]] == ["folder.d/é", "b" * 150]
    stats = json.loads((path.parent / "000000.stats.json").read_text())
    assert (stats["in"], stats["out"], stats["bytes"]) == (2, 2, path.stat().st_size)


def test_nothing_is_left_of_a_failed_shard(tmp_path: Path) -> None:
    def fail() -> None:
        with TarWriter(tmp_path / "0.tar") as tar:
            tar.write_sample("a", {"txt": b"a"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["a.b", "", "folder/", "/abs", "../a", "x/../a", "__meta__/a", "twice"])
def test_keys_that_no_reader_could_split(tmp_path: Path, key: str) -> None:
    with TarWriter(tmp_path / "0.tar") as tar:
        tar.write_sample("twice", {"txt": b"a"})
        with pytest.raises(DataError, match="cannot write sample"):
            tar.write_sample(key, {"txt": b"a"})


def test_a_replaced_shard_is_counted_anew(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "0.tar") as tar:
        tar.write_sample("a", {"txt": b"a"})
    (shard,) = open_source([str(tmp_path)]).shards
    assert num_samples(shard) == 1
    write_tar(tmp_path / "0.tar", [(f"{i}.txt", b"x" * 3000) for i in range(5)])
    assert num_samples(shard) == 5


# The webdataset library


@webdataset_leaves_files_open
def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "000000.tar") as tar:
        for i in range(3):
            meta = json.dumps({"i": i}).encode()
            tar.write_sample(f"v1.0/{i}", {"jpg": JPEG, "txt": f"é {i}".encode(), "json": meta})
    dataset = webdataset.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False)
    samples = list(dataset.decode("pil").to_tuple("__key__", "jpg", "txt", "json"))
    assert [(key, text, meta) for key, _, text, meta in samples] == [
        (f"v1.0/{i}", f"é {i}", {"i": i}) for i in range(3)
    ]
    assert samples[0][1].size == (8, 8)


def test_we_read_shards_of_webdataset(tmp_path: Path) -> None:
    with webdataset.ShardWriter(f"{tmp_path}/%06d.tar", maxcount=2, verbose=0) as writer:
        for i in range(5):
            image = Image.new("RGB", (8, 8), "red")
            writer.write({"__key__": f"v1.0/{i:03d}", "jpg": image, "txt": f"é {i}", "json": {"i": i}})
    source = open_source([f"{tmp_path}/{{000000..000002}}.tar"])
    samples = [sample for shard in source.shards for sample in read_shard(shard, on_reject=pytest.fail)]
    assert [num_samples(shard) for shard in source.shards] == [2, 2, 1]
    assert [(s.key, s.text, s.meta) for s in samples] == [
        (f"v1.0/{i:03d}", f"é {i}", {"i": i}) for i in range(5)
    ]
    assert all(sample.images[0].data.startswith(b"\xff\xd8") for sample in samples)


# Archives of other projects


@needs_archives
@webdataset_leaves_files_open
def test_real_archives_agree_with_webdataset() -> None:
    """Every real archive: the same keys, images and texts as webdataset finds, or one clear error."""
    num_read = 0
    for path in sorted(ARCHIVES.rglob("*.t*")):
        (shard,) = open_source([str(path)]).shards
        dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        known = [sample for sample in dataset if sample.keys() & {"jpg", "png", "txt", "json"}]
        if not known:
            with pytest.raises(DataError, match="empty shard"):
                list(read_shard(shard, on_reject=pytest.fail))
            continue
        samples, rejects = read(path)
        num_read += len(samples)
        assert rejects == []
        assert [sample.key for sample in samples] == [sample["__key__"] for sample in known]
        for ours, theirs in zip(samples, known, strict=True):
            assert [image.data for image in ours.images] == [theirs[e] for e in ("jpg", "png") if e in theirs]
            assert ours.text == (theirs["txt"].decode() if "txt" in theirs else None)
    assert num_read > 100


def test_reading_shards_imports_neither_torch_nor_webdataset() -> None:
    heavy = {"torch", "numpy", "PIL", "webdataset"}
    code = f"import sys, vila2cli.shards; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_called_a_shard_and_is_none_is_told(tmp_path: Path, kind: str) -> None:
    """Passed over in silence it would be a shard less."""
    write_tar(tmp_path / "0.tar", [("a.jpg", JPEG)])
    odd = tmp_path / "1.tar"
    odd.symlink_to("nowhere.tar") if kind == "link" else odd.mkdir()
    for spec in (tmp_path, tmp_path / "*.tar", odd):
        with pytest.raises(DataError, match=r"1\.tar") as found:
            list(read_shard(open_source([str(spec)]).shards[-1], on_reject=lambda reject: None))
        assert "\n" not in str(found.value)
    assert [shard.name for shard in open_source([str(tmp_path / "0.tar")]).shards] == ["0"]
