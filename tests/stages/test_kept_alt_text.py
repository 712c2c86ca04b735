"""A caption that a layer kept in place of the model's is told from those that the model wrote."""

import json
import shutil
from pathlib import Path

from vila2cli.cli.app import main
from vila2cli.report.caption_layers import CaptionLayer
from vila2cli.report.captions import caption_section
from vila2cli.report.json_reader import JsonReader
from vila2cli.run.folder import claim, read_manifest
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation, Sample
from vila2cli.stages.export import export
from vila2cli.stages.import_layer import import_layer
from vila2cli.stages.shards import show

SOURCES = {"a": "model", "b": "original", "c": "original+recaption", "d": "only-original"}


def make_layer(folder: Path) -> Path:
    with TarWriter(folder / "base" / "0.tar") as tar:
        for key in SOURCES:
            tar.write_sample(key, {"jpg": b"no picture", "txt": b"alt"})
    writer = open_layer(folder / "layer", layer="recaption", source=open_source([folder / "base"]))
    with writer.shard(open_source([folder / "base"]).shards[0]) as out:
        for sample in out.samples():
            decision = {"source": SOURCES[sample.key], "by": "only"}
            text = f"of {sample.key}"
            out.annotate(
                sample,
                Annotation(layer="recaption", kind="caption", text=text, round=1, model="m", decision=decision),
            )
    return folder / "layer"


def read(folder: Path) -> list[Sample]:
    return [one for shard in open_source([folder]).shards for one in read_shard(shard, on_reject=print)]


def told(folder: Path) -> list[tuple[str | None, object]]:
    found = [sample.annotation("recaption") for sample in read(folder)]
    return [(one.text, one.decision["source"]) for one in found if one is not None]


def test_show_says_so_in_the_headline(tmp_path: Path) -> None:
    lines = "\n".join(show(open_source([make_layer(tmp_path)]), len(SOURCES)).samples).splitlines()
    assert [line.strip() for line in lines if line.startswith("  recaption of")] == [
        "recaption of round 1 (m): of a",
        "recaption of round 1 (kept alt-text, m): of b",
        "recaption of round 1 (kept alt-text and recaption, m): of c",
        "recaption of round 1 (kept alt-text, m): of d",
    ]


def test_an_export_has_the_source_and_it_comes_back(tmp_path: Path) -> None:
    layer, table = make_layer(tmp_path), tmp_path / "captions.jsonl"
    assert main(["shards", "export", "jsonl", str(layer), "--out", str(table)]) == 0
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert {row["key"]: row["recaption_source"] for row in rows} == SOURCES
    import_layer([table], open_source([tmp_path / "base"]), tmp_path / "back")
    kept = [(text, "import" if source == "model" else source) for text, source in told(layer)]
    assert told(tmp_path / "back") == kept


def test_a_report_says_so_below_the_caption(tmp_path: Path) -> None:
    layer = CaptionLayer(1, make_layer(tmp_path), ("0",))
    cards = {card.key: card.captions[1].meta for card in caption_section([layer], JsonReader(tmp_path)).cards}
    assert cards["a"] == "2 words"
    assert cards["b"] == "kept alt-text · 2 words"


def test_an_export_that_was_begun_without_sources_goes_on_without(tmp_path: Path) -> None:
    source, out = open_source([make_layer(tmp_path)]), tmp_path / "out"
    export("jsonl", source, out)
    stored = read_manifest(out)
    assert stored is not None
    inputs = {name: value for name, value in stored.inputs.items() if name != "origins"}
    shutil.rmtree(out)
    claim(out, inputs)
    export("jsonl", source, out)
    rows = [json.loads(line) for line in (out / "data" / "0.jsonl").read_text().splitlines()]
    assert len(rows) == len(SOURCES)
    assert not [row for row in rows if row.keys() & {"recaption_source", "file_name"}]
