"""The whole page from run folders with all, some and none of their parts, and with hostile ones."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vila2cli.report import build_page, render_page
from vila2cli.report.captions import MAX_CARDS
from vila2cli.run.folder import write_json
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import open_layer, open_source
from vila2cli.shards.sample import Annotation

MakeRun = Callable[..., Any]
VOID = {"meta", "img", "input", "link", "br"}
HOSTILE = (
    '</p></style><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7*7 }} \x1b[31mred\x00 \u202eright'
)


class Outline(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed without having been opened."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    assert parsed.open == []
    return parsed


def page_text(recipe: Recipe, run_dir: Path) -> str:
    return " ".join(" ".join(outline(render_page(build_page(recipe, run_dir))).text).split())


def test_full_run_shows_every_part(make_run: MakeRun) -> None:
    run = make_run(2)
    run.write_eval("final", 0.9)
    page = build_page(run.recipe("rounds=2", "cost.dollars_per_hour=0.05"), run.run_dir)
    assert page.damaged == []
    assert [row.label for row in page.headline.rows] == ["round 0", "round 1", "round 2", "final"]
    assert [row.style for row in page.headline.rows] == ["", "", "", "apart"]
    names = [column.name for column in page.headline.columns[1:]]
    questions = ["QA mean", "existence", "colour", "count", "spatial", "ocr"]
    assert names == ["words", "precision", "recall", *questions, "by oracle", "by model", "time"]
    assert [name for name, _ in page.headline.groups][-2:] == ["preferred to alt-text", ""]
    pairs = ["round 1 − round 0", "round 2 − round 1", "final − round 2"]
    assert [name for name, _ in page.differences.columns[1:]] == pairs
    assert page.charts[1].title == "Caption facts"
    cards = page.captions.cards
    assert len(cards) == MAX_CARDS
    assert all(card.picture.url.startswith("data:image/jpeg;base64,") for card in cards)
    assert all(len(card.captions) == 3 for card in cards)
    assert page.costs.chart is None, "prices of cores do not stand beside those of the paper's GPUs"
    assert page.costs.note == ""
    assert [row.cells[0] for row in page.rejects.rows] == ["refusal", "refusal"]
    assert page.costs.ledger.rows[-1].style == "total"


def test_decisions_are_shown_by_layer(make_run: MakeRun) -> None:
    run = make_run(1)
    assert build_page(run.recipe(), run.run_dir).decisions.rows == ()
    path = run.run_dir / "round1" / "recaption" / "summary.json"
    counts = {
        "requests": 60,
        "retried": 3,
        "kept": {"model": 45, "original": 3},
        "defects": {"refusal": 2, "truncated": 9},
        "fallbacks": {"truncated": 3},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | counts))
    write_json(run.run_dir / "round1" / "rewrite" / "summary.json", {"kept": {"merged": "x", "joined": 4}})
    page = build_page(run.recipe(), run.run_dir)
    recaption, rewrite = page.decisions.rows
    defects, sources = "9 truncated, 2 refusal", "45 model, 3 original"
    assert recaption.cells == ("48", "1.25", "42", "3", "3", defects, sources)
    assert (rewrite.label, rewrite.cells[0], rewrite.cells[-1]) == ("round 1 · rewrite", "4", "4 joined")
    text = page_text(run.recipe(), run.run_dir)
    assert "How captions were chosen" in text
    assert "9 truncated, 2 refusal" in text


def test_a_filter_shows_its_counts_and_cuts(make_run: MakeRun) -> None:
    run = make_run(1)
    assert build_page(run.recipe(), run.run_dir).filters.rows == ()
    folder = run.run_dir / "round1" / "filter"
    source = open_source([str(run.base_dir)])
    layer = open_layer(folder, layer="filter", source=source)
    for shard in source.shards:
        with layer.shard(shard) as writer:
            for i, sample in enumerate(writer.samples()):
                if i % 4:
                    writer.skip(sample, "perplexity" if i % 4 == 1 else "duplicate")
                else:
                    writer.annotate(sample, Annotation(layer="filter", kind="score", scores={"keep": True}))
    cuts = [
        {"from_tokens": 0, "in": 20, "out": 10, "worst_kept": 7.25},
        {"from_tokens": 9, "in": 1, "out": 0, "worst_kept": None},
    ]
    write_json(folder / "summary.json", {"rank_by": "perplexity", "cuts": cuts})
    (row,) = build_page(run.recipe(), run.run_dir).filters.rows
    assert row.label == "round 1 · filter"
    assert row.cells[:4] == ("48", "12", "25.0 %", "24 duplicate, 12 perplexity")
    assert row.cells[4].split("<br>") == [
        "perplexity: 10 of 20 kept, cut at 7.250",
        "perplexity from 9 tokens on: 0 of 1 kept",
    ]
    text = page_text(run.recipe(), run.run_dir)
    assert "What was kept" in text
    assert "cut at 7.250" in text


def test_hours_are_those_of_the_devices_a_stage_ran_on(make_run: MakeRun) -> None:
    run = make_run(2)
    path = run.run_dir / "round2" / "recaption" / "summary.json"
    summary = json.loads(path.read_text())
    on_gpu = {"seconds": 36, "num_devices": 2, "device": "GPU-hours"}
    path.write_text(json.dumps(summary | {"cost": on_gpu}))
    page = build_page(run.recipe("cost.device=core-hours"), run.run_dir)
    cells = {row.label: row.cells for row in page.costs.ledger.rows}
    assert cells["round 1 · recaption"][5] == "0.002 core-hours"
    assert cells["round 2 · recaption"][5] == "0.020 GPU-hours"
    assert cells["round 0 · sft"][5].endswith(" core-hours"), "what says nothing has the recipe's unit"
    assert re.fullmatch(r"0\.\d{3} core-hours \+ 0\.020 GPU-hours", cells["all stages"][5])
    (tile,) = (tile for tile in page.tiles if tile.name == "Recaptioning 1k images")
    assert tile.note.startswith("GPU-hours, ")
    page = build_page(run.recipe("cost.dollars_per_hour=5"), run.run_dir)
    assert page.costs.chart is not None
    assert "the paper $0.12" in next(tile.note for tile in page.tiles if tile.name.startswith("Recaptioning"))
    charged = {"seconds": 36, "num_devices": 1, "device": "server-hours", "spent": 0.96}
    path.write_text(json.dumps(summary | {"cost": charged}))
    page = build_page(run.recipe("cost.device=GPU-hours", "cost.dollars_per_hour=5"), run.run_dir)
    cells = {row.label: row.cells for row in page.costs.ledger.rows}
    assert cells["round 2 · recaption"][5:] == ("0.010 server-hours", "$20.00")
    assert cells["round 1 · recaption"][5] == "0.002 core-hours"


def test_samples_that_several_judges_judged_are_counted_once(make_run: MakeRun) -> None:
    run = make_run(1)
    source = open_source([str(run.base_dir)])
    for judge, share in (("model", 2), ("oracle", 1)):
        layer = open_layer(run.run_dir / "round1" / "judge" / judge, layer="judge", source=source)
        for shard in source.shards:
            with layer.shard(shard) as writer:
                for i, sample in enumerate(writer.samples()):
                    if i % share:
                        writer.skip(sample, "no-caption")
                    else:
                        writer.annotate(sample, Annotation(layer="judge", kind="verdict"))
                writer.count(tokens=10)
    page = build_page(run.recipe(), run.run_dir)
    (row,) = [row for row in page.costs.ledger.rows if row.label == "round 1 · judge"]
    assert row.cells[0] == str(run.num_samples * run.num_shards)
    assert row.cells[3] == str(2 * 10 * run.num_shards)


def test_judges_and_evaluation_stand_side_by_side(make_run: MakeRun) -> None:
    run = make_run(1)
    table = build_page(run.recipe(), run.run_dir).directions
    assert [name for name, _ in table.columns[1:3]] == ["oracle judge", "model judge"]
    (row,) = table.rows
    assert (row.label, row.cells[-1]) == ("round 1 over alt-text", "all say better")
    assert all("delta gain" in cell for cell in row.cells[:2])
    assert ">+36.0 points<" in row.cells[0]
    run.write_judge(1, {"oracle": 20, "model": 98})
    (row,) = build_page(run.recipe(), run.run_dir).directions.rows
    assert "delta loss" in row.cells[0]
    assert "delta even" in row.cells[1]
    assert row.cells[-1] == "they disagree"


def test_page_is_self_contained_and_well_formed(make_run: MakeRun) -> None:
    run = make_run(1)
    html = render_page(build_page(run.recipe(), run.run_dir))
    parsed = outline(html)
    links = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert (parsed.tags.count("script"), parsed.tags.count("style")) == (2, 1)
    assert ("type", "application/json") in parsed.attributes
    assert "url(" not in html
    assert "@import" not in html
    anchors = {value for name, value in parsed.attributes if name == "id"}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert len(html) < 1_000_000


def test_same_folder_gives_the_same_page(make_run: MakeRun) -> None:
    run = make_run(1)
    assert render_page(build_page(run.recipe(), run.run_dir)) == render_page(
        build_page(run.recipe(), run.run_dir)
    )


def test_round_zero_alone_says_what_has_not_run(make_run: MakeRun) -> None:
    run = make_run(0)
    text = page_text(run.recipe("rounds=3"), run.run_dir)
    assert "0 of 3 self-augmentation rounds evaluated" in text
    assert "that takes two evaluated rounds" in text
    assert "No recaptions yet" in text
    assert "No judge has compared captions yet" in text
    assert "No recaption pass has run yet" in text


def test_empty_run_folder(tmp_path: Path) -> None:
    text = page_text(Recipe(), tmp_path)
    assert "Nothing has been evaluated in this run folder yet." in text
    assert "No round has been started yet" in text
    assert "No stage has recorded its time yet." in text


def test_ten_rounds(make_run: MakeRun) -> None:
    run = make_run(10, skills=[0.4 + 0.05 * i for i in range(11)], num_samples=6, num_shards=1, num_questions=8)
    page = build_page(run.recipe("rounds=10"), run.run_dir)
    outline(render_page(page))
    assert len(page.headline.rows) == 11
    assert all(len(card.captions) == 11 for card in page.captions.cards)


def test_unfinished_stages_are_no_error(make_run: MakeRun) -> None:
    run = make_run(1)
    run.write_recaption(2, num_shards=1)
    (run.run_dir / "round2" / "pretrain.partial").mkdir()
    (run.run_dir / "round2" / "eval").mkdir()
    page = build_page(run.recipe(), run.run_dir)
    states = {cell.text for cell in page.matrix.rows[-1].cells if cell is not None}
    assert states == {"1 of 2 shards", "unfinished", "not run yet"}
    assert page.damaged == []


def test_base_shards_that_are_gone_leave_the_captions(make_run: MakeRun) -> None:
    run = make_run(2)
    shutil.rmtree(run.base_dir)
    page = build_page(run.recipe(), run.run_dir)
    assert len(page.captions.cards) == MAX_CARDS
    pictures = [card.picture for card in page.captions.cards]
    assert all(not picture.url and picture.note == "image not available" for picture in pictures)
    assert all("is gone" in line for line in page.damaged)


def test_hostile_text_stays_text(make_run: MakeRun) -> None:
    run = make_run(0)
    run.write_recaption(1, text=HOSTILE)
    rejects = run.run_dir / "round1" / "recaption" / "rejects.jsonl"
    rejects.write_text(json.dumps({"shard": HOSTILE, "key": HOSTILE, "reason": "refusal", "error": HOSTILE}))
    metrics = run.run_dir / "round0" / "eval" / "metrics.json"
    task = json.loads(metrics.read_text())["tasks"]["world-ocr"]
    metrics.write_text(json.dumps({"tasks": {HOSTILE: task | {"headline": HOSTILE}}, "model": HOSTILE}))
    (run.run_dir / "specialists" / HOSTILE[4:30].replace("/", "") / "checkpoint").mkdir(parents=True)
    html = render_page(build_page(run.recipe(), run.run_dir))
    parsed = outline(html)
    assert parsed.tags.count("script") == 2  # the page's own, and captions as data
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)
    text = "".join(parsed.text)
    assert "<script>alert(1)</script>" in text
    assert "{{ 7*7 }}" in text
    assert "\\x1b[31mred" in text


def test_names_that_no_disk_could_hold_or_utf8_write_are_shown(make_run: MakeRun) -> None:
    run = make_run(1)
    layer = run.run_dir / "round1" / "recaption" / "layer.json"
    value = json.loads(layer.read_text())
    for base, path in zip(value["base"], ("W" * 100_000, "\ud800\x00"), strict=True):
        base |= {"url": path, "relative": path, "path": path}
    layer.write_text(json.dumps(value))
    (run.run_dir / "specialists" / "s\udcff\udc9b" / "checkpoint").mkdir(parents=True)
    page = build_page(run.recipe(), run.run_dir)
    html = render_page(page)
    outline(html)
    assert "specialist s\\udcff\\udc9b" in html
    assert len(html.encode()) < 1_000_000
    assert any("is gone" in line for line in page.damaged)


def test_runaway_caption_is_cut(make_run: MakeRun) -> None:
    run = make_run(0)
    run.write_recaption(1, text="a red circle, " * 7500)
    page = build_page(run.recipe(), run.run_dir)
    assert len(render_page(page)) < 1_000_000
    text = page_text(run.recipe(), run.run_dir)
    assert "more characters" in text
    assert "cut off at the token limit" in text


DAMAGE = {
    "no-json": b"\xff{",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "odd-types": json.dumps(
        {"tasks": {"a": 1, "b": {"metrics": [1]}}, "qa_mean": "x", "phases": [1], "cost": 3, "pairs": [[], {}]}
        | {"base": [1, {}], "layer": 5, "words": [], "seconds": "9", "dropped": 3, "judges": {"a": 2}}
    ).encode(),
    "odd-numbers": b'{"seconds": 1e999, "tasks": {"a": {"metrics": {"x": NaN, "y": {"value": 1e999}}}}}',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_noted_and_raise_nothing(make_run: MakeRun, damage: str) -> None:
    run = make_run(1, num_samples=7, num_questions=6)
    for path in [*run.run_dir.rglob("*.json"), *run.run_dir.rglob("*.jsonl")]:
        path.write_bytes(DAMAGE[damage])
    page = build_page(run.recipe(), run.run_dir)
    outline(render_page(page))
    assert damage.startswith("odd") or any("metrics.json" in line for line in page.damaged)


def test_damaged_layers_are_noted_and_raise_nothing(make_run: MakeRun) -> None:
    run = make_run(1, num_samples=7, num_questions=6)
    for path in run.run_dir.rglob("*.tar.gz"):
        path.write_bytes(path.read_bytes()[:300])
    page = build_page(run.recipe(), run.run_dir)
    outline(render_page(page))
    assert any("000000.tar" in line for line in page.damaged)
    assert page.captions.cards == ()
