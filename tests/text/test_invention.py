"""What a merged caption may not say: numbers, names, words and facts of neither source."""

from random import Random

import pytest

from vila2cli.text.invention import inventions
from vila2cli.world.sayings import alt_text, caption, corrupted_caption
from vila2cli.world.scenes import draw_scene

ORIGINAL = "Golden Gate Bridge 1937 - SF trip w/ 2 friends, iPhone 12"
RECAPTION = "A large red bridge spans the blue water. Three people stand near a black car, smiling."


@pytest.mark.parametrize(
    ("merged", "kind"),
    [
        ("Two friends stand near the red Golden Gate Bridge, which spans the water.", None),
        ("The Golden Gate Bridge of 1937, spanning the blue water, with a black car.", None),
        ("Three people, smiling, are standing near a black car.", None),
        ("A photo showing 3 people on a trip to SF.", None),
        ("The Golden Gate Bridge was opened in 1936.", "new-number"),
        ("Four people stand near a car.", "new-number"),
        ("The Golden Gate Bridge in California spans the water.", "new-name"),
        ("Tourists stand near the bridge.", "new-name"),
        ("Three people stand near a dog.", "new-words"),
        ("A large blue bridge spans the red water.", "new-fact"),
        ("A black bridge spans the water.", "new-fact"),
        ("Two people stand near a car.", "new-fact"),
    ],
)
def test_kinds(merged: str, kind: str | None) -> None:
    assert inventions(merged, [ORIGINAL, RECAPTION]).kind() == kind


def test_a_recipe_forgives_words_but_no_numbers_names_or_facts() -> None:
    sources = [ORIGINAL, RECAPTION]
    found = inventions("Three happy people stand beneath a red bridge.", sources)
    assert found.words == ("happy", "beneath")
    assert found.kind(1) == "new-words"
    assert found.kind(2) is None
    assert inventions("Three people stand near Alcatraz.", sources).kind(9) == "new-name"
    assert inventions("Seven people stand near a car.", sources).kind(9) == "new-number"


@pytest.mark.parametrize(
    ("merged", "source"),
    [
        ("The dog's 1,200 toys", "a dog with 1200 toys"),
        ("twelve dogs sitting", "12 dogs sit"),
        ("a well-known café", "the café is well known"),
        ("He is making bodies", "make a body"),
        ("", "anything"),
    ],
)
def test_spellings_of_one_thing(merged: str, source: str) -> None:
    assert inventions(merged, [source]).kind() is None


def test_facts_are_told_apart_inside_a_sentence() -> None:
    source = "A red circle and a blue square."
    assert inventions("A blue square and a red circle.", [source]).facts == ()
    assert inventions("A red square and a blue circle.", [source]).facts == ("red square", "blue circle")
    assert inventions("A red and blue square.", ["a red square", "a blue square"]).facts == ()
    assert inventions("A large red circle.", ["A circle that is red.", "A red large circle"]).facts == ()


def test_nearly_every_wrong_caption_of_the_world_is_found_and_no_right_one() -> None:
    random = Random(0)
    num_found = 0
    for _ in range(500):
        scene = draw_scene(random, "pretrain")
        right, alt = caption(scene), alt_text(scene, random, wrong=0.15, boilerplate=0.15)
        assert inventions(right, [alt, right]).kind() is None
        num_found += inventions(corrupted_caption(scene, random), [alt, right]).kind() is not None
    assert num_found / 500 > 0.95
