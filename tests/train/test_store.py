"""Tokenised samples on disk: what comes back is what went in, wherever the images are."""

import copy
import gzip
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conversing import conversations
from PIL import Image

from vila2cli.errors import DataError, ModelError
from vila2cli.files import to_json_bytes
from vila2cli.model.chat import Chat
from vila2cli.shards import TarWriter, open_source
from vila2cli.shards.sample import EncodedImage, Sample
from vila2cli.text.compose import Composition
from vila2cli.text.compose import conversations as compose
from vila2cli.train.data import TrainSample, lengths_of
from vila2cli.train.store import SampleStore, Stored, store_shard
from vila2cli.train.stored_image import StoredImage


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


def captions(path: Path) -> Path:
    with TarWriter(path) as tar:
        picture = next(one for one in conversations(12) if one.images).images[0].data
        tar.write_sample("a", {"jpg": picture, "txt": b"a red circle"})
        tar.write_sample("b", {"txt": b"text alone"})
        tar.write_sample("c", {"json": to_json_bytes({"messages": TALK})})
        tar.write_sample("d", {"json": to_json_bytes({"interleaved": {"texts": ["words"], "images": [None]}})})
        tar.write_sample("e", {"jpg": picture[:200], "txt": b"cut off"})
    return path


TALK = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "red"}]


@pytest.mark.parametrize("may_lack", [False, True])
def test_a_caption_without_its_picture_is_no_text(chat: Chat, tmp_path: Path, may_lack: bool) -> None:
    (shard,) = open_source([str(captions(tmp_path / "0.tar"))]).shards
    found = store_shard(
        shard,
        chat,
        lambda sample: compose(sample, Composition()),
        tmp_path / "0.safetensors",
        max_length=2048,
        check_stop=lambda: None,
        may_lack_images=may_lack,
    )
    reasons = {reject.key: reject.reason for reject in found.rejects}
    assert reasons == {"e": "bad-image", **({} if may_lack else {"b": "no-image"})}
    assert found.num_samples == (4 if may_lack else 3)


def with_template(chat: Chat, template: str) -> Chat:
    """The same processor with another template."""
    processor = copy.deepcopy(chat.processor)
    processor.chat_template = template
    return Chat(processor)


STRICT = (
    "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('begin with a user') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("odd", ["system", "assistant"])
def test_one_conversation_that_the_template_refuses_is_one_reject(chat: Chat, tmp_path: Path, odd: str) -> None:
    template = STRICT.replace("== 'assistant'", "== 'system'") if odd == "system" else STRICT
    with TarWriter(tmp_path / "0.tar") as tar:
        for number in range(8):
            first = [{"role": odd, "content": "x"}] if number == 3 else []
            tar.write_sample(f"{number}", {"json": to_json_bytes({"messages": [*first, *TALK]})})
    (one,) = stored(str(tmp_path / "0.tar"), with_template(chat, template), tmp_path / "store")
    ((key, reason),) = ((reject.key, reject.reason) for reject in one.rejects)
    assert (key, reason, one.num_samples) == ("3", "untrainable", 7)


def test_a_template_that_cannot_be_parsed_is_at_fault_itself(chat: Chat, tmp_path: Path) -> None:
    write(tmp_path / "0.tar", conversations(2))
    with pytest.raises(ModelError, match="cannot be parsed"):
        stored(str(tmp_path / "0.tar"), with_template(chat, "{% if %}"), tmp_path / "store")


def test_a_picture_that_the_image_processor_cannot_take_is_one_reject(chat: Chat, tmp_path: Path) -> None:
    processor = copy.deepcopy(chat.processor)
    ours = type(processor.image_processor)

    class WithinProportions(ours):
        """As Qwen2-VL's image processor has it."""

        def __call__(self, images: Any, **more: Any) -> Any:
            if any(max(one.size) > 50 * min(one.size) for row in images for one in row):
                raise ValueError("absolute aspect ratio must be smaller than 50")
            return super().__call__(images, **more)

    processor.image_processor.__class__ = WithinProportions
    stream = io.BytesIO()
    Image.new("RGB", (1000, 1)).save(stream, "PNG")
    whole = next(one for one in conversations(12) if one.images)
    odd = replace(whole, key="odd", images=(EncodedImage(stream.getvalue(), "png"),) * len(whole.images))
    write(tmp_path / "0.tar", [whole, odd])
    (one,) = stored(str(tmp_path / "0.tar"), Chat(processor), tmp_path / "store")
    assert [(reject.key, reject.reason) for reject in one.rejects] == [("odd", "untrainable")]
    assert "100x1: absolute aspect ratio" in one.rejects[0].error
    assert one.num_samples == 1


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


def test_of_a_shard_that_is_cut_the_first_samples_are_stored(chat: Chat, tmp_path: Path) -> None:
    source = open_source([write(tmp_path / "000000.tar", conversations(5))], limit=3)
    (shard,) = source.shards
    made = store_shard(
        shard,
        chat,
        lambda sample: compose(sample, Composition()),
        tmp_path / "cut.safetensors",
        max_length=2048,
        check_stop=lambda: None,
        digests=source.digest(),
    )
    assert made.num_samples == 3
    assert len(SampleStore([[made]], [0])) == 3
