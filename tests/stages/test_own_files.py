"""A stranger's files: a folder of photos and a table to shards, captions and back."""

import json
import os
import shutil
from pathlib import Path

import pytest
from own_pictures import picture, samples, write_table

from vila2cli.cli.app import main
from vila2cli.errors import DataError, DataWarning, RecipeError
from vila2cli.formats.specialists.pictures import BuildSettings
from vila2cli.shards import open_source
from vila2cli.stages.build import build
from vila2cli.stages.convert import convert
from vila2cli.stages.shards import check


def rejects(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    return {row["reason"]: row["error"] for row in rows}


def test_a_folder_of_pictures_alone(photos: Path, tmp_path: Path) -> None:
    counts = convert("folder", [photos], tmp_path / "out")
    found = samples(tmp_path / "out")
    assert list(found) == ["IMG_1", "a", "a-2", "trip/IMG_1", "trip/day.2/a b", "trip/day.2/ünï"]
    names = ["IMG_1.JPG", "a.jpg", "a.png", "trip/IMG_1.jpg", "trip/day.2/a b.webp", "trip/day.2/ünï.png"]
    assert [sample.meta["file_name"] for sample in found.values()] == names
    assert not any(sample.text for sample in found.values())
    assert dict(counts.dropped) == {"undecodable": 1, "unread-picture": 1}
    assert "phone.heic" in rejects(tmp_path / "out")["unread-picture"]
    assert check(open_source([tmp_path / "out"])).counts == {}


def test_text_files_beside_pictures_are_their_captions(photos: Path, tmp_path: Path) -> None:
    (photos / "a.txt").write_text("of both\n")
    (photos / "IMG_1.JPG.txt").write_text("of one")
    (photos / "trip" / "IMG_1.txt").write_bytes(b"\xff\xfeo")
    convert("folder", [photos], tmp_path / "out")
    texts = {key: sample.text for key, sample in samples(tmp_path / "out").items() if sample.text}
    assert texts == {"IMG_1": "of one", "a": "of both", "a-2": "of both"}
    assert "trip/IMG_1.jpg" in rejects(tmp_path / "out")["not-utf8"]


@pytest.mark.parametrize("ending", [".csv", ".semicolon", ".tsv", ".jsonl", ".parquet"])
def test_any_table_of_captions(photos: Path, tmp_path: Path, ending: str) -> None:
    rows = [
        {"File Name": "photos/IMG_1.JPG", "Alt Text": 'at the "top", first', "who": "me"},
        {"File Name": r"trip\IMG_1.jpg", "Alt Text": "a trip", "who": ""},
        {"File Name": "ünï.png", "Alt Text": "übung", "who": "me"},
        {"File Name": "https://x.org/p/a%20b.webp?w=1", "Alt Text": "of a URL", "who": "me"},
        {"File Name": "photos/IMG_1.JPG", "Alt Text": "again", "who": "you"},
        {"File Name": "gone.jpg", "Alt Text": "nowhere", "who": "me"},
    ]
    table = write_table(tmp_path / f"alt{ending}", rows)
    with pytest.warns(DataWarning) as said:
        convert("folder", [photos], tmp_path / "out", captions=[table])
    found = samples(tmp_path / "out")
    assert {key: sample.text for key, sample in found.items() if sample.text} == {
        "IMG_1": 'at the "top", first',
        "trip/IMG_1": "a trip",
        "trip/day.2/a b": "of a URL",
        "trip/day.2/ünï": "übung",
    }
    assert found["IMG_1"].meta["captions"] == ['at the "top", first', "again"]
    assert found["trip/day.2/a b"].meta["origin"] == {"file": table.name, "row": 4}
    assert found["IMG_1"].meta["who"] == "me"
    messages = [str(one.message) for one in said]
    assert any(
        "1 of 6 rows are of no picture in the folder, row 6 names 'gone.jpg'" in text for text in messages
    )
    unnamed = ["a.jpg", "a.png", "broken.png", "phone.heic"]
    told = f"4 of 8 pictures have no row in the table: {', '.join(unnamed)}; "
    assert any(told in text for text in messages)
    lines = [json.loads(line) for line in (tmp_path / "out/unmatched.jsonl").read_text().splitlines()]
    assert [line["picture"] for line in lines[:-1]] == unnamed
    assert lines[-1] == {"error": "names 'gone.jpg'", "row": 6, "table": table.name}


def test_a_table_that_is_of_other_pictures_writes_nothing(photos: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "alt.csv", [{"image": "x.jpg", "text": "one", "name": "a.png"}])
    with pytest.raises(
        DataError, match=r"none of its 1 rows .* row 1 names 'x.jpg', and a picture is 'IMG_1.JPG'"
    ):
        convert("folder", [photos], tmp_path / "out", captions=[table])
    with pytest.raises(DataError, match=r"no column 'nme'; did you mean name\?"):
        convert("folder", [photos], tmp_path / "out", captions=[table], picture="nme")
    with pytest.raises(DataError, match=r"no column 'alt'; it has .*--text"):
        convert("folder", [photos], tmp_path / "out", captions=[table], text="alt")
    with pytest.raises(RecipeError, match="--captions is for folder; coco has no use"):
        convert("coco", [table], tmp_path / "out", captions=[table])
    assert not (tmp_path / "out").exists()
    with pytest.warns(DataWarning):
        convert("folder", [photos], tmp_path / "out", captions=[table], picture="name")
    assert samples(tmp_path / "out")["a-2"].text == "one"


def test_photos_that_come_later_lie_behind(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("folder", [photos], out, per_shard=2)
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    (photos / "a.bmp").write_bytes(picture("BMP"))
    convert("folder", [photos], out, per_shard=2)
    assert {name: (out / name).read_bytes() for name in before} == before
    assert list(samples(out))[-1] == "a-3"
    os.utime(photos / "a.jpg", (1, 1))
    convert("folder", [photos], out, per_shard=2)
    (photos / "a.jpg").write_bytes(picture("JPEG", "green"))
    with pytest.raises(DataError, match=r"a\.jpg|sizes"):
        convert("folder", [photos], out, per_shard=2)


@pytest.mark.parametrize(
    ("key", "expected"), [("number", "000000000"), ("name", "a"), ("code", "x-1"), ("image", None)]
)
def test_a_table_of_paths(photos: Path, tmp_path: Path, key: str, expected: str | None) -> None:
    rows = [
        {"code": "x.1", "image": "a.png", "caption": "one"},
        {"code": "x.2", "image": "ünï.png", "caption": ""},
        {"code": "x.1", "image": "none.png", "caption": "two"},
    ]
    table = write_table(tmp_path / "pairs.csv", rows)
    if expected is None:
        with pytest.raises(DataError, match=r"no-key: a\.png has no 'image'"):
            convert("csv", [table], tmp_path / "out", images=[photos], key=key)
        return
    counts = convert("csv", [table], tmp_path / "out", images=[photos], key=key)
    first, second = samples(tmp_path / "out").items()
    assert first[0].endswith(expected)
    assert first[1].meta == {"code": "x.1", "file_name": "a.png", "origin": {"file": "pairs.csv", "row": 1}}
    assert (second[1].text, second[1].meta["file_name"]) == (None, "trip/day.2/ünï.png")
    assert dict(counts.dropped) == {"duplicate-key" if key == "code" else "missing-image": 1}


def test_a_row_of_another_length_is_one_reject(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("image,caption\na.png,one\na.jpg,two,three\n\na.jpg,four\n")
    counts = convert("csv", [table], tmp_path / "out", images=[photos])
    assert (counts.num_out, dict(counts.dropped)) == (2, {"bad-row": 1})
    assert "line 3 has 3 fields, and the first line names 2" in rejects(tmp_path / "out")["bad-row"]
    for text, message in [
        ("", "is empty"),
        ("a,a\n1,2\n", "two columns called 'a'"),
        ("x,y\n1,2\n", "--picture"),
    ]:
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            convert("csv", [table], tmp_path / "other", images=[photos])
    table.write_bytes("image\nä.png\n".encode("latin1"))
    with pytest.raises(DataError, match="iconv -f latin1"):
        convert("csv", [table], tmp_path / "other", images=[photos])


def test_numbers_of_two_data_sets_never_meet(real_data: Path, tmp_path: Path) -> None:
    annotations, images = real_data / "coco_ccby" / "annotations", real_data / "coco_ccby" / "val2017"
    convert("coco", [annotations / "captions_val2017.json"], tmp_path / "one", images=[images])
    convert(
        "coco",
        [annotations / "captions_train2017.json"],
        tmp_path / "two",
        images=[real_data / "coco_ccby" / "train2017"],
    )
    for specialist in ("spatial", "grounding"):
        build(
            specialist,
            format="coco",
            annotations=[annotations / "instances_val2017.json"],
            images=images,
            out=tmp_path / specialist,
            settings=BuildSettings(),
        )
    keys = [key for name in ("one", "two", "spatial", "grounding") for key in samples(tmp_path / name)]
    assert len(keys) == len(set(keys)) > 40
    together = tmp_path / "together"
    together.mkdir()
    for name in ("one", "two", "spatial", "grounding"):
        shutil.copy(tmp_path / name / "000000.tar", together / f"{name}.tar")
    assert check(open_source([together])).counts == {}
    convert("coco", [annotations / "captions_val2017.json"], tmp_path / "again", images=[images])
    assert (tmp_path / "again" / "000000.tar").read_bytes() == (tmp_path / "one" / "000000.tar").read_bytes()


def test_a_folder_of_an_earlier_release_goes_on_as_it_was(photos: Path, tmp_path: Path) -> None:
    """Of one that was claimed before keys were told apart."""
    rows = [{"image": name, "text": name} for name in ("a.png", "a.jpg", "IMG_1.JPG")]
    table, out = write_table(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    convert("coyo", [table], out, images=[photos], per_shard=2)
    manifest = json.loads((out / "manifest.json").read_text())
    for name in ("key", "numbers"):
        del manifest["inputs"][name]
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "000001.tar").unlink()
    convert("coyo", [table], out, images=[photos], per_shard=2)
    assert list(samples(out))[2] == "000000002"
    assert "origin" not in samples(out)["000000002"].meta


def test_what_came_to_nothing_may_be_tried_again_in_another_way(photos: Path, tmp_path: Path) -> None:
    table, out = write_table(tmp_path / "rows.csv", [{"image": "a.png", "text": "one"}]), tmp_path / "out"
    with pytest.raises(DataError, match="none of 1 items can be used"):
        convert("csv", [table], out, images=[tmp_path], key="code")
    assert convert("csv", [table], out, images=[photos], per_shard=7).num_out == 1
    with pytest.raises(RecipeError, match="per_shard was 7"):
        convert("csv", [table], out, images=[photos], per_shard=8)


def test_photos_to_recaptions_in_a_parquet(
    real_data: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three commands that the README shows, on real photos."""
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    coco = real_data / "coco_ccby"
    shutil.copytree(coco / "val2017", "photos")
    table = json.loads((coco / "annotations" / "captions_val2017.json").read_bytes())
    names = {image["id"]: image["file_name"] for image in table["images"]}
    rows = {names[one["image_id"]]: one["caption"] for one in table["annotations"]}
    write_table(Path("alt.csv"), [{"file": name, "alt": text} for name, text in rows.items()])
    sets = ["--set", "recaption.max_new_tokens=2", "--set", "recaption.engine=hf"]
    sets += ["--set", "recaption.max_reject_rate=1.0"]  # an untrained model
    assert main(["shards", "convert", "folder", "photos", "--captions", "alt.csv", "--out", "data"]) == 0
    shards = sorted(map(str, Path("data").glob("*.tar")))
    assert (
        main(["recaption", "--model", str(tiny_checkpoint), "--shards", *shards, "--out", "recap", *sets]) == 0
    )
    layers = sorted(map(str, Path("recap").glob("*.tar*")))
    assert main(["shards", "export", "parquet", *layers, "--out", "captions.parquet"]) == 0
    written = pq.read_table("captions.parquet").to_pylist()
    assert {row["file_name"]: row["original"] for row in written} == {k: v.strip() for k, v in rows.items()}
    assert all(row["recaption"] for row in written)
    assert main(["shards", "export", "parquet", *layers, "--out", "captions.parquet"]) == 4


def test_shards_are_asked_for_where_pictures_lie(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "alt.csv", [{"image": "a.png"}])
    for spec, advice in [
        ("photos", "vila2 shards convert folder photos --out"),
        ("photos/*", "vila2 shards convert folder photos --out"),
        ("photos/a.png", "vila2 shards convert folder photos --out"),
        ("alt.csv", "vila2 shards convert csv alt.csv --out"),
        ("none/*.tar", f"in {tmp_path}"),
        ("none", f"vila2: there is no none in {tmp_path}\n"),
    ]:
        assert main(["shards", "stats", spec]) == 4
        assert advice in capsys.readouterr().err
    assert main(["pretrain", "--shards", "none/*.tar", "--out", "x"]) == 4
    assert f"no shards match 'none/*.tar' in {tmp_path}" in capsys.readouterr().err
    assert main(["shards", "convert", "img2dataset", "photos/trip", "--out", "none"]) == 4
    assert not Path("none").exists()
    assert not Path("x").exists()
