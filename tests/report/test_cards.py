"""Cards: what is on record and nothing else, in the Hugging Face form, harmless whatever the files say."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from vila2cli.errors import DataError
from vila2cli.recipe import Recipe
from vila2cli.report.cards import card, find_cards
from vila2cli.report.markdown import plain, table
from vila2cli.run import write_json

MakeRun = Callable[..., Any]
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


def test_a_checkpoint_that_no_evaluation_names_has_no_scores(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(0)
    folder = run.run_dir / "round0" / "sft"
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    text = card(folder, run.recipe())
    assert "No evaluation of these weights lies beside them." in text
    assert ModelCard(text).data.eval_results is None
    metrics = run.run_dir / "round0" / "eval" / "metrics.json"
    from vila2cli.model.checkpoint import weights_sha256

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
    with pytest.raises(DataError, match="no checkpoint, no layer"):
        find_cards(tmp_path / "data")
