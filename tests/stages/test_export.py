"""`vila2 shards export`, and `convert parquet` and `convert layer`, which take what others have made of it."""

import io
import json
import os
import subprocess
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hub_server import TOKEN, serve_hub
from vila2cli.cli.app import main
from vila2cli.errors import DataError, RecipeError
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation, Sample, Turn, caption_of
from vila2cli.stages.convert import convert
from vila2cli.stages.export import export
from vila2cli.stages.import_layer import import_layer
from vila2cli.stages.shards import check

NUM = 4
CAPTION = "Ünïcode “quotes”, a\nbreak and an <image>."


def picture(shade: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards in folders of a data set, recaptions of all samples but one, and answers to some."""
    folder = tmp_path_factory.mktemp("layers")
    for shard in range(2):
        with TarWriter(folder / "base" / f"part{shard}" / f"{shard:06}.tar") as tar:
            for number in range(NUM):
                key = f"{shard}-{number}"
                meta = {
                    "url": f"https://example.com/{key}.jpg",
                    "score": number / 10,
                    "tags": ["a", {"b": None}],
                }
                if number == 3:
                    del meta["url"]
                kind = "png" if number == 2 else "jpg"
                members = {kind: picture(60 * number, "PNG" if kind == "png" else "JPEG")}
                tar.write_sample(
                    key, members | {"txt": f"alt {key}".encode(), "json": json.dumps(meta).encode()}
                )
    source = open_source([f"{folder}/base/*/*.tar"])
    writer = open_layer(folder / "recaption", layer="recaption", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                if sample.key == "1-1":
                    out.skip(sample, "not-drawn")
                    continue
                wrote = {
                    "model": "m",
                    "model_sha256": "ab",
                    "prompt_id": "long-v1",
                    "round": 2,
                    "logprob_mean": -0.5,
                }
                text = f"{sample.key}: {CAPTION}"
                out.annotate(sample, Annotation(layer="recaption", kind="caption", text=text, **wrote))  # type: ignore[arg-type]
    over = open_source([folder / "recaption"])
    answers = open_layer(folder / "ocr", layer="ocr", source=over)
    for shard in over.shards:
        with answers.shard(shard) as out:
            for sample in out.samples():
                turns = (Turn("user", "What is written?"), Turn("assistant", "STOP"))
                if sample.key == "0-0":
                    out.annotate(sample, Annotation(layer="ocr", kind="turns", turns=turns))
                else:
                    out.skip(sample, "nothing")
    return folder


def read(*specs: str | Path) -> dict[str, Sample]:
    shards = open_source(list(specs)).shards
    return {one.key: one for shard in shards for one in read_shard(shard, on_reject=lambda reject: None)}


def captions(*specs: str | Path) -> dict[str, str | None]:
    return {key: caption_of(sample, "recaption") for key, sample in read(*specs).items()}


def table_of(out: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    return [row for file in sorted(out.glob("data/*.parquet")) for row in parquet.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def parquet(layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow")
    out = tmp_path_factory.mktemp("parquet")
    assert main(["shards", "export", "parquet", str(layers / "ocr"), "--pictures", "--out", str(out)]) == 0
    return out


def test_parquet_has_the_captions_pictures_and_provenance(layers: Path, parquet: Path) -> None:
    rows = {row["key"]: row for row in table_of(parquet)}
    for key, sample in read(layers / "ocr").items():
        row = rows[key]
        assert row["image"]["bytes"] == sample.images[0].data
        assert (row["original"], row["recaption"]) == (sample.text, caption_of(sample, "recaption"))
        assert json.loads(row["meta"]) == sample.meta
        assert row["url"] == sample.meta.get("url")
        assert row["recaption_model"] == (None if key == "1-1" else "m")
    assert rows["0-0"]["ocr"][1] == {"role": "assistant", "content": "STOP"}
    assert "license: unknown" in (parquet / "README.md").read_text()


def test_datasets_reads_the_same_rows_types_and_pictures(parquet: Path, tmp_path: Path) -> None:
    if find_spec("datasets") is None:
        pytest.skip("needs datasets")
    script = """
import json, sys
from datasets import Image, load_dataset
rows = load_dataset(sys.argv[1], split="train", cache_dir=sys.argv[2])
assert isinstance(rows.features["image"], Image)
print(json.dumps({name: str(kind) for name, kind in rows.features.items()}))
undecoded = rows.cast_column("image", Image(decode=False))
for row, plain in zip(rows, undecoded):
    assert row["image"].size == (8, 6)
    print(json.dumps({**plain, "image": plain["image"]["bytes"].hex()}))
undecoded.to_parquet(sys.argv[3])
"""
    words = [
        sys.executable,
        "-c",
        script,
        str(parquet),
        str(tmp_path / "cache"),
        str(tmp_path / "theirs.parquet"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds, *rows = map(json.loads, done.stdout.splitlines())
    assert kinds["recaption_round"] == "Value('int64')"
    expected = [{**row, "image": row["image"]["bytes"].hex()} for row in table_of(parquet)]
    assert rows == expected
    convert("parquet", [tmp_path / "theirs.parquet"], tmp_path / "back", text="recaption")
    texts = [sample.text for sample in read(tmp_path / "back").values()]
    assert texts == [row["recaption"] or None for row in rows]


def test_parquet_becomes_shards_again(layers: Path, parquet: Path, tmp_path: Path) -> None:
    convert("parquet", [parquet / "data"], tmp_path / "back")
    assert check(open_source([tmp_path / "back"])).problems == ()
    for sample, was in zip(read(tmp_path / "back").values(), read(layers / "ocr").values(), strict=True):
        assert (sample.images, sample.text) == (was.images, was.text)
        assert sample.meta.get("recaption") == caption_of(was, "recaption")
        assert was.meta.items() <= sample.meta.items()
        assert sample.meta["key"] == was.key


def test_plain_bytes_lists_and_odd_columns_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from datetime import date

    struct = {"bytes": picture(3), "path": "x/y.JPEG"}
    rows = [
        {"img": picture(1, "PNG"), "caption": "one", "when": date(2026, 1, 2), "odd": float("nan")},
        {"pair": [struct, struct], "caption": "two"},
        {"img": b"no picture", "caption": "three"},
        {"caption": "four"},
        {"img": picture(2), "messages": [{"role": "nobody", "content": ""}], "caption": "five"},
    ]
    pa.parquet.write_table(
        pa.Table.from_pylist(
            rows,
            pa.schema(
                {
                    "img": pa.binary(),
                    "pair": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
                    "caption": pa.string(),
                    "when": pa.date32(),
                    "odd": pa.float64(),
                    "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
                }
            ),
        ),
        tmp_path / "rows.parquet",
    )
    counts = convert("parquet", [tmp_path / "rows.parquet"], tmp_path / "out")
    assert counts.dropped == {"bad-conversation": 1, "no-image": 1, "undecodable": 1}
    first, second = read(tmp_path / "out").values()
    assert (first.images[0].extension, first.text, first.meta["when"]) == ("png", "one", "2026-01-02")
    assert [image.extension for image in second.images] == ["jpeg", "jpeg"]
    with pytest.raises(DataError, match="no column 'title'"):
        convert("parquet", [tmp_path / "rows.parquet"], tmp_path / "other", text="title")
    with pytest.raises(RecipeError, match="--text"):
        convert("coco", [tmp_path / "rows.parquet"], tmp_path / "third", text="title")


def read_as_vila(folder: Path, data: Path, tar: Path, url: str) -> str | None:
    """As VILA's loader finds a caption: a JSON per tar, called as it is below the data, by URL."""
    captions = json.loads((folder / f"{tar.relative_to(data)}.json").read_text())
    text: str | None = captions.get(url, {}).get("output")
    return text


def test_vila_finds_captions_by_the_name_of_the_tar_and_the_url(layers: Path, tmp_path: Path) -> None:
    counts = export("vila", open_source([layers / "recaption"]), tmp_path)
    assert (counts.num_out, dict(counts.dropped)) == (7, {"no-caption": 1})
    for tar in sorted((layers / "base").glob("*/*.tar")):
        for sample in read(tar).values():
            url = sample.meta.get("url", sample.key)
            expected = None if sample.key == "1-1" else f"{sample.key}: {CAPTION}"
            assert read_as_vila(tmp_path, layers / "base", tar, url) == expected


def test_llava_gets_one_list_of_conversations_and_files(layers: Path, tmp_path: Path) -> None:
    source = open_source([layers / "ocr"])
    export("llava", source, tmp_path, captions=["original"], with_pictures=True, question="What is it?")
    items = json.loads((tmp_path / "llava.json").read_text())
    assert len(items) == 2 * NUM
    assert items[0]["conversations"] == [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "alt 0-0"},
        {"from": "human", "value": "What is written?"},
        {"from": "gpt", "value": "STOP"},
    ]
    assert (tmp_path / items[2]["image"]).read_bytes() == picture(120, "PNG")
    # And back again, as a trainer of LLaVA has it.
    convert("llava", [tmp_path / "llava.json"], tmp_path / "back", images=[tmp_path])
    assert [sample.turns[1].text for sample in read(tmp_path / "back").values()] == [
        item["conversations"][1]["value"] for item in items
    ]


