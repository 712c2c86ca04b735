"""A stranger's files: a folder of photos and a table to shards, captions and back; own questions to a task."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.errors import DataError, DataWarning, RecipeError
from vila2cli.formats.specialists.pictures import BuildSettings
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Sample
from vila2cli.stages.build import build
from vila2cli.stages.convert import convert
from vila2cli.stages.shards import check


def picture(form: str = "PNG", colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures as people have them: in folders, in any spelling, beside other files."""
    files = {
        "IMG_1.JPG": picture("JPEG"),
        "trip/IMG_1.jpg": picture("JPEG", "blue"),
        "trip/day.2/a b.webp": picture("WEBP"),
        "trip/day.2/ünï.png": picture(),
        "a.png": picture(),
        "a.jpg": picture("JPEG"),
        "phone.heic": b"not read",
        "broken.png": b"no picture",
        ".thumbs/IMG_1.jpg": b"hidden",
        "notes.docx": b"no picture",
    }
    for name, data in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


def samples(folder: Path) -> dict[str, Sample]:
    source = open_source([str(folder)])
    return {s.key: s for shard in source.shards for s in read_shard(shard, on_reject=print)}


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


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        delimiter = {".tsv": "\t", ".csv": ",", ".semicolon": ";"}[path.suffix]
        path = path.with_suffix(".csv") if path.suffix == ".semicolon" else path
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


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


QUESTIONS = [
    {"image": "a.png", "question": "What colour?", "answer": "red|crimson", "category": "colour"},
    {"image": "trip/IMG_1.jpg", "question": "And this?", "answer": "blue", "category": "colour"},
]


def test_own_questions_are_asked_shown_and_scored(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, task = write_table(tmp_path / "q.csv", QUESTIONS), tmp_path / "tasks" / "mine"
    words = ["--questions", str(table), "--images", str(photos), "--scorer", "short"]
    assert main(["eval", "new", str(task), *words]) == 0
    said = capsys.readouterr().out
    assert "mine: 2 samples, 2 images, scored by short" in said
    assert r"asked as: {question}\nAnswer the question using a single word or phrase." in said
    out = tmp_path / "eval"
    sets = ["--set", "eval.max_new_tokens=2", "--set", "eval.engine=hf", "--set", "eval.num_bootstrap=20"]
    assert main(["eval", "--model", str(tiny_checkpoint), "--tasks", str(task), "--out", str(out), *sets]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("task "))
    assert lines[start].split() == ["task", "samples", "metric", "value", "95%", "interval"]
    assert lines[start + 1].split()[:2] == ["mine", "2"]
    assert not [line for line in lines if "bootstrap" in line]
    assert "bootstrap" in json.loads((out / "metrics.json").read_text())["protocol"]["interval"]
    assert main(["shards", "show", str(out / "mine"), "-n", "1"]) == 0
    shown = capsys.readouterr().out
    assert "question: What colour?" in shown
    assert "reference: red | crimson" in shown
    assert "answer (" in shown


def test_a_task_without_a_right_answer_says_where_to_look(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"image": "a.png", "question": f"What is {n}?", "answer": "no word of a tiny model"} for n in range(10)
    ]
    table, task = write_table(tmp_path / "q.csv", rows), tmp_path / "tasks" / "mine"
    words = ["--questions", str(table), "--images", str(photos), "--prompt", "{question} Say it."]
    assert main(["eval", "new", str(task), *words]) == 0
    out = tmp_path / "eval"
    sets = ["--set", "eval.max_new_tokens=1", "--set", "eval.engine=hf", "--set", "eval.num_bootstrap=20"]
    assert main(["eval", "--model", str(tiny_checkpoint), "--tasks", str(task), "--out", str(out), *sets]) == 0
    assert (
        f"mine: none of 10 answers is right; look at them: vila2 shards show {out / 'mine'}; each question was "
        "asked as: {question} Say it."
    ) in capsys.readouterr().out


def test_options_of_a_choice_are_columns_or_one_text(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file": "a.png", "question": "Which?", "answer": "red", "A": "blue", "B": "red", "C": ""},
        {"file": "a.jpg", "question": "Which?", "answer": "A", "A": "blue", "B": "red", "C": "green"},
    ]
    words = ["--images", str(photos), "--scorer", "choice"]
    table = write_table(tmp_path / "c.csv", rows)
    assert main(["eval", "new", str(tmp_path / "one"), "--questions", str(table), *words]) == 0
    rows = [{"file": "a.png", "question": "Which?", "answer": "red", "choices": "blue | red"}]
    table = write_table(tmp_path / "d.csv", rows)
    assert main(["eval", "new", str(tmp_path / "two"), "--questions", str(table), *words]) == 0
    first, second = (next(iter(samples(tmp_path / name).values())) for name in ("one", "two"))
    assert first.meta["question"] == second.meta["question"] == "Which?\nA. blue\nB. red"
    assert first.meta["answers"] == second.meta["answers"] == ["B"]


def test_what_no_task_can_be_made_of_is_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "q.csv", QUESTIONS)
    gone = write_table(
        tmp_path / "gone.csv", [{**QUESTIONS[0], "image": name} for name in ("gone.png", "a.png", "off.png")]
    )
    base = ["eval", "new", str(tmp_path / "task"), "--images", str(photos)]
    for words, code, message in [
        (["--questions", str(table), "--scorer", "sort"], 2, "did you mean short?; known are yesno, pope"),
        (
            ["--questions", str(table), "--scorer", "choice"],
            4,
            "q.csv, line 2: has no options: give a column choices, with | between them, or columns A, B ...; "
            "1 row has the same fault further down",
        ),
        (["--questions", str(table), "--scorer", "vqa"], 4, "q.csv, line 3: soft accuracy needs"),
        (["--questions", str(table), "--answer", "anser"], 4, "did you mean answer?"),
        (
            ["--questions", str(gone)],
            4,
            f"gone.csv, line 2: there is no image gone.png in {photos}; 1 more has the same fault",
        ),
        (["--questions", str(tmp_path / "none.csv")], 4, "no such file"),
    ]:
        assert main([*base, *words]) == code
        assert message in capsys.readouterr().err
        assert not (tmp_path / "task").exists()


def test_a_dry_run_refuses_an_empty_task_folder(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["eval", "--model", str(tiny_checkpoint), "--dry-run", "--tasks"]
    assert main([*words, str(tmp_path / "empty")]) == 4
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "task.toml").write_text('answer_type = "short"\n')
    assert main([*words, str(tmp_path / "bare")]) == 4
    assert "holds no .tar files" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "later")]) == 0
    assert "missing:" in capsys.readouterr().out
