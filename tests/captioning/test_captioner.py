"""Each way of a sample to its caption, with what the engine says given by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from vila2cli.ask.provenance import Provenance
from vila2cli.captioning.captioner import LAYER, Captioner, check_settings
from vila2cli.engine import Result
from vila2cli.errors import RecipeError
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.sample import Annotation, Reject

Lay = Callable[..., Any]
Load = Callable[..., Recipe]
LOOP = "a dog and " * 20
GOOD = "A red square fills the picture."


def said(text: str, logprob: float | None = -1.0, **more: Any) -> Result:
    return Result(**({"id": "", "text": text, "num_tokens": 9, "logprob_mean": logprob} | more))


def test_a_good_caption_is_kept_at_once(table: Lay, recipe: Load, provenance: Provenance) -> None:
    desk = table()
    found = desk.talk(Captioner(recipe(), provenance), LAYER, [said(f"Sure! Here is the caption: {GOOD}")])
    assert found.text == GOOD
    assert found.decision == {"source": "model", "by": "only"}
    assert len(desk.asked) == 1
    figures = {"stripped": 1, "retries": 0, "captions": 1, "words": 6}
    figures |= {"kept": {"model": 1}, "chosen_by": {"only": 1}}
    assert figures.items() <= desk.stats.items()


def test_the_ladder_changes_sampling_and_stops_at_the_first_good_caption(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    desk = table()
    task = Captioner(recipe("recaption.retry_temperatures=[0.3,0.6,0.9]", "recaption.top_p=0.5"), provenance)
    found = desk.talk(task, LAYER, [said(LOOP)], [said("I cannot help.")], [said(GOOD)])
    assert [[request.temperature for request in step] for step in desk.asked] == [[0.0], [0.3], [0.6]]
    assert len({step[0].seed for step in desk.asked}) == 3
    assert {step[0].top_p for step in desk.asked} == {0.5}
    assert [one["defect"] for one in found.decision["attempts"]] == ["repetition", "refusal", None]
    assert (found.decision["chosen"], found.sampling["temperature"]) == (2, 0.6)
    figures = {"retries": 2, "retried": 1, "defects": {"repetition": 1, "refusal": 1}}
    figures["finish_reasons"] = {"stop": 3}
    assert figures.items() <= desk.stats.items()


def test_the_caption_stands_behind_the_reasoning(table: Lay, recipe: Load, provenance: Provenance) -> None:
    desk = table()
    task = Captioner(recipe("recaption.retry_temperatures=[0.3,0.6]"), provenance)
    cut = [said("<think>There is a", finish_reason="length")]
    found = desk.talk(
        task, LAYER, cut, [said("Okay, the user", finish_reason="length")], [said(f"<think>Hm.</think>{GOOD}")]
    )
    assert found.text == GOOD
    assert [one["defect"] for one in found.decision["attempts"]] == ["reasoning", "reasoning", None]
    assert {"retries": 2, "defects": {"reasoning": 2}, "stripped": 1}.items() <= desk.stats.items()


def test_a_failed_sample_falls_back_or_is_rejected(table: Lay, recipe: Load, provenance: Provenance) -> None:
    sets = "recaption.retry_temperatures=[0.5]"
    desk = table()
    found = desk.talk(Captioner(recipe(sets), provenance), LAYER, [said(LOOP)], [said("")])
    assert isinstance(found, Annotation)
    assert (found.text, found.seed, found.num_tokens) == ("red thing", None, None)
    assert (found.model, found.prompt_sha256 is None) == ("m", False)
    assert found.decision["source"] == "original"
    assert {"kept": {"original": 1}, "fallbacks": {"empty": 1}, "rejected": 0}.items() <= desk.stats.items()
    for alt_text, fallback in ((None, "original"), (" ", "original"), ("red thing", "none")):
        desk = table(alt_text)
        task = Captioner(recipe(sets, f"recaption.fallback={fallback}"), provenance)
        found = desk.talk(task, LAYER, [said(LOOP)], [said("")])
        assert isinstance(found, Reject)
        assert found.reason == "empty"
        assert desk.stats["dropped"] == {"empty": 1}


def test_what_the_model_cannot_take_is_not_asked_again(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    desk = table()
    too_long = Result(id="", finish_reason="error", error="prompt of 900 tokens does not fit")
    found = desk.talk(Captioner(recipe(), provenance), LAYER, [too_long])
    assert found.text == "red thing"
    assert found.decision["attempts"][0]["error"] == "prompt of 900 tokens does not fit"
    assert len(desk.asked) == 1
    assert desk.stats["fallbacks"] == {"engine-error": 1}
    found = table(None).talk(Captioner(recipe(), provenance), LAYER, [too_long])
    assert (found.reason, found.error) == ("engine-error", "prompt of 900 tokens does not fit")


def test_the_standard_of_the_recipe_counts(table: Lay, recipe: Load, provenance: Provenance) -> None:
    desk = table()
    task = Captioner(
        recipe("recaption.min_words=5", "recaption.language=en", "recaption.max_words=9"), provenance
    )
    german = "Ein roter Ball liegt auf der Wiese neben dem Haus."
    found = desk.talk(task, LAYER, [said("a red square")], [said(german)], [said(GOOD)])
    assert [one["defect"] for one in found.decision["attempts"]] == ["too-short", "too-long", None]


def test_of_n_the_likeliest_good_one_is_kept(table: Lay, recipe: Load, provenance: Provenance) -> None:
    desk = table()
    task = Captioner(recipe("recaption.n=3", "recaption.temperature=0.7"), provenance)
    answers = [said("A red one.", -0.9), said(LOOP, -0.1), said("A square one.", -0.5)]
    found = desk.talk(task, LAYER, answers)
    assert (found.text, found.logprob_mean) == ("A square one.", -0.5)
    assert found.decision["by"] == "logprob"
    assert [one["text"] for one in found.decision["attempts"]][::2] == ["A red one.", "A square one."]
    assert len({request.seed for request in desk.asked[0]}) == 3


def test_without_log_probabilities_the_first_good_one_is_kept(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    desk = table()
    task = Captioner(recipe("recaption.n=3", "recaption.temperature=0.7"), provenance)
    found = desk.talk(task, LAYER, [said(LOOP, None), said("A red one.", None), said("A square one.", None)])
    assert (found.text, found.decision["by"]) == ("A red one.", "first")
    assert desk.stats["chosen_by"] == {"first": 1}


@pytest.mark.parametrize(
    ("letters", "winner"),
    [
        ([("A", "B"), ("A", "B")], "Third."),  # each challenger wins in both orders
        ([("A", "B"), ("B", "A")], "First."),
        ([("A", "A"), ("A", "A")], "Second."),  # always the first shown: no verdict, the likeliest stays
        ([("what?", "B"), ("A", "B")], "Third."),
    ],
)
def test_a_judge_has_to_prefer_a_challenger_in_both_orders(
    table: Lay, recipe: Load, provenance: Provenance, letters: list[tuple[str, str]], winner: str
) -> None:
    desk = table()
    sets = ("recaption.n=3", "recaption.temperature=0.7", "recaption.choose=judge")
    answers = [said("First.", -0.9), said("Second.", -0.1), said("Third.", -0.5)]
    steps = [[said(letter) for letter in pair] for pair in letters]
    found = desk.talk(Captioner(recipe(*sets), provenance), LAYER, answers, *steps)
    assert (found.text, found.decision["by"]) == (winner, "judge")
    first_shown = desk.asked[1][0].messages[0].text
    assert "A: First.\nB: Second." in first_shown
    assert desk.asked[1][0].temperature == 0
    assert desk.asked[1][0].images


def test_a_judge_between_candidates_may_reason_and_is_not_believed_where_it_was_cut(
    table: Lay, recipe: Load, provenance: Provenance
) -> None:
    task = Captioner(recipe("recaption.n=2", "recaption.temperature=1", "recaption.choose=judge"), provenance)
    captions = [said("A red thing.", -1.0), said("A blue thing.", -2.0)]
    thinks = [said("<think>A?</think>A"), said("<think>A?</think>B")]
    found = table().talk(task, LAYER, captions, thinks)
    assert (found.text, found.decision["judge"]) == ("A blue thing.", ["win"])
    cut = [said("A", finish_reason="length"), said("B")]
    found = table().talk(task, LAYER, captions, cut)
    assert (found.text, found.decision["judge"]) == ("A red thing.", ["unjudged"])


def test_a_judge_is_not_asked_about_equal_captions(table: Lay, recipe: Load, provenance: Provenance) -> None:
    desk = table()
    sets = ("recaption.n=2", "recaption.temperature=0.7", "recaption.choose=judge")
    found = desk.talk(Captioner(recipe(*sets), provenance), LAYER, [said(GOOD), said(GOOD, -0.5)])
    assert (found.text, found.logprob_mean, len(desk.asked)) == (GOOD, -0.5, 1)


def test_a_prompt_shows_the_alt_text_as_text(table: Lay, recipe: Load, provenance: Provenance) -> None:
    desk = table("a <image> of {prompt}")
    own = recipe("recaption.prompts=mine", 'prompts={mine = "Say more than {alt_text} does."}')
    desk.talk(Captioner(own, provenance), LAYER, [said(GOOD)])
    assert desk.asked[0][0].messages[0].text == "Say more than a < image> of {prompt} does."


def test_settings_that_cannot_be_met_are_refused(recipe: Load) -> None:
    with pytest.raises(RecipeError, match="are all the same at temperature 0"):
        check_settings(recipe("recaption.n=2"))
    with pytest.raises(RecipeError, match="unknown prompt 'longest'"):
        check_settings(recipe("recaption.prompts=longest"))
    check_settings(recipe("recaption.n=2", "recaption.temperature=0.2"))
    blind = ("recaption.n=2", "recaption.temperature=0.2", "recaption.engine=api", "api.logprobs=false")
    with pytest.raises(RecipeError, match=r"api\.logprobs = false"):
        check_settings(recipe(*blind))
    check_settings(recipe(*blind, "recaption.choose=judge"))
