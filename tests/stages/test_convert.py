"""`vila2 shards convert` on small hand-written files of every format."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.errors import DataError, RecipeError
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Sample
from vila2cli.stages.convert import convert
from vila2cli.stages.shards import check


def picture(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/c.png"):
        (folder / name).write_bytes(picture())
    (folder / "broken.png").write_bytes(b"no image")
    (tmp_path / "secret.png").write_bytes(picture())
    return folder


def write(path: Path, rows: Any) -> Path:
    if ".jsonl" in path.name:
        text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text(text + "\n")
    else:
        path.write_text(json.dumps(rows))
    return path


def samples(folder: Path) -> dict[str, Sample]:
    """The samples by their numbers, without what tells the data set from others."""
    source = open_source([str(folder)])
    assert check(source).problems == ()
    found = [s for shard in source.shards for s in read_shard(shard, on_reject=lambda reject: None)]
    return {sample.key.rpartition("-")[2]: sample for sample in found}


def rejects(folder: Path) -> dict[str, tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    return {row["key"].rpartition("-")[2]: (row["reason"], row["error"]) for row in rows}


def said(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def test_llava_conversations(images: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": "x1",
            "image": "deep/c.png",
            "conversations": said("<image>\nWhat?", "A square.", "Colour?", "Red."),
        },
        {"id": "x2", "conversations": said("2 + 2?", "4")},
        {"id": "x3", "image": ["a.png", "b.png"], "conversations": said("<image> and <image>?", "Two.")},
        {"id": "x4", "image": "gone.png", "conversations": said("<image>", "x")},
        {"id": "x5", "image": "a.png", "conversations": said("<image><image>", "x")},
        {"id": "x6", "conversations": said("no answer")},
        {"id": "x7", "conversations": [{"from": "robot", "value": "x"}]},
        {"id": "x8", "video": "v.mp4", "conversations": said("<image>", "x")},
        {"id": "x9", "image": "broken.png", "conversations": said("<image>", "x")},
        {"id": "x10", "image": "../secret.png", "conversations": said("<image>", "x")},
        "no object",
    ]
    counts = convert("llava", [write(tmp_path / "llava.json", rows)], tmp_path / "out", images=[images])
    found = samples(tmp_path / "out")
    assert [found[key].meta["id"] for key in found] == ["x1", "x2", "x3"]
    assert [turn.role for turn in found["000000000"].turns] == ["user", "assistant"] * 2
    assert found["000000000"].turns[0].text == "<image>\nWhat?"
    assert [len(sample.images) for sample in found.values()] == [1, 0, 2]
    assert (counts.num_in, counts.num_out, counts.num_rejected) == (11, 3, 8)
    why = rejects(tmp_path / "out")
    assert {key: reason for key, (reason, _) in why.items()} == {
        "000000003": "missing-image",
        "000000004": "image-count",
        "000000005": "bad-conversation",
        "000000006": "bad-conversation",
        "000000007": "video",
        "000000008": "undecodable",
        "000000009": "missing-image",
        "000000010": "bad-row",
    }
    assert "x4: gone.png" in why["000000003"][1]
    assert "llava.json, item 5" in why["000000004"][1]


def test_coco_captions(images: Path, tmp_path: Path) -> None:
    table = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 8},
            {"id": 2, "file_name": "b.png"},
            {"id": 3, "file_name": "z.png"},
        ],
        "annotations": [
            {"image_id": 1, "caption": " A red square. "},
            {"image_id": 1, "caption": "A square."},
            {"image_id": 3, "caption": "Gone."},
            {"image_id": 9, "caption": "Of nothing."},
        ],
    }
    counts = convert("coco", [write(tmp_path / "captions.json", table)], tmp_path / "out", images=[images])
    sample, bare = samples(tmp_path / "out").values()
    assert (sample.text, sample.meta["captions"]) == ("A red square.", ["A red square.", "A square."])
    assert (bare.text, bare.meta["file_name"], "captions" in bare.meta) == (None, "b.png", False)
    assert dict(counts.dropped) == {"missing-image": 1, "no-image-entry": 1}
    assert counts.num_bare == 1


def documents() -> list[Any]:
    info = [
        {"image_name": "b.png", "matched_text_index": 1},
        {"image_name": "a.png", "matched_text_index": 0},
        {"image_name": "gone.png", "matched_text_index": 1},
    ]
    return [
        {"url": "u1", "text_list": ["One.", "Two.", " "], "image_info": info},
        {"url": "u2", "text_list": ["Only.", "One."], "image_info": info[2:]},
        {"url": "u3", "text_list": ["None."], "image_info": []},
        {"url": "u4", "text_list": ["One."], "image_info": info},
        "{",
    ]


@pytest.mark.parametrize("packed", ["plain", "gz", "zip"])
def test_mmc4_documents(images: Path, tmp_path: Path, packed: str) -> None:
    path = write(tmp_path / "docs.jsonl", documents())
    if packed == "gz":
        path = tmp_path / "docs.jsonl.gz"
        path.write_bytes(gzip.compress((tmp_path / "docs.jsonl").read_bytes()))
    if packed == "zip":
        path = tmp_path / "docs.jsonl.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "docs.jsonl", "docs.jsonl")
    convert("mmc4", [path], tmp_path / "out", images=[images])
    (sample,) = samples(tmp_path / "out").values()
    assert sample.meta["interleaved"] == {
        "texts": [None, "One.", None, "Two."],
        "images": [0, None, 1, None],
    }
    assert sample.meta["missing_images"] == ["gone.png"]
    assert len(sample.images) == 2
    reasons = [reason for reason, _ in rejects(tmp_path / "out").values()]
    assert reasons == ["missing-image", "bad-document", "bad-document", "bad-row"]


def test_a_document_keeps_its_first_images(images: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "docs.jsonl", documents()[:1])
    convert("mmc4", [path], tmp_path / "out", images=[images], max_images=1)
    (sample,) = samples(tmp_path / "out").values()
    assert sample.meta["interleaved"]["texts"] == [None, "One.", "Two."]


def as_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_obelics_finds_downloads_by_url_and_reads_parquet(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    meta = json.dumps({"url": "http://x.org/pic?size=9"}).encode()
    tar = as_tar(tmp_path / "00000.tar", {"00000/1.json": meta, "00000/1.png": picture()})
    rows = {
        "images": [[None, "http://x.org/pic?size=9", None], [None, "http://x.org/gone.png", None]],
        "texts": [["Before.", None, "After."], ["A.", None, "B."]],
    }
    pq.write_table(pa.table(rows), tmp_path / "docs.parquet")
    counts = convert("obelics", [tmp_path / "docs.parquet"], tmp_path / "out", images=[tar])
    (sample,) = samples(tmp_path / "out").values()
    assert sample.meta["interleaved"] == {"texts": ["Before.", None, "After."], "images": [None, 0, None]}
    assert sample.images[0].data == picture()
    assert dict(counts.dropped) == {"missing-image": 1}
    assert "http://x.org/gone.png" in rejects(tmp_path / "out")["000000001"][1]


def test_coyo_pairs(images: Path, tmp_path: Path) -> None:
    rows = [
        {"id": 5, "url": "https://x.org/p/a.png?w=1", "text": "A square", "clip_similarity_vitb32": 0.3},
        {"id": 6, "url": "https://x.org/none.png", "text": "x"},
        {"id": 7, "url": "https://x.org/a.png", "text": " "},
    ]
    counts = convert("coyo", [write(tmp_path / "rows.jsonl", rows)], tmp_path / "out", images=[images])
    sample, bare = samples(tmp_path / "out").values()
    assert (sample.text, sample.meta["clip_similarity_vitb32"]) == ("A square", 0.3)
    assert (bare.text, bare.meta["id"], len(bare.images)) == (None, 7, 1)
    assert dict(counts.dropped) == {"missing-image": 1}
    assert counts.num_bare == 1


def test_img2dataset_folders_and_tars(tmp_path: Path) -> None:
    folder = tmp_path / "downloaded" / "00000"
    folder.mkdir(parents=True)
    for name, data in {
        "000000000.png": picture(),
        "000000000.txt": b"one",
        "000000000.json": b'{"url": "u0"}',
        "000000001.json": b'{"url": "u1", "error_message": "HTTP 404"}',
    }.items():
        (folder / name).write_bytes(data)
    (tmp_path / "downloaded" / "00000_stats.json").write_text("{}")
    as_tar(tmp_path / "downloaded" / "00001.tar", {"9.png": picture("blue"), "9.txt": b"two", "9.json": b"{}"})
    counts = convert("img2dataset", [tmp_path / "downloaded"], tmp_path / "out")
    assert sorted(sample.text or "" for sample in samples(tmp_path / "out").values()) == ["one", "two"]
    assert dict(counts.dropped) == {"not-downloaded": 1}
    assert [error for _, error in rejects(tmp_path / "out").values()] == ["u1: HTTP 404"]


def test_pictures_without_captions_are_kept_in_every_format(tmp_path: Path, images: Path) -> None:
    """What recaptioning is there for; a column of another name than captions have is metadata."""
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    rows = [{"image": {"bytes": picture(), "path": "a.png"}, "note": "A square."}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        tar.add(images / "a.png", "a.png")
    table = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}
    inputs = {
        "parquet": tmp_path / "rows.parquet",
        "img2dataset": tmp_path / "00000.tar",
        "coco": write(tmp_path / "coco.json", table),
        "coyo": write(tmp_path / "coyo.jsonl", [{"url": "https://x.org/a.png"}]),
        "csv": write(tmp_path / "list.jsonl", [{"image": "a.png"}]),
    }
    for form, path in inputs.items():
        named = [images] if form in ("coco", "coyo", "csv") else []
        counts = convert(form, [path], tmp_path / f"out-{form}", images=named)
        (sample,) = samples(tmp_path / f"out-{form}").values()
        assert (len(sample.images), sample.text, counts.num_bare) == (1, None, 1), form
        said = "\n".join(counts.lines())
        assert "1 picture without a caption" in said
        assert ("name that with --text" in said) == (form in ("parquet", "csv")), form
    table = write(tmp_path / "notes.jsonl", [{"image": "a.png", "note": ""}])
    again = "\n".join(convert("csv", [table], tmp_path / "out-note", images=[images], text="note").lines())
    assert "1 picture without a caption" in again
    assert "--text" not in again
    (sample,) = samples(tmp_path / "out-parquet").values()
    assert sample.meta["note"] == "A square."


def test_img2dataset_tars_without_a_picture_that_is_read(tmp_path: Path) -> None:
    members = {
        "1.png": picture(),
        "1.txt": b"one",
        "2.image.jpg": picture(),
        "2.txt": b"two",
        "3.txt": b"three",
    }
    as_tar(tmp_path / "00000.tar", members)
    counts = convert("img2dataset", [tmp_path / "00000.tar"], tmp_path / "out")
    assert [sample.text for sample in samples(tmp_path / "out").values()] == ["one"]
    assert dict(counts.dropped) == {"no-image": 2}


def test_shards_are_cut_resumed_and_always_the_same(images: Path, tmp_path: Path) -> None:
    rows = [{"id": i, "image": "a.png" if i % 3 else "gone.png", "text": f"number {i}"} for i in range(10)]
    path = write(tmp_path / "rows.jsonl", rows)
    counts = convert("coyo", [path], tmp_path / "out", images=[images], per_shard=3)
    tars = {tar.name: tar.read_bytes() for tar in (tmp_path / "out").glob("*.tar")}
    assert sorted(tars) == ["000000.tar", "000001.tar"]
    assert [sample.text for sample in samples(tmp_path / "out").values()] == [
        f"number {i}" for i in range(10) if i % 3
    ]
    assert sorted(rejects(tmp_path / "out")) == [f"{i:09d}" for i in (0, 3, 6, 9)]
    for name in ("000001.tar", "000001.stats.json"):
        (tmp_path / "out" / name).unlink()
    assert convert("coyo", [path], tmp_path / "out", images=[images], per_shard=3).num_in == counts.num_in == 10
    assert {tar.name: tar.read_bytes() for tar in (tmp_path / "out").glob("*.tar")} == tars
    with pytest.raises(RecipeError, match="per_shard was 3, now 4"):
        convert("coyo", [path], tmp_path / "out", images=[images], per_shard=4)


def test_what_cannot_be_read_at_all_is_one_line(images: Path, tmp_path: Path) -> None:
    for form, path, message in [
        (
            "coyo",
            write(tmp_path / "all.jsonl", [{"text": "x", "image": "gone.png"}]),
            "none of 1 items can be used, see .*000000",
        ),
        ("llava", write(tmp_path / "table.json", {"a": 1}), "should hold a list"),
        ("coco", write(tmp_path / "list.json", []), r"list\.json: is \[\], not an object"),
        ("mmc4", tmp_path / "missing.jsonl", "does not exist"),
    ]:
        with pytest.raises(DataError, match=message):
            convert(form, [path], tmp_path / f"out-{path.stem}", images=[images])
    with pytest.raises(RecipeError, match="unknown format 'laion'; known are folder, csv, llava"):
        convert("laion", [], tmp_path / "out")


def test_the_command_prints_counts(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": "x", "image": name} for name in ("a.png", "gone.png")])
    words = ["shards", "convert", "coyo", str(path), "--images", str(images), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "1 of 2 items; rejected: 1 missing-image" in text
    assert "rejects.jsonl" in text


def test_an_image_of_another_folder_with_the_same_name_is_not_taken(tmp_path: Path) -> None:
    for name, colour in (("val", "red"), ("test", "blue")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            data = picture(colour)
            member = tarfile.TarInfo(f"{name}/1.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    rows = [
        {"id": name, "image": f"{name}/1.png", "conversations": said("?", "!")} for name in ("val", "train")
    ]
    tars = [tmp_path / "val.tar", tmp_path / "test.tar"]
    counts = convert("llava", [write(tmp_path / "x.json", rows)], tmp_path / "out", images=tars)
    assert dict(counts.dropped) == {"ambiguous-image": 1}
    assert list(samples(tmp_path / "out")) == ["000000000"]


def test_changed_annotations_are_not_gone_on_with(tmp_path: Path, images: Path) -> None:
    rows = [{"id": "a", "image": "a.png", "conversations": said("?", "!")}]
    path = write(tmp_path / "x.json", rows)
    convert("llava", [path], tmp_path / "out", images=[images])
    write(path, [*rows, {"id": "b", "image": "b.png", "conversations": said("?", "!")}])
    with pytest.raises(RecipeError, match=r"sizes"):
        convert("llava", [path], tmp_path / "out", images=[images])


def test_one_odd_row_is_one_reject(images: Path, tmp_path: Path) -> None:
    good = '{"image": "a.png", "text": "good"}'
    odd = [
        r'{"image": "a.png", "text": "\ud800"}',
        r'{"image": "a\u0000.png", "text": "x"}',
        '{"image": "http://[x", "text": "x"}',
        '{"image": "' + "a/" * 3000 + 'none.png", "text": "x"}',
        '{"a":' * 300 + "1" + "}" * 300,
        "[" * 100_000,
        '{"id": ' + "9" * 5000 + "}",
        "null",
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([good, *odd, good]) + "\n")
    counts = convert("coyo", [path], tmp_path / "out", images=[images])
    assert (counts.num_out, dict(counts.dropped)) == (2, {"bad-row": 4, "missing-image": 3, "not-utf8": 1})
    listed = tmp_path / "rows.json"
    listed.write_text(f"[{good}, {odd[0]}, {odd[4]}, {good}]")
    counts = convert("coyo", [listed], tmp_path / "out2", images=[images])
    assert (counts.num_out, dict(counts.dropped)) == (2, {"bad-row": 1, "not-utf8": 1})


def test_odd_entries_of_a_coco_file_are_one_reject_each(images: Path, tmp_path: Path) -> None:
    entries = [{"id": [1], "file_name": "a.png"}, 3, {"id": 2, "file_name": "a.png"}]
    captions = [{"image_id": 2, "caption": "good"}, {"image_id": {}, "caption": "x"}, None]
    path = write(tmp_path / "coco.json", {"images": entries, "annotations": captions})
    counts = convert("coco", [path], tmp_path / "out", images=[images])
    assert (counts.num_out, dict(counts.dropped)) == (1, {"bad-row": 4})
    with pytest.raises(DataError, match=r"odd\.json: images is 5, not a list"):
        convert("coco", [write(tmp_path / "odd.json", {"images": 5})], tmp_path / "out2", images=[images])


@pytest.mark.parametrize(("form", "rows"), [("llava", []), ("coco", {"images": [], "annotations": []})])
def test_a_file_without_items_is_an_error(tmp_path: Path, images: Path, form: str, rows: Any) -> None:
    with pytest.raises(DataError, match=rf"no items of the format {form} in .*empty\.json"):
        convert(form, [write(tmp_path / "empty.json", rows)], tmp_path / "out", images=[images])


def test_a_folder_of_bare_pictures_is_told_what_is_missing(tmp_path: Path, images: Path) -> None:
    with pytest.raises(DataError, match=r"a picture with KEY\.txt or KEY\.json beside it"):
        convert("img2dataset", [images], tmp_path / "out")


def test_two_converted_data_sets_have_no_problem(tmp_path: Path, images: Path) -> None:
    for name in ("one", "two"):
        rows = write(tmp_path / f"{name}.json", [{"image": "a.png", "text": name}])
        convert("coyo", [rows], tmp_path / name, images=[images])
    assert check(open_source([str(tmp_path / "one"), str(tmp_path / "two")])).counts == {}
