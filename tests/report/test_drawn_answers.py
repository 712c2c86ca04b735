"""Answers with boxes on the pictures they are about."""

import base64
import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from vila2cli.report import build_page, render_page
from vila2cli.report.boxed_answers import MAX_SHOWN, boxed_answers
from vila2cli.report.json_reader import JsonReader
from vila2cli.shards import open_layer, open_source
from vila2cli.shards.sample import Annotation, Turn

ANSWER = "<b>A star</b> [250,250,750,750] and a \x1b[31mcircle [000,000,100,100], not [9,9,1,1]."


def write_answers(run: Any, answer: str) -> None:
    source = open_source([str(run.base_dir)])
    layer = open_layer(run.run_dir / "specialists" / "grounding" / "relabel", layer="grounding", source=source)
    turns = (Turn("user", "Where is what?"), Turn("assistant", answer))
    for shard in source.shards:
        with layer.shard(shard) as writing:
            for sample in writing.samples():
                writing.annotate(sample, Annotation(layer="grounding", kind="turns", turns=turns))


def test_a_few_answers_are_shown_with_their_boxes_drawn(make_run: Callable[..., Any]) -> None:
    run = make_run(0)
    write_answers(run, ANSWER)
    found = boxed_answers(run.run_dir, JsonReader(run.run_dir))
    assert len(found) == MAX_SHOWN
    for one in found:
        picture = Image.open(io.BytesIO(base64.b64decode(one.picture.url.partition(",")[2]))).convert("RGB")
        assert picture.size == (one.picture.width, one.picture.height)
        left, middle = round(0.25 * picture.width), picture.height // 2
        edge = [picture.getpixel((x, middle)) for x in range(left - 2, left + 3)]
        assert any(red - green > 80 for red, green, _ in edge), edge
        assert "\\x1b[31m" in one.answer
    html = render_page(build_page(run.recipe(), run.run_dir))
    assert "&lt;b&gt;A star" in html
    assert "<b>A star" not in html


def test_answers_without_boxes_are_not_shown(make_run: Callable[..., Any]) -> None:
    run = make_run(0)
    write_answers(run, "nothing there [9,9,1,1]")
    assert boxed_answers(run.run_dir, JsonReader(run.run_dir)) == []
    assert 'id="boxes"' not in render_page(build_page(run.recipe(), run.run_dir))
