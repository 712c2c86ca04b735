"""The page for people on windows of all sizes: where the picture and long captions are, and what axe finds."""

import pytest
from PIL import Image
from test_people import NUM_SAMPLES, recipe, write_layers

from browser import chromium, serious
from vila2cli.image import shrink
from vila2cli.stages.people import write_page

LONG = "A woman in a red coat walks a small dog along a wet street while a tram passes. "
BEGIN = "document.getElementById('name').value = 'x'; document.getElementById('who').requestSubmit()"
PICTURE = (
    "(({width, height, top}) => [width, height, top])"
    "(document.getElementById('picture').getBoundingClientRect())"
)


def test_long_captions_leave_the_picture_its_place_and_say_that_they_go_on(tmp_path):
    layers = write_layers(tmp_path, lambda number: LONG * 3 * 4 ** (number % 4))
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    more = "['left', 'right'].map((side) => !document.querySelector(`#${side} .more`).hidden)"
    hidden = (
        "['left', 'right'].map((side) => document.querySelector(`#${side} .text`))"
        ".map((box) => box.scrollHeight - box.clientHeight > 1)"
    )
    with chromium(tmp_path / "profile") as browser:
        browser.open((tmp_path / "people/judge.html").as_uri(), width=1280, height=800)
        browser.js(BEGIN)
        seen = set()
        for _ in range(NUM_SAMPLES):
            width, height, _ = browser.js(PICTURE)
            assert width * height >= 0.45 * 1280 * 800
            assert browser.js("document.documentElement.scrollHeight <= innerHeight")
            assert browser.js(more) == browser.js(hidden)
            seen.add(any(browser.js(more)))
            for _ in range(60):  # reads on to the end, where nothing is said any more
                if not any(browser.js(more)):
                    break
                browser.press(" ")
                browser.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert not any(browser.js(more))
            browser.press("ArrowLeft")
        assert seen == {True, False}
        assert browser.problems == []


def test_on_a_phone_every_pair_opens_at_its_top_and_is_tapped(tmp_path):
    layers = write_layers(tmp_path, lambda number: LONG * 9 + str(number))
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    shown = "['.keys', '.taps'].map((name) => getComputedStyle(document.querySelector(name)).display)"
    with chromium(tmp_path / "profile") as browser:
        page = (tmp_path / "people/judge.html").as_uri()
        browser.open(page, width=1280, height=800)
        assert browser.js(shown) == ["grid", "none"]
        browser.prefer("light", touch=True)
        browser.open(page, width=1280, height=800)
        assert browser.js(shown) == ["none", "block"]
        browser.open(page, width=390, height=844)
        start = browser.js("document.getElementById('begin').innerText")
        assert "Tap the image" in start
        assert not any(key in start for key in ("←", "Space", "Enter"))
        browser.js(BEGIN)
        for _ in range(3):
            assert browser.js("document.documentElement.scrollWidth <= innerWidth")
            browser.js("scrollTo(0, document.body.scrollHeight)")
            assert browser.js("scrollY") > 300
            browser.click("[data-choice='right']")
            assert browser.js("scrollY") == 0
            assert 0 <= browser.js(PICTURE)[2] < 200
        browser.js("scrollTo(0, document.body.scrollHeight)")
        browser.reload()
        assert browser.js("scrollY") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(tmp_path, scheme):
    layers = write_layers(tmp_path, lambda number: LONG * 20)
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    with chromium(tmp_path / "profile") as browser:
        browser.prefer(scheme)
        browser.open((tmp_path / "people/judge.html").as_uri(), width=1280, height=800)
        assert serious(browser) == []
        browser.js(BEGIN)
        assert serious(browser) == []
        for _ in range(NUM_SAMPLES):
            browser.press("ArrowLeft")
        assert browser.js("!document.getElementById('end').hidden")
        assert serious(browser) == []


def test_a_strip_keeps_enough_pixels_to_be_seen():
    """A panorama of 5000 x 300 is wider than other pictures on the page, and no finer."""
    sizes = {}
    for size in ((5000, 300), (300, 5000), (4000, 3000), (320, 240), (9000, 3)):
        image = Image.new("RGB", size)
        shrink(image, 1024, 256)
        sizes[size] = image.size
    assert sizes[5000, 300][0] == 4096
    assert sizes[300, 5000][1] == 4096
    assert (sizes[4000, 3000], sizes[320, 240]) == ((1024, 768), (320, 240))
    assert sizes[9000, 3][0] == 4096
