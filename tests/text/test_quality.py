from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2cli.text.quality import (
    Standard,
    check_caption,
    cut_to_sentence,
    is_boilerplate,
    num_words,
    refuses,
    repeats_itself,
    sentences,
    shortest_echo,
    strip_wrapping,
)

WORLD_CAPTION = (
    "The image shows three objects and a word. There is a large red circle at the top left. "
    "There is a small blue square at the bottom right. There is a large red star at the top right. "
    'The word "KAB" is written at the bottom left.'
)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("A cat sits. A dog ru", "A cat sits."),
        ("A cat sits.", "A cat sits."),
        ("A cat sits on", ""),
        ('It reads "STOP." Next to', 'It reads "STOP."'),
        ("It costs 3.50 at", ""),
        ("This is St. Mary's Chu", ""),
        ("Mr. A. Smith waves. He wears e.g. a hat", "Mr. A. Smith waves."),
        ("Is it a cat? Yes! It", "Is it a cat? Yes!"),
        ("一只猫坐着。一只狗", "一只猫坐着。"),
        ("", ""),
    ],
)
def test_cut_to_sentence(text: str, whole: str) -> None:
    assert cut_to_sentence(text) == whole


@given(st.text(alphabet="ab .!?\n。", max_size=60))
def test_cutting_twice_is_cutting_once(text: str) -> None:
    whole = cut_to_sentence(text)
    assert text.strip().startswith(whole) or whole in text
    assert cut_to_sentence(whole) == whole


@pytest.mark.parametrize(
    ("text", "looped"),
    [
        (WORLD_CAPTION, False),
        ("a very, very, very big dog", False),
        ("He says: no, no, no, no!", False),
        ("red blue green red blue green red blue green", True),
        ("no " * 8, True),
        ("A cat sits here. A dog runs. A cat sits here. A bird. A cat sits here.", True),
        ("A cat sits here. A dog runs. A cat sits here.", False),
        ("The sign reads hahahahahahahahahahahahahahahahahahahaha", True),
        ("猫狗猫狗猫狗猫狗猫狗", True),
        ("一只猫坐在垫子上，旁边有一只狗。", False),
        ("Row 1: 12, 14, 12. Row 2: 12, 14, 13. Row 3: 12, 15, 12.", False),
    ],
)
def test_repeats_itself(text: str, looped: bool) -> None:
    assert repeats_itself(text) is looped


def test_a_loop_at_the_end_of_a_good_caption_is_found() -> None:
    assert repeats_itself(WORLD_CAPTION + " and a tree next to a tree next to a tree next to a tree next to a")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I cannot describe this image.", True),
        ("I cannot help with that.", True),
        ("As an AI language model, I", True),
        ("Sorry, no image was given.", True),
        ("A man says that he is sorry.", False),
        ("Asian food on a plate.", False),
        ("I can see a cat.", False),
        ("As an AI, I have no eyes.", True),
        ("As an airplane takes off, a crowd waves.", False),
        ("As an artificial lake, it is round.", False),
    ],
)
def test_refuses(text: str, refused: bool) -> None:
    assert refuses(text) is refused


def test_num_words() -> None:
    assert num_words("The dog's well-known 3.5 m leash, red!") == 7
    assert num_words("一只猫 sits") == 4
    assert num_words(" ... ") == 0


def test_sentences() -> None:
    assert sentences("One. Two! Three") == ["One.", "Two!", "Three"]
    assert sentences("") == []


