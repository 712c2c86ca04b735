"""The tree of origins, from hand-written records; tests/stages/test_training.py has one of a real run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.stages.lineage import lineage


def model(folder: Path, **record: Any) -> str:
    """A checkpoint folder, with a record when there is something to say; returns its hash."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(str(folder))
    if record:
        (folder / "vila2.json").write_text(json.dumps(record))
    return weights_sha256(folder)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bases, shards, a round 0, its captions, a round 1 over them, and a soup; paths relative as typed."""
    monkeypatch.chdir(tmp_path)
    bases = {name: {"path": f"bases/{name}", "sha256": model(Path("bases", name))} for name in ("tower", "llm")}
    Path("data/pretrain").mkdir(parents=True)
    Path("data/pretrain/000000.tar").write_bytes(b"")
    shards = {"shards": {"data/pretrain": 1}, "layers": []}
    digests = {"pretrain": {"000000": "aa"}}
    zero = {"stage": "pretrain", "round": 0, "bases": bases, "data": digests, "sources": {"pretrain": shards}}
    first = model(Path("runs/w/round0/pretrain"), **zero, settings={"epochs": 1}, seed=3)
    layer = Path("runs/w/round1/recaption")
    layer.mkdir(parents=True)
    base = {
        "name": "000000",
        "url": "data/pretrain/000000.tar",
        "relative": "../../../../data/pretrain/000000.tar",
    }
    (layer / "layer.json").write_text(
        json.dumps({"layer": "recaption", "base": [base], "layers": [], "digest": "dd"})
    )
    summary = {"model": "runs/w/round0/pretrain", "model_sha256": first, "in": 1200, "out": 1199}
    (layer / "summary.json").write_text(json.dumps(summary))
    over = {
        "shards": {"data/pretrain": 1},
        "layers": [{"name": "recaption", "path": str(layer), "digest": "dd"}],
    }
    one = zero | {
        "round": 1,
        "sources": {"pretrain": over},
        "data": {"pretrain": {"000000": "aa", "000000+recaption": "b"}},
    }
    second = model(Path("runs/w/round1/pretrain"), **one)
    members = [("runs/w/round0/pretrain", first), ("runs/w/round1/pretrain", second)]
    parents = [{"path": path, "sha256": sha, "share": 0.5} for path, sha in members]
    model(Path("soup"), stage="soup", parents=parents, selection={"split": "dev"})
    return tmp_path


def test_the_tree_goes_back_to_bases_and_original_data(run: Path) -> None:
    text = lineage(Path("runs/w/round1/pretrain")).lines()
    assert text[0].startswith("runs/w/round1/pretrain (pretrain of round 1")
    assert any("├─ base tower: bases/tower" in line for line in text)
    written = next(line for line in text if "written by: runs/w/round0/pretrain" in line)
    assert "seed 3" in written
    assert any("layer recaption, 1,200 in, 1,199 out" in line for line in text)
    below = text[text.index(written) + 1 :]
    assert any(
        line.startswith("│  │  └─ data pretrain: data/pretrain (1 shard, original data") for line in below
    )
    assert not any("MISSING" in line or "CHANGED" in line for line in text)


def test_what_was_drawn_is_named_again_and_not_drawn_again(run: Path) -> None:
    nodes = [n for n in lineage(Path("soup")).walk() if n.path == "runs/w/round0/pretrain"]
    assert [bool(node.made_from) for node in nodes] == [True, False]
    assert nodes[1].status == "seen"
    assert nodes[0].role == "0.500 of the soup"


def test_missing_parts_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for gone in ("bases/llm", "data/pretrain", "runs/w/round0"):
        shutil.rmtree(gone)
    assert main(["lineage", "runs/w/round1/pretrain"]) == 0
    text = capsys.readouterr().out
    for line in ("base llm: bases/llm", "written by: runs/w/round0/pretrain", "over: data/pretrain"):
        assert any(line in found and "MISSING" in found for found in text.splitlines()), line
    shutil.rmtree("runs/w/round1/recaption")
    missing = [n.path for n in lineage(Path("runs/w/round1/pretrain")).walk() if n.status == "missing"]
    assert missing == ["bases/llm", "runs/w/round1/recaption", "data/pretrain"]


def test_changes_are_told_apart(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bases/llm/model.safetensors").write_text("other weights")
    layer = Path("runs/w/round1/recaption/layer.json")
    layer.write_text(layer.read_text().replace('"dd"', '"ee"'))
    status = {n.path: n.status for n in lineage(Path("runs/w/round1/pretrain"), verify=True).walk()}
    assert (status["bases/llm"], status["bases/tower"]) == ("changed", "")
    assert status["runs/w/round1/recaption"] == "changed"
    quick = {n.status for n in lineage(Path("runs/w/round1/pretrain")).walk() if n.path == "bases/llm"}
    assert "changed" not in quick
    assert main(["lineage", "soup", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [node["role"] for node in tree["made_from"]] == ["0.500 of the soup"] * 2


def test_a_run_is_read_from_elsewhere_and_after_a_move(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    there = lineage(run / "runs/w/round1/pretrain")
    assert {node.status for node in there.walk()} <= {"", "seen"}
    shutil.copytree(run, run.parent / "moved")
    shutil.rmtree(run)
    moved = lineage(run.parent / "moved/runs/w/round1/pretrain")
    assert {node.status for node in moved.walk()} <= {"", "seen"}


def test_records_of_earlier_versions_say_what_they_know(run: Path) -> None:
    path = Path("runs/w/round1/pretrain/vila2.json")
    record = json.loads(path.read_text())
    del record["sources"]
    path.write_text(json.dumps(record))
    text = lineage(path.parent).lines()
    assert "data pretrain: pretrain (1 shard, under layer recaption" in text[-1]
    assert "its place was not recorded" in text[-1]


def test_a_folder_without_a_record_is_refused(run: Path) -> None:
    with pytest.raises(DataError, match="has no record of its origin"):
        lineage(Path("bases/llm"))


@pytest.mark.parametrize(
    "record",
    [
        {"bases": {"llm": None}},
        {"bases": {"llm": {"path": 3, "sha256": ""}}},
        {"parent": {"path": "x"}},
        {"parents": [{"path": "x", "sha256": "", "share": "half"}]},
        {"data": {"pretrain": ["000000"]}},
        {"sources": {"pretrain": {"layers": [{}], "shards": {}}}},
        {"selection": ["best"]},
    ],
)
def test_a_record_of_another_make_is_one_error(tmp_path: Path, record: dict[str, Any]) -> None:
    model(tmp_path / "checkpoint", **record)
    with pytest.raises(DataError, match=rf"vila2\.json: {next(iter(record))}.*; was it edited\?"):
        lineage(tmp_path / "checkpoint")
