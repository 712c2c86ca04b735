"""Prompts: names, and draws that depend on nothing but their arguments."""

from collections import Counter

import pytest

from vila2cli.errors import RecipeError
from vila2cli.text.prompts import PROMPTS, draw_prompt, prompt_sha256, prompt_text, stable_hash

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