def test_check_caption_keeps_cuts_and_drops() -> None:
    kept = check_caption(f" {WORLD_CAPTION}\n", reached_limit=False)
    assert (kept.text, kept.defect, kept.was_cut) == (WORLD_CAPTION, None, False)
    assert check_caption("a red circle", reached_limit=False).defect is None
    cut = check_caption("A cat sits. A dog ru", reached_limit=True)
    assert (cut.text, cut.defect, cut.was_cut) == ("A cat sits.", None, True)
    ended = check_caption("A cat sits.", reached_limit=True)
    assert (ended.text, ended.defect, ended.was_cut) == ("A cat sits.", None, False)
    assert check_caption("A cat sits on a", reached_limit=True).defect == "truncated"
    assert check_caption(" ,. ", reached_limit=False).defect == "empty"
    assert check_caption("I'm sorry, I can't.", reached_limit=False).defect == "refusal"
    assert check_caption("a b c " * 20, reached_limit=True).defect == "repetition"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Sure! Here is a detailed description of the image:\n\nA cat sits.", "A cat sits."),
        ("Here's the caption: A cat sits.", "A cat sits."),
        ("Certainly. A cat sits.", "A cat sits."),
        ("New Sentence: A cat sits.", "A cat sits."),
        ("A cat sits. Let me know if you need anything else!", "A cat sits."),
        ("A cat sits. I hope this helps. If you have questions, ask.", "A cat sits."),
        ("Here are two cats on a mat.", "Here are two cats on a mat."),
        ("A sign reads: caption: none", "A sign reads: caption: none"),
        ("Sure-footed goats climb a hill.", "Sure-footed goats climb a hill."),
        ("A cat sits.\nA dog runs.", "A cat sits.\nA dog runs."),
        (
            "A sign says call us if you need help. A man in a blue coat stands beside it.",
            "A sign says call us if you need help. A man in a blue coat stands beside it.",
        ),
        (
            'A sign reads "Wait here. If you need help, ask." A man waits.',
            'A sign reads "Wait here. If you need help, ask." A man waits.',
        ),
        (
            "Here are three signs that read: STOP, YIELD and GO.",
            "Here are three signs that read: STOP, YIELD and GO.",
        ),
        ("Here is what I see in the image: A cat sits.", "A cat sits."),
    ],
)
def test_strip_wrapping(text: str, bare: str) -> None:
    assert strip_wrapping(text) == bare
    assert strip_wrapping(bare) == bare
    checked = check_caption(text, reached_limit=False)
    assert (checked.text, checked.defect, checked.was_stripped) == (bare, None, text != bare)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("No image was provided, so there is nothing to describe.", True),
        ("The image could be of a cat. Please provide the image.", True),
        ("A picture of [insert object here].", True),
        ("A cat<|im_end|> sits.", True),
        ("Image not found", True),
        ("The image could not be loaded.", True),
        ("It seems that no image was provided.", True),
        ("A web page with a sad robot that says image not found.", False),
        ('"Image not found" is written on a gray page.', False),
        ("A template of a web page with lorem ipsum text.", False),
        ("A poster that says all rights reserved.", False),
        ("A webcam image of a cat, no images on the wall.", False),
        ("A score of <3 and a heart.", False),
    ],
)
def test_boilerplate(text: str, found: bool) -> None:
    assert is_boilerplate(text) is found


def test_a_caption_may_not_repeat_its_instruction() -> None:
    prompt = "Describe the image in details."
    assert shortest_echo(prompt, prompt) == "describe the image in details"
    long = "Elaborate on the visual and narrative elements of the image in detail."
    assert is_boilerplate("Elaborate on the visual and narrative side: a cat.", shortest_echo(long, long))
    # A caption may well open like a prompt that begins with the alt-text.
    own = shortest_echo("This is a picture of {alt_text}. Say more.", "This is a picture of a cat. Say more.")
    assert not is_boilerplate("This is a picture of a cat on a mat.", own)
    assert is_boilerplate("This is a picture of a cat. Say more.", own)
    assert shortest_echo("Describe it.", "Describe it.") == "Describe it."
    assert is_boilerplate("Describe the image in details. Describe it.", prompt)
    assert not is_boilerplate("Describe the image.", prompt)
    assert check_caption("Describe the image in details!", reached_limit=False, prompt=prompt).defect == (
        "boilerplate"
    )


def test_the_standard_of_a_recipe() -> None:
    def defect(text: str, *, reached_limit: bool = False, **standard: Any) -> str | None:
        return check_caption(text, reached_limit=reached_limit, standard=Standard(**standard)).defect

    assert defect("a red cat", min_words=4) == "too-short"
    assert defect("a red cat", min_words=3, max_words=3) is None
    assert defect("a very red cat", max_words=3) == "too-long"
    # What is kept is measured, not what was generated.
    assert defect("A cat sits. Then a long cut-off sen", reached_limit=True, max_words=3) is None
    assert defect("Ein Hund liegt auf der Wiese neben dem Ball.", language="en") == "wrong-language"
    assert defect(WORLD_CAPTION, language="en", min_words=10, max_words=60) is None


@given(st.text(max_size=300))
def test_any_text_is_checked(text: str) -> None:
    for reached_limit in (False, True):
        checked = check_caption(text, reached_limit=reached_limit, standard=Standard(language="en"))
        assert checked.defect is not None or num_words(checked.text) > 0
