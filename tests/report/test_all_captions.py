"""Ten thousand images on one page, searched and leafed through in a real browser."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from browser import chromium
from vila2cli.report import build_page, render_page
from vila2cli.report.all_captions import ImageCaptions, caption_list

OWN = "document.title = 'owned'"
HOSTILE = f'</script><script>{OWN}</script><img src=x onerror="{OWN}"> \x1b[2J'


def captions(number: int) -> ImageCaptions:
    """Three rounds that say more each time; every hundredth image was rejected once."""
    said = f"A photo of dog number {number} on the grass"
    rejects = {2: "refusal: I cannot see"} if number % 100 == 0 else {}
    texts = {0: f"dog {number}", 1: said, 2: f"{said} near a fence", 3: f"{said} near a tall red fence"}
    return ImageCaptions(f"{number:06d}", texts if number != 7 else {0: HOSTILE, 1: HOSTILE}, rejects)


def test_ten_thousand_images_are_searched_a_few_at_a_time(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run(0)
    listed = caption_list([captions(number) for number in range(10_000)], [1, 2, 3])
    path = tmp_path / "report.html"
    path.write_text(render_page(replace(build_page(run.recipe(), run.run_dir), all_captions=listed)))
    with chromium(tmp_path / "profile") as browser:
        browser.open(path.as_uri())
        rows = "document.querySelectorAll('#all-rows tr').length"
        shown = "document.getElementById('all-shown').textContent"
        assert (browser.js(rows), browser.js(shown)) == (25, "1 to 25 of 10000")
        browser.js("document.getElementById('all-on').click()")
        assert browser.js(shown) == "26 to 50 of 10000"
        marked = "[...document.querySelector('#all-rows tr').querySelectorAll('.new')].map(m => m.textContent)"
        assert browser.js(marked) == ["near", "a", "fence", "tall", "red"]
        browser.js("document.getElementById('all-search').focus()")
        browser.type("FENCE 1234")
        browser.wait(f"{shown} === '1 to 1 of 1'")
        assert browser.js("document.querySelector('#all-rows th').textContent") == "001234"
        browser.js("document.getElementById('all-search').value = ''")
        chosen = "document.getElementById('all-filter')"
        changed = f"{chosen}.dispatchEvent(new Event('change'))"
        browser.js(f"{chosen}.value = 'rejected'; {changed}")
        assert browser.js(shown) == "1 to 25 of 100"
        browser.js(f"{chosen}.value = 'differ'; {changed}")
        assert browser.js(shown) == "1 to 25 of 9999"
        browser.js("document.getElementById('all-search').focus()")
        browser.type("nothing says this")
        browser.wait(f"{shown} === 'none found'")
        assert browser.js("document.title").startswith("world")
        assert browser.problems == []


def test_hostile_captions_are_text_in_the_list(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run(0)
    path = tmp_path / "report.html"
    listed = caption_list([captions(7)], [1])
    path.write_text(render_page(replace(build_page(run.recipe(), run.run_dir), all_captions=listed)))
    with chromium(tmp_path / "profile") as browser:
        browser.open(path.as_uri())
        cell = browser.js("document.querySelectorAll('#all-rows td')[1].textContent")
        assert cell.split() == HOSTILE.replace("\x1b", "\\x1b").split()
        assert browser.js("document.title").startswith("world")
        assert browser.js("document.querySelectorAll('#all-rows img').length") == 0
        assert browser.problems == []


def test_four_rounds_stand_side_by_side_and_drift_has_small_print(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    """No heading runs into the next column, none is cut off, and the intervals are on the page."""
    run = make_run(-1, skills=(0.1,) * 4, num_shards=1)
    for number in (1, 2, 3, 4):
        run.write_recaption(number)
    path = tmp_path / "report.html"
    path.write_text(render_page(build_page(run.recipe(), run.run_dir)))
    with chromium(tmp_path / "profile") as browser:
        browser.open(path.as_uri())
        headings = "[...document.querySelectorAll('.card:first-child .caption h4, .card:first-child .columns')]"
        assert browser.js(f"{headings}.length") == 6
        assert browser.js(f"{headings}.filter(one => one.scrollWidth > one.clientWidth).length") == 0
        small = browser.js("[...document.querySelectorAll('#drift td small')].map(one => one.textContent)")
        assert len(small) == 2 + 4 * 4  # the alt-text inherits nothing
