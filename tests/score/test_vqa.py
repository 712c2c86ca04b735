"""VQAEval's and M4C's rules, worked by hand."""

import pytest

from vila2cli.errors import DataError
from vila2cli.score.choice import parse_letter
from vila2cli.score.scorer import Reference
from vila2cli.score.vqa import (
    GQA,
    SHORT,
    TEXTVQA,
    VIZWIZ,
    VQA,
    VQAEVAL,
    announced,
    normalise_m4c,
    normalise_vqaeval,
)
from vila2cli.text.lead_ins import strip_wrapping


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("The Cat", "cat"),
        ("two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("an apple.", "apple"),
        ("top-left", "top left"),
        ("top - left", "top left"),
        ("red/blue, green", "red blue green"),
        ("1,000 - 2,000", "1000 2000"),
        ("1,000-2,000", "10002000"),
        ("3.5", "3.5"),
        ("3. 5", "3 5"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("shes", "shes"),
        ("10:30", "10:30"),
        ("it’s", "it’s"),
        ("a", ""),
        ("", ""),
    ],
)
def test_vqa_normalisation(answer, normalised):
    assert normalise_vqaeval(answer) == normalised


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("Joe's Diner", "joe 's diner"),
        ("yes, it is?", "yes it is"),
        ("1,000-2,000", "1000 2000"),
        ("Dakota\nDigital", "dakota digital"),
        ("The End.", "end"),
    ],
)
def test_m4c_processing(answer, normalised):
    assert normalise_m4c(answer) == normalised


def ten(*counts):
    return Reference(answers=tuple(text for text, times in counts for _ in range(times)))


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
@pytest.mark.parametrize("scorer", [VQA, VQAEVAL, VIZWIZ, TEXTVQA])
def test_soft_accuracy_leaves_each_person_out(scorer, matches, score):
    reference = ten(("cat", matches), *((f"other {i}", 1) for i in range(10 - matches)))
    assert scorer.score("The cat.", reference)["score"] == pytest.approx(score)


def test_vqaeval_compares_as_it_is_where_all_people_agree():
    assert VQAEVAL.score("The cat", ten(("cat", 10)))["score"] == 0
    assert VQAEVAL.score("cat\n", ten(("cat", 10)))["score"] == 1
    assert VQA.score("The cat", ten(("cat", 10)))["score"] == 1
    assert TEXTVQA.score("The cat", ten(("cat", 10)))["score"] == 1


@pytest.mark.parametrize(
    ("answer", "people", "score"),
    [
        ("Yes.", "yes", 1),
        ("the can", "can", 1),
        ("the can", "the can", 0),
        ("top-left", "top-left", 0),
        ("Two", "2", 1),
    ],
)
def test_vizwiz_normalises_what_is_given_and_never_what_people_answered(answer, people, score):
    assert VIZWIZ.score(answer, ten((people, 9), ("unanswerable", 1)))["score"] == score
    assert VIZWIZ.score(answer, ten((people, 10)))["score"] == score


def test_answers_of_one_person_are_refused():
    with pytest.raises(DataError, match="several people"):
        VQA.score("cat", Reference(answers=("cat",)))
    with pytest.raises(DataError, match="10 answers, and this sample has 3"):
        TEXTVQA.score("cat", ten(("cat", 3)))


@pytest.mark.parametrize(
    ("answer", "score"), [("Yes", 1), ("yes.", 1), ("yes..", 1), ("a yes", 0), (" yes", 0), ("yes!", 0)]
)
def test_gqa_matches_exactly(answer, score):
    assert GQA.score(answer, Reference(answers=("yes",)))["score"] == score


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("-5", "5", False),
        ("-5", "-5", True),
        ("−5", "-5", True),
        ("minus 5", "-5", True),
        ("-$0.5", "$0.5", False),
        ("-.5", "-0.5", False),
        ("A+", "A", False),
        ("A+", "A-", False),
        ("O+.", "o+", True),
        ("C++", "C", False),
        ("c++", "C++", True),
        ("3-5", "3 5", True),
        ("top-left", "top left", True),
        ("- cat", "cat", True),
        ("left-", "left", True),
        ("Yes- it is", "yes it is", True),
        ("AB-", "ab+", False),
        ("3- or 4-", "3 or 4", False),
        ("10 - 20", "10 20", True),
    ],
)
def test_signs_tell_short_answers_apart(answer, reference, same):
    assert SHORT.score(answer, Reference(answers=(reference,)))["score"] == same


@pytest.mark.parametrize("read", [announced, parse_letter, strip_wrapping])
def test_runaway_blank_lines_take_no_longer_than_other_text(read):
    """Where time grew with the square of their number, this took an hour."""
    assert read("a" + "\n" * 500_000 + "b") in ("a" + "\n" * 500_000 + "b", None)
