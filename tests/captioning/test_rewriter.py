"""Merging two captions: what is asked, what is believed, and what is kept instead."""

from collections.abc import Callable
from typing import Any

import pytest

from vila2cli.ask.provenance import Provenance
from vila2cli.captioning.rewriter import LAYER, Rewriter, check_settings
from vila2cli.engine import Result
from vila2cli.errors import RecipeError
from vila2cli.settings.recipe import Recipe

Lay = Callable[..., Any]
Load = Callable[..., Recipe]
ALT, RECAPTION = "Golden Gate Bridge 1937", "A red bridge spans the water."
MERGED = "The red Golden Gate Bridge of 1937 spans the water."


def said(text: str, **more: Any) -> Result:
    return Result(**({"id": "", "text": text, "num_tokens": 9, "logprob_mean": -1.0} | more))


def test_a_faithful_merge_is_kept(table: Lay, recipe: Load, provenance: Provenance) -> None:
    desk = table(ALT, RECAPTION)
    found = desk.talk(Rewriter(recipe(), provenance), LAYER, [said(f"New Sentence: {MERGED}")])
    (request,) = desk.asked[0]
    assert request.images == ()
    assert request.messages[0].text.endswith(f"Sentence 1: {ALT}\nSentence 2: {RECAPTION}")
    assert (found.layer, found.text, found.prompt_id) == ("rewrite", MERGED, "merge-v1")
    assert found.decision == {"source": "merged", "by": "only"}
    assert {"kept": {"merged": 1}, "stripped": 1, "retries": 0}.items() <= desk.stats.items()


def test_an_invention_is_asked_again_then_both_are_joined(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    desk = table(ALT, RECAPTION)
    task = Rewriter(recipe("rewrite.retry_temperatures=[0.5,1.0]"), provenance)
    steps = ["The Golden Gate Bridge of 1936.", "The bridge in California.", "A red bridge, a happy sight."]
    found = desk.talk(task, LAYER, *([said(text)] for text in steps))
    assert found.text == f"{ALT}\n{RECAPTION}"
    assert found.decision["source"] == "original+recaption"
    assert [one["defect"] for one in found.decision["attempts"]] == ["new-number", "new-name", "new-words"]
    assert [one["text"] for one in found.decision["attempts"]] == steps
    figures = {"kept": {"original+recaption": 1}, "fallbacks": {"new-words": 1}, "retries": 2}
    figures["defects"] = dict.fromkeys(("new-number", "new-name", "new-words"), 1)
    assert figures.items() <= desk.stats.items()


def test_the_recipe_says_what_to_fall_back_to_and_how_many_words_are_forgiven(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    sets = ("rewrite.retry_temperatures=[]", "rewrite.fallback=recaption")
    desk = table(ALT, RECAPTION)
    happy = "A happy red bridge spans the water."
    assert desk.talk(Rewriter(recipe(*sets), provenance), LAYER, [said(happy)]).text == RECAPTION
    forgiving = recipe(*sets, "rewrite.max_new_words=1")
    assert table(ALT, RECAPTION).talk(Rewriter(forgiving, provenance), LAYER, [said(happy)]).text == happy


def test_the_labels_of_our_own_prompt_are_no_inventions(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    """Small models say the two captions again; what stands beside them is a merge, be it cut off behind."""
    echo = f"Sentence 1: {ALT}\nSentence 2: {RECAPTION}"
    task = Rewriter(recipe("rewrite.retry_temperatures=[0.5,1.0]"), provenance)
    steps = [
        echo,
        f"{echo}\n\nMerged in 1937.",
        f"{echo}\n\nCombined Sentence: {MERGED[:-1]}\n\nThis sentence comb",
    ]
    desk = table(ALT, RECAPTION)
    found = desk.talk(task, LAYER, *([said(text, finish_reason="length")] for text in steps))
    assert found.text == MERGED[:-1]
    attempts = found.decision["attempts"]
    assert [one["defect"] for one in attempts] == ["not-merged", "new-name", None]
    assert attempts[0]["text"] == echo


@pytest.mark.parametrize(
    ("alt_text", "recaption", "kept", "source"),
    [
        (ALT, None, ALT, "only-original"),
        (None, RECAPTION, RECAPTION, "only-recaption"),
        (" ", RECAPTION, RECAPTION, "only-recaption"),
        (ALT, ALT, ALT, "only-original"),
        (None, None, None, None),
    ],
)
def test_with_one_caption_nothing_is_asked(
    table: Lay,
    recipe: Load,
    provenance: Provenance,
    alt_text: str | None,
    recaption: str | None,
    kept: str | None,
    source: str | None,
) -> None:
    desk = table(alt_text, recaption)
    found = desk.talk(Rewriter(recipe(), provenance), LAYER)
    assert desk.asked == []
    if kept is None:
        assert found is None
        assert desk.stats["dropped"] == {"no-caption": 1}
    else:
        assert (found.text, found.decision["source"]) == (kept, source)


def test_a_caption_that_spells_the_other_slot_stays_text(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    desk = table("{recaption} <image>", RECAPTION)
    desk.talk(Rewriter(recipe(), provenance), LAYER, [said("A red bridge.")])
    assert "Sentence 1: {recaption} < image>\n" in desk.asked[0][0].messages[0].text


def test_settings_that_cannot_be_met_are_refused(recipe: Load) -> None:
    with pytest.raises(RecipeError, match=r"has to hold \{original\} and \{recaption\}"):
        check_settings(recipe("rewrite.prompt=simple"))
    with pytest.raises(RecipeError, match=r"rewrite\.fallback names 'ocr'"):
        check_settings(recipe('rewrite.fallback=["ocr"]'))
    check_settings(recipe("rewrite.prompt=mine", 'prompts={mine = "{original} + {recaption}"}'))
