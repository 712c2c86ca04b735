"""People as judges: the page in a real browser, the answers read back, and agreement with other judges."""

import io
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageDraw

from browser import chromium
from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation
from vila2cli.stages.people import agree, collect, import_judgements, write_page

NUM_SAMPLES = 6
HOSTILE = (
    "</script><script>alert('script')</script><img src=x onerror=alert('img')>",
    "<svg onload=alert('svg')> {{ 7 * 7 }} ${alert(1)} <!--<script>",
    "\u202edesrever\u202c \x1b[31mred <a href='javascript:alert(2)'>click</a> & &lt;b&gt;",
)


def recipe(*sets):
    return load_recipe(None, ["judge.judges=oracle", *sets])


def picture(number):
    image = Image.new("RGB", (320, 240), "#e8f0f4")
    draw = ImageDraw.Draw(image)
    draw.ellipse((40 + 20 * number, 60, 120 + 20 * number, 140), fill="#c0392b")
    draw.rectangle((180, 120, 290, 210), fill="#2c6e49")
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()


def caption(number):
    return HOSTILE[number] if number < len(HOSTILE) else f"A red disc left of a green box, number {number}."


@pytest.fixture
def layers(tmp_path):
    return write_layers(tmp_path)


def write_layers(tmp_path, caption=caption):
    base = tmp_path / "base"
    with TarWriter(base / "000000.tar") as tar:
        for number in range(NUM_SAMPLES):
            members = {"jpg": picture(number), "txt": f"alt-text {number}".encode()}
            tar.write_sample(f"{number:03d}", members)
    source = open_source([str(base)])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with writer.shard(source.shards[0]) as out:
        for sample in out.samples():
            text = caption(int(sample.key))
            out.annotate(sample, Annotation(layer="recaption", kind="caption", text=text))
    writer.finish()
    return ["alt-text", str(tmp_path / "r1")]


def answer_file(folder, name, choose, *, leave_out=(), page="people"):
    """Answers as the page exports them: `choose` is told which layer stands left, and the sample."""
    key = json.loads((folder / page / "key.json").read_text())
    answers = [
        {"pair": one["id"], "choice": choose(one), "seconds": 1.0}
        for one in key["pairs"]
        if one["key"] not in leave_out
    ]
    value = {"format": "vila2-judge-answers-1", "page": key["page"], "judge": name, "answers": answers}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(value))
    return path


def side_of(layer):
    return lambda one: "left" if one["left"] == layer else "right"


def assert_alone_and_inert(browser, page):
    """The page asks for nothing beside itself, and nothing in its captions became a part of it."""
    assert browser.dialogs == []
    assert browser.problems == []
    assert {urlsplit(url).scheme for url in browser.requests} <= {"file", "data", "blob"}
    assert {url for url in browser.requests if url.startswith("file:")} == {page.as_uri()}
    inert = "document.querySelectorAll('script, img, svg, a').length"
    assert browser.js(inert) == 4  # two scripts and two images, all the page's own


def judge_all_six(browser):
    """Answer, skip, take back and reload, as a person does, until the answers are exported."""
    shown = []
    browser.type("Ada L.")
    browser.press("Enter")
    current = "document.getElementById('left').innerText + '|' + document.getElementById('right').innerText"
    count = "document.getElementById('count').textContent"
    browser.press(" ")  # reads on in captions that are too long, and answers nothing
    assert browser.js(count) == "0 of 6 judged"
    assert browser.js("document.getElementById('image').naturalWidth") == 320

    for step in ("ArrowLeft", "t", "s"):  # the third is skipped and comes again at the end
        shown.append(browser.js(current))
        browser.press(step)
    assert browser.js(count) == "2 of 6 judged"
    browser.press("u")
    browser.press("u")
    assert (browser.js(count), browser.js(current)) == ("1 of 6 judged", shown[1])
    browser.press("ArrowUp")
    browser.press("s")
    fourth = browser.js(current)
    browser.reload()
    assert (browser.js(count), browser.js(current)) == ("2 of 6 judged", fourth)

    browser.click("[data-choice='right']")
    browser.press("b")
    browser.press("ArrowRight")
    assert browser.js(current) == shown[2]
    browser.press("z")
    assert browser.js("document.getElementById('zoom').open")
    browser.press("ArrowLeft")  # no answer while the image is looked at
    browser.press("z")
    browser.press("ArrowDown")
    browser.wait("!document.getElementById('end').hidden")
    browser.press("e")


