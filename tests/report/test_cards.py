"""Cards: what is on record and nothing else, in the Hugging Face form, harmless whatever the files say."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from vila2cli.errors import DataError
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.report.cards import card, find_cards
from vila2cli.report.markdown import plain, table
from vila2cli.run.folder import write_json
from vila2cli.settings.recipe import Recipe
from vila2cli.text.prompts import prompt_sha256, prompt_text

MakeRun = Callable[..., Any]
REPO = Path(__file__).parents[2]
HOSTILE = "</td><script>alert(1)</script> | cell\n# heading `x` [a](javascript:1) \x1b[31m ${7*7} "
HOSTILE += "x" * 100_000


def test_untrusted_text_is_no_markup() -> None:
    written = plain(HOSTILE)
    assert "\n" not in written
    assert len(written) < 1000
    assert "<" not in written.replace("\\&lt;", "")
    assert "\x1b" not in written
    assert written.count("|") == written.count("\\|")
    assert table(["a", "b"], [(HOSTILE, 1)]).count("\n") == 2
    assert table(["a"], []) == ""


def test_a_layer_s_card(make_run: MakeRun) -> None:
    run = make_run(1)
    folder = run.run_dir / "round1" / "recaption"
    text = card(folder, run.recipe("cost.dollars_per_hour=0.05"))
    data = DatasetCard(text)
    assert data.data.annotations_creators == ["machine-generated"]
    assert "| 000000 |" in text
    assert "2 samples got no annotation: refusal" in text
    assert "| oracle | alt-text | 0.8" in text


def test_a_layer_s_scores_are_its_own(make_run: MakeRun) -> None:
    """A round's judge also compares the layers of earlier rounds, and all of them are called recaption."""
    run = make_run(1)
    run.write_recaption(2)
    run.write_judge(2, {"oracle": 100})
    path = run.run_dir / "round2" / "judge" / "summary.json"
    summary = json.loads(path.read_text())
    before = {**summary["pairs"][0], "layer": "runs/world/round1/recaption", "against": "a layer of round 1"}
    write_json(path, {**summary, "pairs": [before, *summary["pairs"]]})
    text = card(run.run_dir / "round2" / "recaption", run.recipe())
    assert text.count("| oracle |") == 1
    assert "a layer of round 1" not in text


