"""Tars that other tools wrote, in the forms that data sets on the Hub have."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.shards import open_source, read_rejects, read_shard
from vila2cli.shards.sample import Sample
from vila2cli.stages.convert import convert


def picture(form: str = "JPEG", shades: tuple[int, ...] = (50,)) -> bytes:
    """A picture, or several as the pages of one file."""
    buffer = io.BytesIO()
    first, *others = (Image.new("RGB", (16, 12), (shade, 0, 0)) for shade in shades)
    first.save(buffer, form, **({"save_all": True, "append_images": others} if others else {}))
    return buffer.getvalue()


def tar(path: Path, members: Mapping[str, Any]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def converted(tmp_path: Path, members: Mapping[str, Any], **options: Any) -> list[Sample]:
    tar(tmp_path / "in.tar", members)
    convert("webdataset", [tmp_path / "in.tar"], tmp_path / "out", **options)
    (shard,) = open_source([tmp_path / "out"]).shards
    return list(read_shard(shard, on_reject=pytest.fail))


def rejects(tmp_path: Path) -> list[tuple[str, str]]:
    return [(reject.reason, reject.error) for reject in read_rejects(tmp_path / "out", "000000")]


@pytest.mark.parametrize(
    ("meta", "text", "captions"),
    [
        ({"caption": "a cat", "url": "u"}, "", ["a cat"]),
        ({"captions": ["a cat", "one cat"]}, "", ["a cat", "one cat"]),
        ({"prompt": "a cat"}, "prompt", ["a cat"]),
        ({"short": "a", "by": {"long": "a cat"}}, "by.long", ["a cat"]),
        ({"prompt": "a cat"}, "", []),
    ],
)
def test_captions_in_the_json(tmp_path: Path, meta: dict[str, Any], text: str, captions: list[str]) -> None:
    """text-to-image-2M has `prompt`, SPRIGHT `spatial_caption`, COCO's `captions`, img2dataset `caption`."""
    (sample,) = converted(tmp_path, {"1.jpg": picture(), "1.json": meta}, text=text)
    assert sample.text == (captions[0] if captions else None)
    assert sample.images[0].data == picture()
    assert {**sample.meta, **meta} == dict(sample.meta)


def test_a_text_beside_the_picture_comes_before_the_json_unless_that_is_named(tmp_path: Path) -> None:
    members = {"1.jpg": picture(), "1.txt": b"alt", "1.json": {"caption": "c", "long": "l"}}
    assert [sample.text for sample in converted(tmp_path, members)] == ["alt"]
    (tmp_path / "two").mkdir()
    assert [sample.text for sample in converted(tmp_path / "two", members, text="long")] == ["l"]


def test_a_field_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"in\.tar, 1: has no 'promt' in its JSON; it has \['prompt'\]"):
        converted(tmp_path, {"1.jpg": picture(), "1.json": {"prompt": "a cat"}}, text="promt")


def test_conversations(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    members = {
        "1.jpg": picture(),
        "1.json": {"id": "x", "conversations": turns},
        "2.jpg": picture(),
        "2.json": {"conversations": turns[:1]},
    }
    (sample,) = converted(tmp_path, members)
    assert [(turn.role, turn.text) for turn in sample.turns] == [
        ("user", "<image>\nWhat?"),
        ("assistant", "A cat."),
    ]
    assert sample.meta["id"] == "x"
    assert [reason for reason, _ in rejects(tmp_path)] == ["bad-conversation"]


def test_documents_whose_pictures_are_pages(tmp_path: Path) -> None:
    """MINT-1T: the pictures of a PDF are one TIFF, of which a reader of pictures shows the first page."""
    names = ["page_0_image_3", None, "page_1_image_7", "page_1_image_8"]
    texts = [None, "Between.", None, None]
    shades = (40, 120, 200)
    members = {
        "1.tiff": picture("TIFF", shades),
        "1.json": {"texts": texts, "images": names, "url": "u"},
        "2.tiff": picture("TIFF", shades[:2]),
        "2.json": {"texts": texts, "images": names},
    }
    (sample,) = converted(tmp_path, members)
    colours = [Image.open(io.BytesIO(image.data)).getpixel((0, 0)) for image in sample.images]
    assert colours == [(shade, 0, 0) for shade in shades]
    assert sample.meta["interleaved"] == {"texts": texts, "images": [0, None, 1, 2]}
    assert "texts" not in sample.meta
    assert rejects(tmp_path) == [("image-count", "in.tar, 2: the document names 3 images, 2 are there")]


def test_documents_are_cut_to_the_most_images(tmp_path: Path) -> None:
    members = {f"1.{i}.jpg": picture(shades=(i,)) for i in range(3)}
    members["1.json"] = {"texts": [None, "a", None, None], "images": ["x", None, "y", "z"]}
    (sample,) = converted(tmp_path, members, max_images=2)
    assert len(sample.images) == 2
    assert sample.meta["interleaved"] == {"texts": [None, "a", None], "images": [0, None, 1]}


def test_folders_of_plain_and_packed_tars(tmp_path: Path) -> None:
    for folder, name in (("a", "0.tar"), ("b/c", "0.tar.gz"), ("b", "1.tgz")):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        tar(tmp_path / "in" / folder / name, {"1.jpg": picture(), "1.json": {"text": name}})
    (tmp_path / "in" / "a" / "0.parquet").write_bytes(b"none of ours")
    counts = convert("webdataset", [tmp_path / "in"], tmp_path / "out", key="number")
    assert (counts.num_in, counts.num_out) == (3, 3)


@pytest.mark.parametrize("form", ["img2dataset", "webdataset"])
def test_a_packed_copy_beside_its_tar_is_passed_over(tmp_path: Path, form: str) -> None:
    for name in ("0.tar", "0.tar.gz", "1.tgz"):
        (tmp_path / "in").mkdir(exist_ok=True)
        tar(tmp_path / "in" / name, {"1.jpg": picture(), "1.txt": b"a cat"})
    assert convert(form, [tmp_path / "in"], tmp_path / "out").num_in == 2


def test_a_picture_that_is_not_there(tmp_path: Path) -> None:
    """The documents of pixparse are PDFs; DataCompDR holds no pictures."""
    with pytest.raises(DataError, match=r"no-image: in\.tar, 1: there is no picture of this key"):
        converted(tmp_path, {"1.pdf": b"%PDF", "1.json": {"pages": []}})


def test_pictures_in_an_archive_beside_the_table_are_pointed_at(tmp_path: Path) -> None:
    """LLaVA's pretraining data is a JSON and images.zip, Cambrian's a table and .tar.gz."""
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images.zip").write_bytes(b"PK")
    table = tmp_path / "data" / "chat.json"
    table.write_text(json.dumps([{"id": "1", "image": "00000/1.jpg", "conversations": turns}]))
    with pytest.raises(DataError, match=r"data/images\.zip has to be unpacked first"):
        convert("llava", [table], tmp_path / "out", images=[tmp_path / "data"])