def test_a_person_judges_in_a_browser(layers, tmp_path):
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    key = {one["id"]: one for one in json.loads((tmp_path / "people/key.json").read_text())["pairs"]}
    page = tmp_path / "sent" / "judge.html"
    page.parent.mkdir()
    (tmp_path / "people/judge.html").rename(page)
    with chromium(tmp_path / "profile") as browser:
        browser.download_to(tmp_path)
        browser.open(page.as_uri())
        judge_all_six(browser)
        exported = wait_for(tmp_path, "answers-ada-l-*.json")
        assert_alone_and_inert(browser, page)

    value = json.loads(exported.read_text())
    assert value["judge"] == "Ada L."
    choices = {one["pair"]: one["choice"] for one in value["answers"]}
    assert choices.keys() == key.keys()
    assert sorted(choices.values()) == ["both-bad", "both-bad", "left", "right", "right", "tie"]
    summary = collect(
        recipe(), answers=[exported], page=tmp_path / "people", out=tmp_path / "verdicts"
    ).to_json()
    figures = summary["judges"]["ada-l"]
    is_left = {pair: one["left"] == one["layer"] for pair, one in key.items()}
    wins = sum(
        choice in ("left", "right") and (choice == "left") == is_left[pair] for pair, choice in choices.items()
    )
    assert (figures["wins"], figures["losses"], figures["ties"]) == (wins, 3 - wins, 3)
    assert figures["position_bias"] == pytest.approx(1 / 3)


def wait_for(folder, pattern):
    """A file that the browser is about to finish downloading."""
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        if found := [path for path in folder.glob(pattern) if path.stat().st_size]:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} was downloaded")