def test_an_export_goes_on_and_refuses_what_changed(layers: Path, tmp_path: Path) -> None:
    source = open_source([layers / "recaption"])
    export("jsonl", source, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    (tmp_path / "000001.stats.json").unlink()
    export("jsonl", source, tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before
    with pytest.raises(RecipeError, match="pictures"):
        export("jsonl", source, tmp_path, with_pictures=True)
    words = ["shards", "export", "jsonl", str(layers / "recaption"), "--out", str(tmp_path / "a.csv")]
    assert main(words) == 2
    assert not (tmp_path / "a.csv").exists()
    with pytest.raises(RecipeError, match="original, recaption"):
        export("jsonl", source, tmp_path / "other", captions=["short"])


def test_their_captions_become_a_layer_with_its_origin(layers: Path, parquet: Path, tmp_path: Path) -> None:
    base = open_source([f"{layers}/base/*/*.tar"])
    import_layer([parquet / "data"], base, tmp_path / "layer")
    assert captions(tmp_path / "layer") == captions(layers / "recaption")
    annotation = read(tmp_path / "layer")["0-0"].annotation("recaption")
    assert annotation is not None
    assert (annotation.model, annotation.prompt_id, annotation.round) == ("m", "long-v1", 2)
    assert annotation.decision["source"] == "import"
    assert annotation.decision["file"] == "000000.parquet"
    assert len(annotation.decision["sha256"]) == 64


def test_rows_that_fit_nothing_are_counted(
    layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"key": "0-0", "caption": "first"},
        {"key": "0-0", "caption": "second"},
        {"key": "0-1", "caption": " "},
        {"key": "9-9", "caption": "nowhere"},
        {"key": None, "caption": "no key"},
        {"key": "0-2", "caption": ["no text"]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\nno JSON\n")
    words = ["shards", "convert", "layer", str(file), "--shards", f"{layers}/base/*/*.tar", "--layer", "short"]
    for _ in range(2):  # a second run counts the same
        assert main([*words, "--out", str(tmp_path / "out")]) == 0
        printed = capsys.readouterr().out
        assert "1 of 8 samples have a caption; dropped: 1 empty-caption, 6 not-in-file" in printed
        assert "of 7 rows: not in the base 1, repeated keys 1, empty captions 1, unreadable 3" in printed
    assert caption_of(read(tmp_path / "out")["0-0"], "short") == "first"


def test_keys_may_be_urls_and_must_fit_some_sample(layers: Path, tmp_path: Path) -> None:
    base = open_source([f"{layers}/base/*/*.tar"])
    file = tmp_path / "rows.jsonl"
    file.write_text('{"url": "https://example.com/1-0.jpg", "text": "by URL"}\n')
    with pytest.raises(DataError, match="--match"):
        import_layer([file], base, tmp_path / "no")
    import_layer([file], base, tmp_path / "yes", match="url")
    assert captions(tmp_path / "yes")["1-0"] == "by URL"
    file.write_text('{"url": "x", "words": "y"}\n')
    with pytest.raises(DataError, match="--text"):
        import_layer([file], base, tmp_path / "columns")


def test_a_push_says_what_it_needs(layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["shards", "export", "jsonl", str(layers / "recaption"), "--push"]
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main([*words, "hf://datasets/me/it"]) == RecipeError.exit_code
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert main([*words, "me/it"]) == RecipeError.exit_code


def test_a_key_that_cannot_name_a_file_is_a_counted_reason(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "base" / "000000.tar") as tar:
        for key in ("k" * 300, "p", "p.png/q", "fine"):
            tar.write_sample(key, {"png": picture(9, "PNG"), "txt": b"alt"})
    for kind in ("jsonl", "llava"):
        done = export(kind, open_source([tmp_path / "base"]), tmp_path / kind, with_pictures=True)
        assert (done.num_out, dict(done.dropped)) == (2, {"no-file-name": 2})


def test_rounds_of_a_layer_are_columns_of_their_own(layers: Path, tmp_path: Path) -> None:
    base = open_source([f"{layers}/base/part0/*.tar"])
    for number in (1, 2):
        writer = open_layer(
            tmp_path / f"r{number}", layer="recaption", source=base, manifest={"digest": f"{number}"}
        )
        with writer.shard(base.shards[0]) as out:
            for sample in out.samples():
                out.annotate(
                    sample, Annotation(layer="recaption", kind="caption", text=f"of {number}", round=number)
                )
        writer.finish()
    both = open_source([tmp_path / "r1", tmp_path / "r2"])
    export("jsonl", both, tmp_path / "out")
    row = json.loads((tmp_path / "out" / "data" / "000000.jsonl").read_text().splitlines()[0])
    assert (row["recaption@1"], row["recaption@2"], "recaption" in row) == ("of 1", "of 2", False)
    with pytest.raises(RecipeError, match="recaption@9: these shards have recaption@1, recaption@2"):
        export("jsonl", both, tmp_path / "none", captions=["recaption@9"])
    assert not (tmp_path / "none").exists()


def test_what_a_table_says_of_a_caption_is_taken_where_it_is_valid(layers: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    nan = float("nan")
    table = {
        "key": ["0-0", "0-1", "0-2"],
        "caption": ["a", "b", "c"],
        "caption_round": [3.0, nan, 2.5],
        "caption_logprob": [nan, float("inf"), -1.0],
        "caption_fields": [{"score": nan, "day": None}, None, {"score": 1.5, "day": date(2026, 1, 2)}],
    }
    pa.parquet.write_table(pa.table(table), tmp_path / "table.parquet")
    base = open_source([f"{layers}/base/part0/*.tar"])
    import_layer([tmp_path / "table.parquet"], base, tmp_path / "layer")
    found = [one.annotation("recaption") for one in read(tmp_path / "layer").values()]
    assert [(one.round, one.logprob_mean, dict(one.fields)) for one in found if one is not None] == [
        (3, None, {"score": None, "day": None}),
        (None, None, {}),
        (None, -1.0, {"score": 1.5, "day": "2026-01-02"}),
    ]


def test_rows_of_json_lines_may_lack_what_others_have(layers: Path, tmp_path: Path) -> None:
    base = open_source([f"{layers}/base/part0/*.tar"])
    table = tmp_path / "table.jsonl"
    table.write_text('{"key": "0-1", "text": "of nobody"}\n{"key": "0-0", "recaption": "ours"}\n')
    done = import_layer([table], base, tmp_path / "layer")
    assert (done.num_out, done.dropped) == (1, {"empty-caption": 1, "not-in-file": 2})
    assert captions(tmp_path / "layer")["0-0"] == "ours"
    with pytest.raises(DataError, match="--text"):
        import_layer([table], base, tmp_path / "typo", text="recaptoin")
    assert import_layer([table], base, tmp_path / "typo", text="recaption").num_out == 1
    for name in ("original", "Two Words", "url"):
        with pytest.raises(RecipeError, match=f"--layer {name}"):
            import_layer([table], base, tmp_path / "named", layer=name)


def test_the_hub_gets_data_and_card_and_nothing_else(layers: Path, tmp_path: Path) -> None:
    words = ["shards", "export", "jsonl", str(layers / "recaption"), "--license", "cc-by-4.0"]
    words += ["--out", str(tmp_path / "out"), "--push", "hf://datasets/me/it"]
    with serve_hub() as hub:
        environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
        done = vila2(words, environ)
        assert done.returncode == 0, done.stderr
        assert hub.url in done.stdout
        refused = vila2(words, {**environ, "HF_TOKEN": "hf_wrong"})
    assert hub.created["visibility"] == "private"
    rows = tmp_path / "out" / "data"
    assert hub.files.keys() == {"README.md", "data/000000.jsonl", "data/000001.jsonl"}
    assert hub.files["data/000001.jsonl"] == (rows / "000001.jsonl").read_bytes()
    assert "license: cc-by-4.0" in hub.files["README.md"].decode()
    assert refused.returncode == DataError.exit_code
    assert "cannot push" in refused.stderr
    assert "hf_wrong" not in refused.stderr


def vila2(words: list[str], environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run it in a process of its own: the client reads the address of its Hub when it is imported."""
    command = [sys.executable, "-m", "vila2cli", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
