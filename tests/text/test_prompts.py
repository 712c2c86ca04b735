"""Prompts: names, and draws that depend on nothing but their arguments."""

from collections import Counter

import pytest

from vila2cli.errors import RecipeError
from vila2cli.text.prompts import PROMPTS, draw_prompt, fill, prompt_sha256, prompt_text, stable_hash

MIX = ("long-v1", "long-v2", "long-v3")


def test_the_mix_is_even_and_the_same_for_the_same_key() -> None:
    drawn = [draw_prompt(MIX, f"key{i}", 7) for i in range(3000)]
    assert drawn == [draw_prompt(MIX, f"key{i}", 7) for i in range(3000)]
    assert all(900 < count < 1100 for count in Counter(drawn).values())
    assert drawn != [draw_prompt(MIX, f"key{i}", 8) for i in range(3000)]


def test_an_unknown_prompt_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"long-v4.*long-v1, long-v2, long-v3"):
        prompt_text("long-v4")


def test_hashes_never_change() -> None:
    # Stored in every annotation and behind every draw: a changed hash means changed data.
    assert stable_hash("a", 1) == 4742018630964328543
    assert prompt_sha256("long-v1") == "1b239acecdab9635d0a9b8fd9be3839b9d4461c12e89df32ec5a470bc72d4b88"
    assert len({prompt_sha256(prompt) for prompt in PROMPTS}) == len(PROMPTS)


def test_a_prompt_named_twice_is_drawn_twice_as_often() -> None:
    counts = Counter(draw_prompt(("simple", "long-v1", "long-v1"), f"key{i}", 7) for i in range(3000))
    assert 900 < counts["simple"] < 1100


def test_prompts_of_a_recipe() -> None:
    own = {"mine": "Say what {alt_text} shows."}
    assert prompt_text("mine", own) == own["mine"]
    assert prompt_sha256("mine", own) != prompt_sha256("simple", own)
    with pytest.raises(RecipeError, match=r"unknown prompt 'yours'; known are simple, .*, mine"):
        prompt_text("yours", own)


def test_values_are_filled_in_once() -> None:
    assert fill("A: {a} B: {b} {c} {}", a="{b}", b="x{y}") == "A: {b} B: x{y} {c} {}"
    merged = fill(prompt_text("merge-v1"), original="cat", recaption="A cat sits.")
    assert merged.endswith("Sentence 1: cat\nSentence 2: A cat sits.")