def test_captions_reach_the_page_as_text(layers, tmp_path):
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    page = tmp_path / "people/judge.html"
    html = page.read_text()
    assert "alert('script')</script>" not in html
    assert "<svg onload" not in html
    with chromium(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        browser.js("document.getElementById('name').value = 'x'")
        browser.js("document.getElementById('who').requestSubmit()")
        seen = set()
        for _ in range(NUM_SAMPLES):
            seen |= {
                browser.js(f"document.querySelector('#{side} p').textContent.trim()")
                for side in ("left", "right")
            }
            browser.press("ArrowLeft")
        assert browser.dialogs == []
        assert browser.problems == []
    assert {HOSTILE[0], HOSTILE[1]} <= seen
    assert "\\u202edesrever\\u202c \\x1b[31mred <a href='javascript:alert(2)'>click</a> & &lt;b&gt;" in seen


def test_half_a_character_in_a_layer_is_shown_as_one(tmp_path):
    layers = write_layers(tmp_path, caption=lambda number: f"half \ud800 of one, number {number}")
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    assert "half \\ufffd of one, number 3" in (tmp_path / "people" / "judge.html").read_text()


def test_the_page_does_not_say_whose_captions_are_where(layers, tmp_path):
    first = write_page(recipe(), layers=layers, out=tmp_path / "people").to_json()
    html = (tmp_path / "people/judge.html").read_text()
    assert 'alt-text"' not in html
    assert str(tmp_path) not in html
    assert "recaption" not in html
    key = json.loads((tmp_path / "people/key.json").read_text())
    assert {one["left"] for one in key["pairs"]} == set(layers)
    assert first["pairs"] == len(key["pairs"]) == NUM_SAMPLES
    write_page(recipe(), layers=layers, out=tmp_path / "again")
    assert (tmp_path / "again/judge.html").read_text() == html
    write_page(recipe("seed=1"), layers=layers, out=tmp_path / "other")
    other = json.loads((tmp_path / "other/key.json").read_text())
    assert not {one["id"] for one in other["pairs"]} & {one["id"] for one in key["pairs"]}


def test_images_may_lie_beside_the_page(layers, tmp_path):
    write_page(recipe(), layers=layers, out=tmp_path / "people", images_apart=True)
    assert len(list((tmp_path / "people/images").glob("*.jpg"))) == NUM_SAMPLES
    page = tmp_path / "people/judge.html"
    assert "base64" not in page.read_text()
    with chromium(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        browser.js("document.getElementById('name').value = 'x'")
        browser.js("document.getElementById('who').requestSubmit()")
        browser.wait("document.getElementById('image').naturalWidth === 320")
        assert browser.problems == []


def test_another_page_does_not_replace_the_key(layers, tmp_path):
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    with pytest.raises(DataError, match="is the key of another page"):
        write_page(recipe("seed=1"), layers=layers, out=tmp_path / "people")


def test_answers_are_collected_with_the_agreement_of_people(layers, tmp_path):
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    r1 = layers[1]
    files = [
        answer_file(tmp_path, "ada", side_of(r1)),
        answer_file(tmp_path, "bob", lambda one: "tie" if one["key"] == "000" else side_of(r1)(one)),
        answer_file(tmp_path, "cy", side_of("alt-text"), leave_out=("004", "005")),
    ]
    summary = collect(recipe(), answers=files, page=tmp_path / "people", out=tmp_path / "verdicts").to_json()
    figures = summary["judges"]
    assert (figures["ada"]["wins"], figures["bob"]["wins"], figures["cy"]["losses"]) == (6, 5, 4)
    assert summary["unjudged_reasons"] == {"cy": {"not-answered": 2}}
    pair = summary["pairs"][0]
    assert [one["judges"] for one in pair["agreement"]] == [["ada", "bob"], ["ada", "cy"], ["bob", "cy"]]
    assert pair["agreement"][0]["same"] == pytest.approx(5 / 6)
    assert pair["all_judges"]["num_judged_by_all"] == 4
    assert pair["all_judges"]["krippendorff_alpha"] < 0
    model = agree(recipe(), tmp_path / "verdicts/people", tmp_path / "verdicts/ada").to_json()
    assert model["pairs"][0]["agreement"][0]["same"] == pytest.approx(5 / 6)  # ada, a tie and cy tie on 000


def test_equal_captions_are_a_tie_of_everybody_and_not_on_the_page(tmp_path):
    layers = write_layers(tmp_path, lambda number: "alt-text 4" if number == 4 else caption(number))
    found = write_page(recipe(), layers=layers, out=tmp_path / "people")
    assert (found.pairs, found.ties_of_equal_captions) == (NUM_SAMPLES - 1, 1)
    assert "alt-text 4" not in (tmp_path / "people/judge.html").read_text()
    files = [answer_file(tmp_path, name, side_of(layers[1])) for name in ("ada", "bob")]
    summary = collect(recipe(), answers=files, page=tmp_path / "people", out=tmp_path / "verdicts").to_json()
    for name in ("ada", "bob", "people"):
        verdicts = [
            json.loads(line)
            for line in (tmp_path / "verdicts" / name / "verdicts.jsonl").read_text().splitlines()
        ]
        outcomes = {one["key"]: one["outcome"] for one in verdicts}
        assert outcomes == {f"{n:03d}": "tie" if n == 4 else "win" for n in range(NUM_SAMPLES)}
    assert (summary["judges"]["ada"]["num_pairs"], summary["judges"]["ada"]["equal"]) == (NUM_SAMPLES, 1)
    assert summary["judges"]["ada"]["win_rate"]["value"] == pytest.approx(5.5 / 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"page": "x"}, "answers another page"),
        ({"format": "y"}, "holds no answers"),
        ({"answers": [{"pair": "0", "choice": "left"}]}, "answers no pair of this page"),
        ({"answers": ["left"]}, "answers no pair of this page"),
    ],
)
def test_answers_that_do_not_fit_are_refused(layers, tmp_path, change, message):
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    path = answer_file(tmp_path, "ada", side_of(layers[1]))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        collect(recipe(), answers=[path], page=tmp_path / "people", out=tmp_path / "verdicts")


