import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2cli.text.quality import (
    check_caption,
    cut_to_sentence,
    num_words,
    refuses,
    repeats_itself,
    sentences,
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
