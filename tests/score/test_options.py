"""How the benchmarks' harnesses read options, as tables, and CircularEval."""

import pytest

from vila2cli.errors import DataError
from vila2cli.score.choice import MCQ, MMBENCH, SCIENCEQA, SEED, scienceqa_letter, vlmevalkit_letter
from vila2cli.score.mmmu import MMMU, MMMU_RANDOM, parse_open, parse_option
from vila2cli.score.scorer import Reference, Scored
from vila2cli.score.stats import columns_of

ANIMALS = {"A": "A cat", "B": "A dog", "C": "A red car"}


def asked(answer="B", **meta):
    return Reference(answers=(answer,), meta={"choices": list(ANIMALS.values()), **meta})


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B. A dog", "B"),
        ("The answer is B.", "B"),
        ("So The answer is B. The answer is C.", None),
        ("B.", None),
        ("(B)", None),
        ("b", None),
        ("F", None),
        ("The answer is B", None),
        ("", None),
    ],
)
def test_scienceqa_letters(answer, letter):
    assert scienceqa_letter(answer) == letter


def test_scienceqa_counts_options_that_are_not_there_as_unread():
    row = SCIENCEQA.score("D", asked())
    assert (row["score"], row["unparsed"]) == (0, 1)
    totals = columns_of([SCIENCEQA.score("B", asked()), SCIENCEQA.score("A", asked(has_image=False))])
    found = SCIENCEQA.metrics({name: column.sum() for name, column in totals.items()})
    assert (float(found["image_accuracy"]), float(found["accuracy"])) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("the answer is: B", "B"),
        ("A or B", None),
        ("B is what I see in the picture", None),
        ("a red car", "C"),
        ("a dog and a cat", None),
        ("Z", "Z"),
        ("Cannot determine the answer", "Z"),
        ("a dog " * 9, None),
        ("nothing", None),
        ("The answer is B because the picture shows an animal", "B"),
        ("It could be A or B, but the correct answer is **B**", "B"),
        ("answer is b, I think", "B"),
        ("ANSWER   IS\nC", "C"),
        ("The answer is a dog.", "A"),
        ("the answer is cat", "C"),
        ("the answer is D, none of these", None),
        ("answer is not A", "A"),
        ("Answer: (B) is it", "B"),
        ("I can't process this file. The answer is B", "Z"),
        ("Failed to obtain answer via API. B", None),
    ],
)
def test_vlmevalkit_options(answer, letter):
    assert vlmevalkit_letter(answer, ANIMALS) == letter


def test_seed_takes_the_letter_alone():
    assert [SEED.score(text, asked())["score"] for text in ("B", "B.", " B", "b")] == [1, 0, 0, 0]


def test_a_question_counts_when_every_rotation_is_right():
    rows = [
        Scored(MCQ.score(answer, asked(truth)), MMBENCH.labels(asked(truth, group=group, category="animal")))
        for answer, truth, group in [("B", "B", 1), ("A", "A", 1), ("C", "C", 2), ("A", "B", 2)]
    ]
    totals = {name: column.sum() for name, column in columns_of(MMBENCH.rows(rows)).items()}
    found = {name: float(value) for name, value in MMBENCH.metrics(totals).items()}
    assert found == {
        "circular_accuracy": 0.5,
        "accuracy": 0.75,
        "unparsed_ratio": 0.0,
        "accuracy:animal": 0.75,
    }


def test_a_rotation_needs_to_say_of_which_question():
    with pytest.raises(DataError, match="'group'"):
        MMBENCH.labels(asked())


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("(A) is wrong, so (C)", "C"),
        ("A is wrong, so C", "C"),
        ("(B), and not A or C ", "B"),
        ("B:", "B"),
        ("b", None),
        ("A dog", "A"),
        ("Dog", None),
        ("it looks very much like a dog", "B"),
        ("first a red car, then surely a cat", "A"),
        ("like a dog", None),
        ("", None),
    ],
)
def test_mmmu_options(answer, letter):
    assert parse_option(answer, ANIMALS) == letter


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("The answer is 42.", "42", 1),
        ("x = 1,234.567", "1234.57", 1),
        ("about 3.14159", "3.14", 1),
        ("1e3", "1000", 1),
        ("The result is -5", "-5", 1),
        ("the result is 5", "-5", 0),
        ("so it could be Paris", "paris", 1),
        ("It is not Rome\nthus Paris", "Paris", 1),
        ("It is Rome, Paris is not", "rome", 0),
        ("e", "e", 1),
        ("an e sound", "e", 1),
        ("thermal energy is lost", "thermal", 0),
        ("thermal", "thermal", 1),
        ("", "7", 0),
    ],
)
def test_mmmu_open_answers(answer, truth, right):
    assert MMMU.score(answer, Reference(answers=(truth,)))["score"] == right


def test_mmmu_tails_and_their_numbers():
    assert parse_open("The final result is 1,200") == [1200.0, 200.0]


def test_an_option_that_is_not_read_is_wrong_or_drawn_but_counted():
    guesses = [f"hm {number}" for number in range(300)]
    strict = [MMMU.score(guess, asked(question_id=guess)) for guess in guesses]
    drawn = [MMMU_RANDOM.score(guess, asked(question_id=guess)) for guess in guesses]
    assert sum(row["score"] for row in strict) == 0
    assert sum(row["unparsed"] for row in strict) == sum(row["unparsed"] for row in drawn) == 300
    assert 70 <= sum(row["score"] for row in drawn) <= 130
    assert drawn == [MMMU_RANDOM.score(guess, asked(question_id=guess)) for guess in guesses]
    assert MMMU_RANDOM.score("B", asked())["score"] == 1


def test_several_answers_may_be_right():
    assert MMMU.score("7", Reference(answers=("seven", "7")))["score"] == 1
    assert MMMU.score("C", Reference(answers=("B", "C"), meta={"choices": list("xyz")}))["score"] == 1