def test_a_person_is_counted_once_and_named_safely(layers, tmp_path):
    write_page(recipe(), layers=layers, out=tmp_path / "people")
    path = answer_file(tmp_path, "x", side_of(layers[1]))
    path.write_text(json.dumps({**json.loads(path.read_text()), "judge": "../../Étienne"}))
    collect(recipe(), answers=[path], page=tmp_path / "people", out=tmp_path / "verdicts")
    assert [one.name for one in (tmp_path / "verdicts").iterdir() if one.is_dir()] == ["étienne"]
    with pytest.raises(DataError, match="is in another file, too"):
        collect(recipe(), answers=[path, path], page=tmp_path / "people", out=tmp_path / "verdicts")


def test_people_and_a_judge_are_compared_on_the_command_line(layers, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["judge", "--human", "--layers", *layers, "--out", "people"]) == 0
    files = [answer_file(tmp_path, name, side_of(layers[1])) for name in ("ada", "bob")]
    assert main(["judge", "collect", *map(str, files), "--page", "people"]) == 0
    out = capsys.readouterr().out
    assert "ada and bob kappa -, the same in 100 % of 6" in out
    assert main(["judge", "agreement", "people/verdicts/ada", "people/verdicts/bob"]) == 0
    assert "the same in 100 % of 6" in capsys.readouterr().out
    assert main(["judge", "agreement", "people", "people/verdicts"]) == 4


SXS = {
    "metrics/Comprehensiveness": "IIW is substantially better",
    "metrics/First few line(s) as tldr": "Neutral",
    "metrics/Hallucination": "DOCCI is marginally better",
    "metrics/Human Like": "IIW is marginally better",
    "metrics/Specificity": "IIW is marginally better",
}


def test_published_human_judgements_are_imported(tmp_path):
    folder = tmp_path / "DOCCI_Test"
    folder.mkdir()
    records = [
        {"image": "a", "IIW": "A long and good caption.", "DOCCI": "A caption.", **SXS},
        {"image": "b", "IIW": "Words.", "DOCCI": "Other words.", **SXS, "metrics/Hallucination": "Neutral"},
    ]
    data = folder / "data.jsonl"
    data.write_text("\n".join(json.dumps(one) for one in records))
    summary = import_judgements(recipe(), files=[data], out=tmp_path / "people").to_json()
    (pair,) = summary["pairs"]
    assert (pair["layer"], pair["against"]) == ("IIW", "DOCCI")
    assert pair["judges"]["people-hallucination"]["losses"] == 1
    assert pair["judges"]["people-comprehensiveness"]["length_bias"] == 0.5
    data.write_text(json.dumps({**records[0], "metrics/Human Like": "GPT-4V is marginally better"}))
    with pytest.raises(DataError, match="is no comparison of IIW and DOCCI"):
        import_judgements(recipe(), files=[data], out=tmp_path / "people")


def test_a_judge_of_the_same_captions_is_held_against_published_ones(layers, tmp_path):
    folder = tmp_path / "DOCCI_Test"
    folder.mkdir()
    (folder / "data.jsonl").write_text(
        "\n".join(json.dumps({"image": f"{n:03d}", "IIW": "a", "DOCCI": "b", **SXS}) for n in range(4))
    )
    import_judgements(recipe(), files=[folder / "data.jsonl"], out=tmp_path / "published")
    verdicts = Path(tmp_path / "mine")
    verdicts.mkdir()
    lines = [
        {
            "shard": "000000",
            "key": f"{n:03d}",
            "image_sha256": "",
            "layer": "layers/DOCCI",
            "against": "layers/IIW",
            "judge": "model",
            "outcome": "loss" if n < 3 else "win",
            "num_words": [1, 1],
            "answers": ["B", "A"],
        }
        for n in range(4)
    ]
    (verdicts / "verdicts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = agree(recipe(), tmp_path / "published", verdicts).to_json()
    same = {one["judges"][0]: one["same"] for one in found["pairs"][0]["agreement"]}
    assert same["people-comprehensiveness"] == 0.75
    assert same["people-hallucination"] == 0.25
