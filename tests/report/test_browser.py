"""The page in a real headless Chromium: hostile captions and names run nothing and break nothing."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from browser import chromium, serious
from vila2cli.report import build_page, render_page

MakeRun = Callable[..., Any]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARK = "document.documentElement.setAttribute('data-owned', '1')"
ATTACKS = (
    f"<script>{MARK}</script>",
    f'<img src=x onerror="{MARK}">',
    f'"><svg onload="{MARK}">',
    f"</p></section></body></html><script>{MARK}</script>",
    f'<style>*{{display:none}}</style><a href="javascript:{MARK}">click</a>',
    f'<iframe srcdoc="<script>parent.{MARK}</script>"></iframe>',
    "<meta http-equiv=refresh content='0;url=https://example.org'><base href='https://example.org'>",
    "]]><!-- {{ 7*7 }} ${7*7} &lt;b&gt; \x1b[31mred\x1b]0;owned\x07 \x00 \u202egnorw",
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def dom(page: Path, folder: Path) -> str:
    """The document after its scripts ran, as the browser has it."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1310", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={folder}", "--virtual-time-budget=5000", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


class Seen(HTMLParser):
    """Tags and the names of attributes of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name if name != "http-equiv" else f"{name}={value}" for name, value in attrs]


def write_page(run: Any, folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(render_page(build_page(run.recipe(), run.run_dir)))
    return path


def test_the_mark_would_be_seen(tmp_path: Path) -> None:
    """What the other tests look for is there in a page that does run an attack."""
    page = tmp_path / "open.html"
    page.write_text(f"<!doctype html><title>x</title>{ATTACKS[0]}")
    assert "data-owned" in dom(page, tmp_path / "profile").split(">")[1]


def test_no_caption_name_or_reject_runs_anything(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(0)
    everything = " ".join(ATTACKS)
    run.write_recaption(1, text=everything)
    for path in run.run_dir.glob("round1/recaption/*.rejects.jsonl"):
        path.unlink()
    lines = [
        {"shard": text, "key": text, "reason": f"{i}{text}", "error": text} for i, text in enumerate(ATTACKS)
    ]
    rejects = run.run_dir / "round1" / "recaption" / "rejects.jsonl"
    rejects.write_text("\n".join(map(json.dumps, lines)))
    metrics = run.run_dir / "round0" / "eval" / "metrics.json"
    found = json.loads(metrics.read_text())
    task = found["tasks"]["world-ocr"]
    metrics.write_text(
        json.dumps(
            found | {"model": everything, "tasks": {text: task | {"headline": text} for text in ATTACKS}}
        )
    )
    shown = dom(write_page(run, tmp_path), tmp_path / "profile")
    parsed = Seen()
    parsed.feed(shown)
    assert parsed.tags.count("script") == 2  # the page's own, and captions as data
    assert not {"iframe", "base", "object", "embed"} & set(parsed.tags)
    assert not {
        name for name in parsed.attributes if name.startswith(("on", "data-owned", "srcdoc", "http-equiv=r"))
    }
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", shown)
    assert "&lt;script&gt;" in shown
    assert "{{ 7*7 }}" in shown
    # The page went on to its end: nothing closed it early.
    assert shown.index("</footer>") > shown.rindex('class="card"')


def test_a_caption_of_100_kb_leaves_the_page_small(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(0)
    run.write_recaption(1, text="<b>runaway</b> \x1b[31m" * 5000)
    page = write_page(run, tmp_path)
    shown = dom(page, tmp_path / "profile")
    assert page.stat().st_size < 1_000_000
    assert "more characters" in shown
    assert "<b>runaway" not in shown
    assert shown.index("</footer>") > shown.rindex("more characters")


def test_long_names_stay_in_their_places(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(1)
    run.write_recaption(1, text="W" * 100_000)
    judge = run.run_dir / "round1" / "judge" / "summary.json"
    value = json.loads(judge.read_text())
    name = "<b>" + "W" * 100_000
    value["pairs"][0] |= {"layer": name, "against": name, "judges": {name: value["judges"]["oracle"]}}
    judge.write_text(json.dumps(value))
    metrics = run.run_dir / "round1" / "eval" / "metrics.json"
    found = json.loads(metrics.read_text())
    task = found["tasks"]["world-ocr"] | {"headline": name}
    metrics.write_text(
        json.dumps(found | {"tasks": found["tasks"] | {name: task, "Z" + "\u0301" * 9_000: task}})
    )
    with chromium(tmp_path / "profile") as browser:
        browser.open(write_page(run, tmp_path).as_uri())
        assert browser.js("document.querySelectorAll('.tile').length") > 3
        assert not browser.js(
            "[...document.querySelectorAll('.tile, .card, .lead, h3, figcaption, .caption p')]"
            ".filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent.slice(0, 60))"
        )
        assert browser.js("document.documentElement.scrollWidth <= innerWidth")
        assert (
            browser.js("Math.max(...[...document.querySelectorAll('.card')].map((c) => c.offsetHeight))") < 1000
        )
        assert browser.problems == []


@pytest.fixture
def own_page(make_run: MakeRun, tmp_path: Path) -> Path:
    """A report with everything on it: two rounds, boxes and all captions, and pictures of odd shapes."""
    run = make_run(2, num_samples=12, num_shards=1, num_questions=20)
    run.write_recaption(2, text="كلب بني صغير على طول شارع مبلل. " * 60)
    return write_page(run, tmp_path)


SIZES = [(1280, 900), (390, 844)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_link_lands_at_its_section(own_page: Path, tmp_path: Path, width: int, height: int) -> None:
    with chromium(tmp_path / "profile") as browser:
        browser.open(own_page.as_uri(), width=width, height=height)
        links = browser.js("[...document.querySelectorAll('nav a')].map((a) => a.hash)")
        assert len(links) > 7
        for link in links:
            browser.js(f"scrollTo(0, 0); document.querySelector('nav a[href=\"{link}\"]').click()")
            top = browser.js(f"document.querySelector('{link} h2').getBoundingClientRect().top")
            assert 0 <= top <= 20, link
        assert browser.js("document.querySelector('#settings details').open")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_overlaps_and_what_scrolls_says_so(
    own_page: Path, tmp_path: Path, width: int, height: int
) -> None:
    with chromium(tmp_path / "profile") as browser:
        browser.open(own_page.as_uri(), width=width, height=height)
        assert browser.js("document.documentElement.scrollWidth <= innerWidth")
        assert not browser.js(
            "[...document.querySelectorAll('.tile, .tile p')]"
            ".filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent)"
        )
        boxes = browser.js(
            "[...document.querySelectorAll('.scroll, .columns, .caption p, pre, .strip')].map((box) => "
            "[box.scrollWidth > box.clientWidth + 1, box.scrollHeight > box.clientHeight + 1, box.tabIndex, "
            "box.matches('.goes-right, .goes-below'), box.className])"
        )
        scrolling = [box for box in boxes if box[0] or box[1]]
        assert scrolling
        assert all(box[2] == 0 and box[3] for box in scrolling), scrolling
        assert any(box[4].startswith("scroll") and box[0] for box in scrolling) or width > 1000
        hint = "document.querySelector('.headline').closest('.scroll').nextElementSibling.hidden"
        is_wide = browser.js(
            "(({scrollWidth: a, clientWidth: b}) => a > b)(document.querySelector('#rounds .scroll'))"
        )
        assert browser.js(hint) is not is_wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(own_page: Path, tmp_path: Path, scheme: str) -> None:
    with chromium(tmp_path / "profile") as browser:
        browser.prefer(scheme)
        for width, height in SIZES:
            browser.open(own_page.as_uri(), width=width, height=height)
            browser.js("document.querySelector('#settings details').open = true")
            assert serious(browser) == []


def test_the_page_s_colours_have_contrast() -> None:
    """Every colour of text on every ground that it stands on, which axe does not see in drawings."""
    style = files("vila2cli.report").joinpath("templates/style.css.j2").read_text()
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style.partition(":root {")[2].partition("}")[0]))
    dark = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style.partition(":root {")[0]))
    for colours in (light, dark):
        words = [name for name in colours if re.fullmatch(r"c\d|ink|soft|accent", name)]
        assert len(words) == 9
        for word in words:
            grounds = ("paper", "right-bg", "wrong-bg", "raised") if word in ("ink", "soft") else ("paper",)
            assert all(contrast(colours[word], colours[ground]) >= 4.5 for ground in grounds), word


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)
