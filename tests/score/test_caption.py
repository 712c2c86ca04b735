import pytest

from vila2cli.errors import DataError
from vila2cli.score.caption import (
    FACTS,
    FactCount,
    count_facts,
    slot_balance,
    stated_facts,
    true_facts,
)
from vila2cli.score.scorer import Reference, Vocabulary

VOCABULARY = Vocabulary(
    size=("small", "large"),
    colour=("red", "blue", "green"),
    shape=("circle", "square", "star"),
    place=("top left", "top right", "bottom left", "bottom right"),
)
SCENE = {
    "objects": [
        {"size": "large", "colour": "red", "shape": "circle", "place": "top left", "box": [1, 2, 3, 4]},
        {"size": "small", "colour": "blue", "shape": "square", "place": "bottom right", "box": [5, 6, 7, 8]},
    ],
    "text": {"word": "KAB", "place": "top right", "box": [1, 2, 3, 4]},
}
RED = ("large", "red", "circle", "top left")
BLUE = ("small", "blue", "square", "bottom right")
WORD = ("KAB", "top right")
TRUE_CAPTION = (
    "The image shows two objects and a word. There is a large red circle at the top left. "
    'There is a small blue square at the bottom right. The word "KAB" is written at the top right.'
)


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        (TRUE_CAPTION, {RED, BLUE, WORD}),
        ("", set()),
        ("A picture of two objects.", set()),
        ("There is a Large RED circle at the top left.", {RED}),
        ("There is a large, red circle at the top left.", {RED}),
        ("At the top left, there is a large red circle.", {RED}),
        ("There is a large red circle at the top left. There is a large red circle at the top left.", {RED}),
        ("large red circle at the top left and small blue square at the bottom right", {RED, BLUE}),
        ("Red circle and blue square print", {(None, "red", "circle", None), (None, "blue", "square", None)}),
        ('a red circle at the top left and "KAB"', {(None, "red", "circle", "top left"), ("KAB", None)}),
        ("The text “KAB” is written at the top right.", {WORD}),
        ('The word "kab." is at the top right.', {("kab", "top right")}),
        ("Two circles and stars everywhere.", set()),
        ("a large red blue circle at the top left near the top right", {RED}),
        ("no end. There is a large red circle at the top", {("large", "red", "circle", None)}),
    ],
)
def test_facts_are_read_clause_by_clause(caption, facts):
    assert stated_facts(caption, VOCABULARY) == facts


def test_true_facts_come_from_objects_and_text():
    assert true_facts(SCENE) == {RED, BLUE, WORD}
    assert true_facts({"objects": SCENE["objects"], "text": None}) == {RED, BLUE}


def test_a_scene_without_a_slot_is_an_error():
    with pytest.raises(DataError, match="'place'"):
        true_facts({"objects": [{"size": "small", "colour": "red", "shape": "star"}]})


@pytest.mark.parametrize(
    ("caption", "count"),
    [
        (TRUE_CAPTION, FactCount(right=3, stated=3, true=3, incomplete=0)),
        ("", FactCount(right=0, stated=0, true=3, incomplete=0)),
        (
            "A large red circle at the bottom left. A red circle.",
            FactCount(right=0, stated=2, true=3, incomplete=1),
        ),
        ("A large blue circle.", FactCount(right=0, stated=1, true=3, incomplete=0)),
        ('"KAB"', FactCount(right=0, stated=1, true=3, incomplete=1)),
    ],
)
def test_an_incomplete_fact_is_not_right_but_contradicts_nothing(caption, count):
    assert count_facts(caption, SCENE, VOCABULARY) == count


def test_contradicted_facts_are_neither_right_nor_incomplete():
    count = count_facts("A large green circle at the top left. A red circle.", SCENE, VOCABULARY)
    assert (count.stated, count.right, count.incomplete, count.contradicted) == (2, 0, 1, 1)


@pytest.mark.parametrize(
    ("caption", "balance"),
    [
        (TRUE_CAPTION, 4 + 4 + 2),
        ("", 0),
        ("Home page | Gallery", 0),
        ("A red circle.", 2),
        ("A small red circle at the top left.", 3 - 1),
        ("A small blue square at the top left.", 3 - 1),
        ("A large green star.", 1 - 2),
        ("A red circle. A large red circle at the top left.", 4 + 0 - 2),
        ('The word "KAB" at the top left.', 1 - 1),
        ('"KAB" and "KAB" at the top right', 2 - 1),
        ('A green star. "XYZ"', 0 - 2 - 1),
    ],
)
def test_right_slots_minus_wrong_ones_each_thing_once(caption, balance):
    assert slot_balance(caption, SCENE, VOCABULARY) == balance


def test_scores_of_one_caption():
    caption = "There is a large red circle at the top left. There is a small red star at the top right."
    row = FACTS.score(caption, Reference(scene=SCENE, vocabulary=VOCABULARY))
    assert row["precision"] == 0.5
    assert row["recall"] == pytest.approx(1 / 3)
    assert row["score"] == pytest.approx(0.4)
    assert (row["right"], row["stated"], row["true"], row["num_words"]) == (1, 2, 3, 20)


def test_nothing_stated_has_precision_zero():
    row = FACTS.score("nothing", Reference(scene=SCENE, vocabulary=VOCABULARY))
    assert (row["precision"], row["recall"], row["score"]) == (0, 0, 0)


def test_a_caption_task_needs_a_vocabulary():
    with pytest.raises(DataError, match=r"\[vocabulary\]"):
        FACTS.score("", Reference(scene=SCENE))