def test_a_layer_in_the_making_says_how_far_it_is(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(0)
    run.write_recaption(1, num_shards=1)
    folder = run.run_dir / "round1" / "recaption"
    (folder / "summary.json").unlink()
    monkeypatch.chdir(folder)
    text = card(Path(), run.recipe())
    assert f"{run.num_samples - 1} annotations for {run.num_samples} images" in text
    assert "not finished: 1 of 2 shards are there" in text
    assert "No judge has compared this layer." in text
    assert DatasetCard(text).data.pretty_name == "round1-recaption"
    assert DatasetCard(text).data.size_categories == ["n<1K"]


def test_a_name_is_no_markdown_in_the_head(make_run: MakeRun) -> None:
    run = make_run(0)
    folder = (run.run_dir / "round0").rename(run.run_dir / "my_run [v1]: x") / "sft"
    text = card(folder, run.recipe())
    assert yaml.safe_load(text.split("---\n")[1])["tags"][0] == "vila2"
    assert "my\\_run" in text
    layer = run.folder / "a_b"
    run.write_recaption(1)
    (run.run_dir / "round1" / "recaption").rename(layer)
    assert DatasetCard(card(layer, run.recipe())).data.pretty_name == f"{run.folder.name}-a_b"


def test_a_checkpoint_without_weights_says_so(make_run: MakeRun) -> None:
    text = card(make_run(0).run_dir / "round0" / "sft", Recipe())
    assert "its weights are not here" in text
    assert "not evaluated" in text
    assert ModelCard(text).data.eval_results is None


def test_a_card_says_what_other_tools_make_of_tiles(make_run: MakeRun) -> None:
    folder = make_run(0).run_dir / "round0" / "sft"
    assert "CATTY" not in card(folder, Recipe())
    rule = {"method": "catty", "max": 6, "thumbnail": True, "overlap": "last"}
    write_json(folder / "processor_config.json", {"image_processor": {"vila2_tiles": rule}})
    measured = json.loads((REPO / "benchmarks" / "results" / "tiles.json").read_text())["seeds"]
    differing, captions = (sum(seed["stock"][name] for seed in measured) for name in ("differing", "captions"))
    assert f"as a small model did in {differing} of {captions} captions" in card(folder, Recipe())


def test_the_prompts_of_what_it_was_trained_on(make_run: MakeRun) -> None:
    """Round 1's captions are its data, whatever is beside them."""
    run = make_run(1)
    run.write_recaption(2)
    for number in (1, 2):
        layer = run.run_dir / f"round{number}" / "recaption"
        prompts = {"long-v1": prompt_sha256("long-v1", {}), "gone-v1": "0" * 64}
        manifest = json.loads((layer / "manifest.json").read_text())
        write_json(layer / "manifest.json", {**manifest, "inputs": {"prompts": prompts}})
    folder = run.run_dir / "round1" / "sft"
    lineage = json.loads((folder / "vila2.json").read_text())
    stats = json.loads((run.run_dir / "round1" / "recaption" / "000000.stats.json").read_text())
    sources = {"pretrain": {"shards": {"data/pretrain": 2}}}
    data = {"pretrain": {"000000": "c" * 64, "000000+recaption": stats["sha256"]}}
    write_json(folder / "vila2.json", {**lineage, "data": data, "sources": sources})
    text = card(folder, run.recipe())
    assert f"| round1/recaption | long-v1 | {prompt_text('long-v1', {})} |" in text
    assert "| round1/recaption | gone-v1 | its text is not in this recipe |" in text
    assert "round2/recaption" not in text
    assert "| sft | pretrain | 1 | data/pretrain | recaption |" in text


def test_scores_have_the_form_of_the_hub(make_run: MakeRun) -> None:
    """A model-index: results of a task on a dataset, each metric with a type, a number and its interval."""
    run = make_run(0)
    folder = run.run_dir / "round0" / "sft"
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    metrics = run.run_dir / "round0" / "eval" / "metrics.json"
    recorded = {**json.loads(metrics.read_text()), "model_sha256": weights_sha256(folder)}
    write_json(metrics, recorded)
    (model,) = yaml.safe_load(card(folder, run.recipe()).split("---\n")[1])["model-index"]
    assert model["name"] == "round0-sft"
    by_task = {result["dataset"]["name"]: result for result in model["results"]}
    assert by_task.keys() == recorded["tasks"].keys()
    for name, result in by_task.items():
        assert result["task"] == {"type": "image-text-to-text"}
        assert result["dataset"] == {"name": name, "type": name}
        found = {one["type"]: {"value": one["value"], **one["args"]} for one in result["metrics"]}
        assert found == recorded["tasks"][name]["metrics"]


def test_a_checkpoint_that_no_evaluation_names_has_no_scores(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(0)
    folder = run.run_dir / "round0" / "sft"
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    text = card(folder, run.recipe())
    assert "No evaluation of these weights is beside them." in text
    assert ModelCard(text).data.eval_results is None
    metrics = run.run_dir / "round0" / "eval" / "metrics.json"
    write_json(metrics, {**json.loads(metrics.read_text()), "model_sha256": weights_sha256(folder)})
    scored = card(folder, run.recipe())
    assert len(ModelCard(scored).data.eval_results or ()) > 5
    assert "of what it states is wrong" in scored


def test_hostile_files_make_a_card_that_can_be_read(make_run: MakeRun) -> None:
    run = make_run(1)
    folder = run.run_dir / "round1" / "recaption"
    layer = json.loads((folder / "layer.json").read_text())
    base = [{"name": HOSTILE, "url": HOSTILE}]
    write_json(folder / "layer.json", {**layer, "base": base, "digest": HOSTILE})
    hostile = {"model": HOSTILE, "kept": {HOSTILE: 3}, "dropped": [1], "cost": 3, "words": [], "yield": "x"}
    write_json(folder / "summary.json", hostile)
    (folder / "rejects.jsonl").write_text(json.dumps({"reason": HOSTILE, "error": HOSTILE}))
    text = card(folder, run.recipe())
    assert DatasetCard(text).data.pretty_name
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\n# heading" not in text
    assert len(text) < 20_000


def test_names_stand_in_a_card_as_they_are() -> None:
    name = "<b>x</b> &lt; a|b `c` [d](javascript:1) ![i](http://e.org) www.e.org x@y.z *b* _i_ ~~s~~ \\"
    written = table(["", ""], [(name, 1)])
    html = MarkdownIt("commonmark").enable("table").render(written)
    assert unescape(re.findall("<td>(.*?)</td>", html)[0]) == name
    assert not re.search(r"[^\\](://|@)|www\.", written)  # addresses that become links by themselves


@pytest.mark.parametrize("path", ["W" * 100_000, "a/" + "w" * 100_000, "\x00", "\ud800"])
def test_a_parent_that_no_disk_could_hold_is_only_named(make_run: MakeRun, path: str) -> None:
    run = make_run(1)
    folder = run.run_dir / "round1" / "sft"
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    lineage = json.loads((folder / "vila2.json").read_text())
    (folder / "vila2.json").write_text(json.dumps(lineage | {"parent": {"path": path, "sha256": "0"}}))
    assert len(card(folder, Recipe()).encode()) < 20_000


@pytest.mark.parametrize("content", [b"\xff{", b"[]", b'{"bases": 3, "phases": [1], "data": 2, "parent": 1}'])
def test_damaged_files_are_named(make_run: MakeRun, content: bytes) -> None:
    run = make_run(1)
    for path in (run.run_dir / "round1").rglob("*.json"):
        if path.name != "config.json":
            path.write_bytes(content)
    folder = run.run_dir / "round1" / "sft"
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    for one in (folder, run.run_dir / "round1" / "recaption"):
        text = card(one, Recipe())
        assert ("could not be read" in text) is not content.startswith(b'{"')


def test_what_has_cards_is_found(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(1)
    names = [str(path.relative_to(run.run_dir)) for path in find_cards(run.run_dir)]
    assert names == ["round0/sft", "round1/recaption", "round1/sft"]
    assert find_cards(run.run_dir / "round1" / "sft") == [run.run_dir / "round1" / "sft"]
    with pytest.raises(DataError, match="no checkpoint, no caption layer"):
        find_cards(tmp_path / "data")
    with pytest.raises(DataError, match="is not there"):
        find_cards(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no caption layer"):
        find_cards(run.run_dir / "round1" / "eval" / "world-ocr")
