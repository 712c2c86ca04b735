"""Tokenised samples on disk: what comes back is what went in, wherever the images are."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from conversing import conversations

from vila2cli.errors import DataError
from vila2cli.model.chat import Chat
from vila2cli.sample import Sample
from vila2cli.shards import TarWriter, open_source, to_json_bytes
from vila2cli.text.compose import Composition
from vila2cli.text.compose import conversations as compose
from vila2cli.train.data import TrainSample, lengths_of
from vila2cli.train.store import SampleStore, Stored, StoredImage, store_shard


def write(path: Path, samples: list[Sample]) -> Path:
    with TarWriter(path) as tar:
        for sample in samples:
            members = {f"{i}.jpg": image.data for i, image in enumerate(sample.images)}
            tar.write_sample(sample.key, {**members, "json": to_json_bytes(dict(sample.meta))})
    return path


def stored(tar: str, chat: Chat, folder: Path, max_length: int = 2048) -> list[Stored]:
    return [
        store_shard(
            shard,
            chat,
            lambda sample: compose(sample, Composition()),
            folder / f"{number}.safetensors",
            max_length=max_length,
            check_stop=lambda: None,
        )
        for number, shard in enumerate(open_source([tar]).shards)
    ]


def values(sample: TrainSample) -> tuple[list[int], list[int], list[bytes]]:
    return list(sample.ids), list(sample.labels), [image.data for image in sample.images]


@pytest.mark.parametrize("is_zipped", [False, True], ids=["tar", "gzip"])
def test_what_comes_back_is_what_went_in(
    chat: Chat, samples: list[TrainSample], tmp_path: Path, is_zipped: bool
) -> None:
    tar = write(tmp_path / "000000.tar", conversations(12))
    if is_zipped:
        tar.write_bytes(gzip.compress(tar.read_bytes()))
    store = SampleStore([stored(str(tar), chat, tmp_path / "store")], [0])
    assert [values(one) for one in store] == [values(one) for one in samples]
    assert [one.key for one in store] == [f"{tar}/{one.key}" for one in samples]
    known = lengths_of(samples)
    for name in ("tokens", "images", "trained", "source"):
        assert getattr(store.lengths, name).tolist() == getattr(known, name).tolist()
    # Images of a plain tar are not copied.
    kinds = {isinstance(image, StoredImage) for one in store for image in one.images}
    assert kinds == {not is_zipped}
    size = (tmp_path / "store" / "0.safetensors").stat().st_size
    num_bytes = sum(len(image.data) for one in samples for image in one.images)
    assert (size > num_bytes) == is_zipped


def test_sources_are_one_after_another_each_up_to_its_limit(chat: Chat, tmp_path: Path) -> None:
    for name, num in (("a", 5), ("b", 4)):
        for shard in range(2):
            write(tmp_path / name / f"{shard}.tar", conversations(num))
    sources = [stored(str(tmp_path / name), chat, tmp_path / "store" / name) for name in ("a", "b")]
    store = SampleStore(sources, [7, 0])
    assert store.lengths.source.tolist() == [0] * 7 + [1] * 8
    folders = [Path(one.key).parent.name for one in store]
    assert folders == ["0.tar"] * 5 + ["1.tar"] * 2 + ["0.tar"] * 4 + ["1.tar"] * 4
    assert [store[i].key for i in (6, 7, 14)] == [*[one.key for one in store][6:8], store[-1:][0].key]


def test_rejects_are_kept_with_the_shard(chat: Chat, samples: list[TrainSample], tmp_path: Path) -> None:
    tar = write(tmp_path / "000000.tar", conversations(12))
    longest = max(len(one.ids) for one in samples)
    (first,) = stored(str(tar), chat, tmp_path / "store", max_length=longest - 1)
    too_long = sum(len(one.ids) == longest for one in samples)
    assert (first.num_samples, len(first.rejects)) == (12 - too_long, too_long)
    assert f"its {longest} tokens are more than max_length = {longest - 1}" in first.rejects[0].error
    # A second start reads what the first one wrote.
    notes = first.path.with_suffix(".json")
    before = notes.stat().st_mtime_ns, first.path.stat().st_mtime_ns
    assert stored(str(tar), chat, tmp_path / "store") == [first]
    assert (notes.stat().st_mtime_ns, first.path.stat().st_mtime_ns) == before


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return write(tmp_path / "000000.tar", conversations(12))


def replaced(tar: Path) -> bytes:
    """The same archive with other pictures of equal length."""
    data = bytearray(tar.read_bytes())
    starts = [place for place in range(0, len(data), 512) if data.startswith(b"\xff\xd8\xff", place)]
    for start in starts:
        data[start + 400 : start + 420] = bytes(20)
    return bytes(data)


@pytest.mark.parametrize("how", ["written over", "moved over", "cut off", "gone"])
def test_a_shard_that_was_replaced_is_not_trained_on(chat: Chat, tar: Path, tmp_path: Path, how: str) -> None:
    store = SampleStore([stored(str(tar), chat, tmp_path / "store")], [0])
    data = replaced(tar)
    with_image = next(i for i, one in enumerate(store) if one.images)
    if how == "written over":
        tar.write_bytes(data)
    elif how == "moved over":
        (tmp_path / "other").write_bytes(data)
        (tmp_path / "other").replace(tar)
    elif how == "cut off":
        tar.write_bytes(data[:1024])
    else:
        tar.unlink()
    message = "cannot read" if how == "gone" else "has changed while it is trained on"
    with pytest.raises(DataError, match=rf"000000\.tar.*{message}|{message}.*000000\.tar"):
        store[with_image].decoded()


def test_a_shard_that_was_touched_is_the_same(chat: Chat, tar: Path, tmp_path: Path) -> None:
    store = SampleStore([stored(str(tar), chat, tmp_path / "store")], [0])
    expected = [values(one) for one in store]
    (tmp_path / "copy").write_bytes(tar.read_bytes())
    (tmp_path / "copy").replace(tar)
    os.utime(tar, (1, 1))
    assert [values(one) for one in store] == expected


def test_what_is_tokenised_is_what_is_recorded(chat: Chat, tar: Path, tmp_path: Path) -> None:
    source = open_source([str(tar)])
    digests = source.digest()
    options: dict[str, Any] = {"max_length": 2048, "check_stop": lambda: None, "digests": digests}

    def store(name: str) -> Stored:
        make = lambda sample: compose(sample, Composition())  # noqa: E731
        return store_shard(source.shards[0], chat, make, tmp_path / name / "0.safetensors", **options)

    assert store("before").num_samples == 12
    tar.write_bytes(replaced(tar))
    with pytest.raises(DataError, match=r"000000\.tar has changed since this training was started"):
        store("after")
    assert not (tmp_path / "after").exists()
