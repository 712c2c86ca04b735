"""`vila2 shards convert` on layouts of other tools: chats in tables, base64, what `datasets` saves."""

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Sample
from vila2cli.stages.convert import convert
from vila2cli.stages.export import export

USER, ASSISTANT = "<image>\nWhat is it?", "A thing."


def picture(side: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


PICTURES = [picture(side) for side in (16, 24, 32)]


def samples(folder: Path) -> list[Sample]:
    return [
        sample
        for shard in open_source([folder]).shards
        for sample in read_shard(shard, on_reject=lambda reject: pytest.fail(reject.error))
    ]


def reasons(folder: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (folder / "rejects.jsonl").read_text().splitlines()]


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    arrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


def turns(user: str, assistant: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": user}, {"from": "gpt", "value": assistant}]


def test_chats_in_parquet_as_llava_onevision_and_the_cauldron_have_them(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    struct = {"bytes": PICTURES[0], "path": "a.jpg"}
    rows = [
        {"id": "1", "image": struct, "conversations": turns(USER, ASSISTANT)},
        {"id": "2", "image": None, "conversations": turns("Hello", "Hi")},
        {"id": "3", "image": struct, "conversations": turns("<image><image>", "Two?")},
        {"id": "4", "image": struct, "conversations": turns(USER, ASSISTANT)[:1]},
    ]
    counts = convert("parquet", [table(tmp_path / "ov.parquet", rows)], tmp_path / "ov")
    assert (counts.num_out, reasons(tmp_path / "ov")) == (2, ["image-count", "bad-conversation"])
    seen, told = samples(tmp_path / "ov")
    assert [image.data for image in seen.images] == [PICTURES[0]]
    assert [(turn.role, turn.text) for turn in seen.turns] == [("user", USER), ("assistant", ASSISTANT)]
    assert (told.images, told.turns[0].text) == ((), "Hello")
    assert "conversations" not in seen.meta

    pair = {"user": "What?", "assistant": "That.", "source": "vqa"}
    rows = [{"images": [{"bytes": data, "path": None} for data in PICTURES[:2]], "texts": [pair, pair]}]
    convert("parquet", [table(tmp_path / "cauldron.parquet", rows)], tmp_path / "cauldron")
    (sample,) = samples(tmp_path / "cauldron")
    assert [turn.text for turn in sample.turns] == ["What?", "That."] * 2
    assert [image.data for image in sample.images] == PICTURES[:2]


def test_chats_with_roles_in_json(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PICTURES[0])
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    rows = [
        {
            "images": ["a.jpg"],
            "messages": [{"role": "user", "content": USER}, {"role": "assistant", "content": "A"}],
        },
        {
            "images": ["a.jpg"],
            "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "B"}],
        },
        {"image": "a.jpg", "conversations": [{"role": "user", "content": [{"type": "audio"}]}]},
        {"image": {"bytes": "x"}, "conversations": turns(USER, ASSISTANT)},
    ]
    (tmp_path / "chats.json").write_text(json.dumps(rows))
    convert("llava", [tmp_path / "chats.json"], tmp_path / "out", images=[tmp_path])
    assert reasons(tmp_path / "out") == ["bad-conversation", "bad-row"]
    assert [sample.turns[0].text for sample in samples(tmp_path / "out")] == [USER, "<image>What?"]


@pytest.mark.parametrize("before", ["", "data:image/jpeg;base64,"])
def test_pictures_in_base64(tmp_path: Path, before: str) -> None:
    texts = [before + base64.b64encode(data).decode() for data in PICTURES]
    rows = [{"id": number, "image": text, "caption": f"noise {number}"} for number, text in enumerate(texts)]
    rows.append({"id": 3, "image": before + "A" * 4000, "caption": "no picture"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    convert("csv", [tmp_path / "rows.jsonl"], tmp_path / "csv")
    convert("coyo", [tmp_path / "rows.jsonl"], tmp_path / "coyo", images=[tmp_path])
    for out in ("csv", "coyo"):
        found = samples(tmp_path / out)
        assert [sample.images[0].data for sample in found] == PICTURES
        assert [sample.text for sample in found] == ["noise 0", "noise 1", "noise 2"]
        assert all(len(json.dumps(sample.meta)) < 200 for sample in found), "the picture is no metadata"
        assert reasons(tmp_path / out) == ["undecodable" if before else "missing-image"]


def test_what_datasets_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    form = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": data, "path": "x.jpg"} for data in PICTURES], "text": ["a", "b", "c"]}
    datasets.Dataset.from_dict(rows, features=form).save_to_disk(str(tmp_path / "saved"))
    counts = convert("parquet", [tmp_path / "saved"], tmp_path / "out")
    assert (counts.num_in, counts.num_out) == (3, 3)
    for form in ("parquet", "llava"):
        folder = tmp_path / f"{form}-exported"
        export(form, open_source([tmp_path / "out"]), folder, with_pictures=True)
        if form == "parquet":
            with pytest.raises(DataError, match=r"holds no file.*; name \S+data, which does"):
                convert(form, [folder], tmp_path / "none")
            folder = folder / "data"
        again = convert(form, [folder], tmp_path / f"{form}-again", images=[folder] if form == "llava" else ())
        assert (again.num_in, again.num_out) == (3, 3)
    assert [(sample.text, sample.images[0].data) for sample in samples(tmp_path / "out")] == list(
        zip("abc", PICTURES, strict=True)
    )


def test_several_captions_in_one_column_and_numbers(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, data in zip("abc", PICTURES, strict=True):
        (folder / f"{name}.jpg").write_bytes(data)
    said: dict[str, Any] = {"a": ["one", " ", "two"], "b": 7, "c": []}
    rows = [{"file_name": f"{name}.jpg", "caption": caption} for name, caption in said.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    convert("folder", [folder], tmp_path / "folder", captions=[tmp_path / "rows.jsonl"])
    convert("csv", [tmp_path / "rows.jsonl"], tmp_path / "csv", images=[folder])
    for out in ("folder", "csv"):
        found = [(sample.text, sample.meta.get("captions")) for sample in samples(tmp_path / out)]
        assert found == [("one", ["one", "two"]), ("7", None), (None, None)]
    rows = [{"image": {"bytes": PICTURES[0], "path": None}, "caption": ["one", "two"], "sentids": [1, 2]}]
    convert("parquet", [table(tmp_path / "flickr.parquet", rows)], tmp_path / "flickr")
    (sample,) = samples(tmp_path / "flickr")
    assert (sample.text, sample.meta["captions"], sample.meta["sentids"]) == ("one", ["one", "two"], [1, 2])


def test_other_json_beside_pictures_is_of_no_concern(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(PICTURES[0])
    (folder / "a.json").write_text("[1]")
    with tarfile.open(folder / "b.tar", "w") as tar:
        for name, data in (("b.jpg", PICTURES[1]), ("b.json", b"null"), ("c.json", b"no json")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (tmp_path / "rows.csv").write_text("image,caption\na.jpg,one\nb.jpg,two\nhttps://x.org/c.jpg,three\n")
    counts = convert("csv", [tmp_path / "rows.csv"], tmp_path / "out", images=[folder])
    assert (counts.num_out, dict(counts.dropped)) == (2, {"missing-image": 1})


def test_a_tar_for_which_nothing_could_be_downloaded(tmp_path: Path) -> None:
    folder = tmp_path / "downloaded"
    folder.mkdir()
    rows = [{"url": "https://x.org/1", "key": "0", "status": "failed_to_download", "error_message": "404"}]
    table(folder / "00000.parquet", rows)
    with tarfile.open(folder / "00000.tar", "w"):
        pass
    with tarfile.open(folder / "00001.tar", "w") as tar:
        for name, data in (("1.jpg", PICTURES[0]), ("1.txt", b"noise")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    counts = convert("img2dataset", [folder], tmp_path / "out")
    assert (counts.num_in, counts.num_out, dict(counts.dropped)) == (2, 1, {"not-downloaded": 1})
