"""Marking of captions: what is new, what is right, and that no character is lost."""

import pytest

from vila2cli.report.captions import mark_spans
from vila2cli.score.scorer import Vocabulary
from vila2cli.world.scenes import VOCABULARY

WORDS = Vocabulary(**VOCABULARY)

SCENE = {
    "objects": [
        {"size": "large", "colour": "red", "shape": "circle", "place": "top left"},
        {"size": "small", "colour": "blue", "shape": "star", "place": "bottom right"},
    ],
    "text": {"word": "KAB", "place": "top right"},
}
RIGHT = "There is a large red circle at the top left."
WRONG = "There is a small green star at the bottom right."


def test_facts_are_marked_sentence_by_sentence() -> None:
    spans = mark_spans(f"The image shows two objects. {RIGHT} {WRONG}", None, SCENE, WORDS)
    assert [(span.text, span.style) for span in spans if span.text.strip()] == [
        ("The image shows two objects.", ""),
        (RIGHT, "right"),
        (WRONG, "wrong"),
    ]


def test_two_facts_in_a_sentence_are_marked_apart() -> None:
    text = 'A large red circle at the top left and the word "XYZ" at the top right, a star.'
    styles = [span.style for span in mark_spans(text, None, SCENE, WORDS)]
    assert [style for style in styles if style] == ["right", "wrong", "vague"]


def test_changed_words_are_marked_with_the_gaps_between_them() -> None:
    spans = mark_spans("a big blue star here", "a red star here", None, None)
    assert [(span.text, span.style) for span in spans] == [("a ", ""), ("big blue", "new"), (" star here", "")]


def test_first_caption_has_nothing_new() -> None:
    assert [span.style for span in mark_spans("a red star", None, None, None)] == [""]


@pytest.mark.parametrize("text", ["", " ", "a\n\nb. c!  d", f"{RIGHT}\n{WRONG} x", "star, and , circle;"])
@pytest.mark.parametrize("earlier", [None, "", "a b c star"])
def test_no_character_is_lost(text: str, earlier: str | None) -> None:
    for scene in (None, SCENE):
        spans = mark_spans(text, earlier, scene, WORDS)
        assert "".join(span.text for span in spans) == text
