"""Per-sample rules of the answer families, as tables."""

import pytest

from vila2cli.errors import DataError
from vila2cli.score import SCORERS, find_scorer
from vila2cli.score.box import BOX, iou, parse_boxes
from vila2cli.score.choice import CHOICE, parse_letter
from vila2cli.score.documents import OCR, anls
from vila2cli.score.judged import read_llava_bench, read_mmvet
from vila2cli.score.scorer import Reference
from vila2cli.score.vqa import SHORT, VQA, normalise_short
from vila2cli.score.yesno import TRUTH, YESNO, says_yes


def answers(*texts):
    return Reference(answers=texts)


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("no", False),
        ("No.", False),
        ("No, there is no circle", False),
        ("There is not a red circle in the image.", False),
        ("Yes. No other circle is there.", True),
        ("Yes, there is", True),
        ("NO", True),
        ("", True),
        ("a red circle", True),
        ("nothing", True),
        ("no\nyes", False),
    ],
)
def test_pope_rule_reads_the_first_sentence(answer, yes):
    assert says_yes(answer) is yes


@pytest.mark.parametrize(("answer", "unclear"), [("Yes", 0), ("NO", 0), ("maybe", 1), ("", 1), ("nothing", 1)])
def test_answers_without_yes_or_no_are_marked(answer, unclear):
    assert YESNO.score(answer, answers("yes"))["unclear"] == unclear


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("The Cat", "cat"),
        ("two", "2"),
        ("None", "0"),
        ("an apple.", "apple"),
        ("top-left", "top left"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("don't", "dont"),
        ("**Parrot**", "parrot"),
        ("“parrot”", "parrot"),
        ("`2`", "2"),
        ("*2*", "2"),
        ('"3" or "4"', "3 or 4"),
        ("```\nparrot\n```", "parrot"),
        ('{"answer": 2}', "2"),
        ("what?", "what"),
        ("  bottom \n right ", "bottom right"),
        ("2**3**4", "2**3**4"),
        ("(A)", "a"),
        ("The.", "the"),
        ("an A", "a"),
        ("@", "@"),
        ("", ""),
    ],
)
def test_vqa_normalisation(answer, normalised):
    assert normalise_short(answer) == normalised


def test_short_answers_match_any_reference():
    assert SHORT.score("Two.", answers("3", "2"))["score"] == 1
    assert SHORT.score("two circles", answers("2"))["score"] == 0


@pytest.mark.parametrize(
    ("matches", "score"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_leaves_one_answer_out(matches, score):
    references = ["cat"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert VQA.score("A cat", answers(*references))["score"] == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B)", "B"),
        (" B\n", "B"),
        ("B. a blue square", "B"),
        ("B: a blue square", "B"),
        ("The answer is B.", "B"),
        ("I think the answer is (C)", "C"),
        ("The answer is B. The answer is C.", None),
        ("b", "B"),
        ("Option (b).", "B"),
        ("[B]", "B"),
        ('"B"', "B"),
        ("**B**", "B"),
        ("**(B)** a blue square", "B"),
        ("B - a blue square", "B"),
        ("B\n\nThe image shows a square.", "B"),
        ('```json\n{"answer": "B"}\n```', "B"),
        ("The answer is: **B**.", "B"),
        ("Sure! The correct answer is:\n\n**B. a blue square**", "B"),
        ("**Answer:** B", "B"),
        ("Answer: (B) a blue square", "B"),
        ("Option (B) is correct.", "B"),
        ("A is wrong, B is correct.", "B"),
        ("The answer is B, because A shows a cat.", "B"),
        ("The answer is not A. The answer is B.", "B"),
        ("I think it's B.", "B"),
        ("答案：B", "B"),
        ("答案是B。", "B"),
        ("La respuesta correcta es B.", "B"),
        ("Die Antwort ist B.", "B"),
        ("A or B", None),
        ("A, B and C", None),
        ("It could be A or B.", None),
        ("The answer is A or B.", None),
        ("The answer is a blue square.", None),
        ("Answer: A blue square", None),
        ("I see a cat.", None),
        ("I cannot answer this question.", None),
        ("I can't answer A", None),
        ("I, as an AI, cannot see images.", None),
        ("Option A: a cat. Option B: a dog. So the answer is B.", "B"),
        ("Option A shows a cat. Option C shows a dog.", None),
        ("The correct option is B", "B"),
        ("A blue square", None),
        ("Because", None),
        ("", None),
    ],
)
def test_the_letter_of_an_answer(answer, letter):
    assert parse_letter(answer) == letter


def test_an_option_in_full_is_its_letter():
    blue = Reference(answers=("B",), meta={"choices": ["a red square", "a blue square", "a dot", "a dot"]})
    assert CHOICE.score("**Blue square.**", blue) == {"score": 1.0, "unparsed": 0.0}
    assert CHOICE.score("a dot", blue) == {"score": 0.0, "unparsed": 1.0}
    assert CHOICE.score("(E)", blue) == {"score": 0.0, "unparsed": 1.0}


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("NO.", False),
        ("**No**", False),
        ("**Yes**, there is.", True),
        ('"No"', False),
        ("No!", False),
        ("no\n\nThere is a cat.", False),
        ("Nope.", False),
        ("None of them.", False),
        ("There isn’t a dog.", False),
        ("I don't see a dog.", False),
        ("There is a dog.", True),
        ("Yes, there is a dog, not a cat.", True),
        ("I see two cats. So the answer is no.", False),
        ("**Answer:** No", False),
        ('{"answer": "no"}', False),
        ('{"answer": true}', True),
        ("Nein.", False),
        ("Sí, hay un perro.", True),
        ("没有。", False),
        ("是的。", True),
        ("答案是否。", False),
        ("", None),
        ("I'm sorry, I can't see the image.", None),
        ("I'm sorry, but there is no dog in the image.", False),
        ("Unfortunately, no.", False),
        ("Unfortunately, the image shows a dog.", True),
        ("I can't see any dog in this picture.", False),
        ("I cannot see any image.", None),
        ("I cannot see a dog in this image, so no.", False),
        ("It is a no-parking sign, so yes.", True),
        ("Yes and no.", None),
        ("It isn't clear.", None),
        ("I don't know.", None),
        ("Da ist kein Hund.", False),
    ],
)
def test_a_question_of_ones_own_is_answered_by_yes_or_no_or_not_at_all(answer, yes):
    for truth in ("yes", "no"):
        row = YESNO.score(answer, answers(truth))
        assert row["score"] == (yes is not None and yes == (truth == "yes"))
        assert row["says_yes"] == (yes is True)


@pytest.mark.parametrize(
    ("answer", "says"),
    [("**True**", 1), ("The statement is not true.", 0), ("It isn't true.", 0), ("Not false", 1)],
)
def test_what_is_not_true_is_false(answer, says):
    assert [TRUTH.score(answer, answers(truth))["score"] for truth in ("true", "false")] == [says, 1 - says]


def test_choice_counts_what_it_cannot_read_as_wrong():
    assert CHOICE.score("blue", answers("A")) == {"score": 0.0, "unparsed": 1.0}
    assert CHOICE.score("A", answers("A")) == {"score": 1.0, "unparsed": 0.0}


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("[672,517,980,884]", [(672, 517, 980, 884)]),
        ("[000,680,999,999]", [(0, 680, 999, 999)]),
        ("at [1, 2, 3, 4] and [5,6,7,8]", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("[0.5,1,2.5,3]", [(0.5, 1, 2.5, 3)]),
        ("[10,10,10,20]", []),
        ("[30,10,10,20]", []),
        ("[0,0,1000,10]", []),
        ("[1,2,3]", []),
        ("(1,2,3,4)", []),
        ("", []),
    ],
)
def test_boxes_are_read_from_text(text, boxes):
    assert parse_boxes(text) == boxes


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (0, 0, 10, 20), 0.5),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (50, 50, 60, 60), 0.0),
    ],
)
def test_iou(first, second, value):
    assert iou(first, second) == pytest.approx(value)
    assert iou(second, first) == pytest.approx(value)


def test_grounding_scores_the_first_box_at_one_half():
    exactly_half = BOX.score("[0,0,10,10] or [0,0,10,20]", answers("[0,0,10,20]"))
    assert exactly_half == {"score": 1.0, "iou": 0.5, "unparsed": 0.0}
    assert BOX.score("top left", answers("[0,0,10,20]")) == {"score": 0.0, "iou": 0.0, "unparsed": 1.0}


@pytest.mark.parametrize(
    ("answer", "truth", "value"),
    [("kab", "kab", 1.0), ("kat", "kab", 2 / 3), ("xyz", "kab", 0.0), ("", "kab", 0.0), ("ab", "abcd", 0.5)],
)
def test_anls_is_cut_below_one_half(answer, truth, value):
    assert anls(answer, truth) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "row"),
    [
        ("KAB", (1, 1, 1)),
        ('"kab."', (1, 1, 1)),
        ("**KAB**", (1, 1, 1)),
        ("„KAB“", (1, 1, 1)),
        ("The word is KAB", (0, 0, 1)),
        ("KAT", (0, 2 / 3, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_ocr_scores(answer, row):
    scores = OCR.score(answer, answers("KAB"))
    assert (scores["score"], scores["anls"], scores["contained"]) == pytest.approx(row)


@pytest.mark.parametrize(
    ("scorer", "reference"),
    [
        ("yesno", answers("maybe")),
        ("yesno", answers()),
        ("short", answers()),
        ("vqa", answers()),
        ("choice", answers("a red circle")),
        ("box", answers("top left")),
        ("ocr", answers("")),
    ],
)
def test_references_that_do_not_fit_are_errors(scorer, reference):
    with pytest.raises(DataError, match="answer"):
        SCORERS[scorer].score("yes", reference)


def test_an_unknown_scorer_names_the_nearest():
    assert find_scorer("yesno") is YESNO
    with pytest.raises(DataError, match="did you mean yesno"):
        find_scorer("yes-no")
    with pytest.raises(DataError, match="there are yesno"):
        find_scorer("zzz")


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS.keys())
def test_every_scorer_names_one_of_its_metrics_as_headline(scorer):
    class Totals(dict):
        def __missing__(self, key):
            return 1.0

    assert scorer.headline in scorer.metrics(Totals())


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("0.5", 0.5),
        ("mark: 0.5", 0.5),
        ("**0.5**", 0.5),
        ("Score: 1.0", 1.0),
        ("0.8.\nIt is mostly right.", 0.8),
        ('{"mark": 0.4}', 0.4),
        ("The mark is 0.5", None),
        ("7", None),
        ("", None),
    ],
)
def test_a_judges_mark_begins_its_reply(reply, mark):
    row = read_mmvet(reply)
    assert (row and row["score"]) == mark


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("8 9", 0.9),
        ("**8, 9**\nBoth are fine.", 0.9),
        ("Assistant 1: 8, Assistant 2: 9", 0.9),
        ("8/10 9/10", None),
    ],
)
def test_a_judges_two_marks_are_its_first_line(reply, mark):
    row = read_llava_bench(reply)
    assert (row and row["score"]) == mark


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Option A: a cat\nOption B: a dog\n\nB", "B"),
        ("A. a cat\nB. a dog\n\n**Answer: B**", "B"),
        ("(A) a cat\n(B) a dog\nThe answer is A.", "A"),
        ("Option A: a cat\nOption B: a dog", None),
        ("B. a dog\nA. a cat: no\nC. a bird: no\nIf it had whiskers, the answer would be A.", "B"),
        ("B) a dog\nA) a cat has whiskers\nC) a bird has wings\nA is the best only for cats.", "B"),
        ("A. a cat\nB. a dog", None),
        ("- A) a cat\n- B) a dog\n- C) a bird", None),
        ("B. a dog\nA. a cat", "B"),
        ("A. a cat", "A"),
        ("A. a cat\nIt has whiskers.", "A"),
        ("A. a cat\nB. a dog: no\nIf it barked, the answer would be B.", "A"),
        ("C.\n\nA. a cat is in front.\nB. a dog sleeps.\nI.", "C"),
    ],
)
def test_the_letter_below_options_that_were_written_out_again(answer, letter):
    assert parse_letter(answer) == letter


@pytest.mark.parametrize(
    "answer", ["Answer: parrot", "**Answer:** Parrot.", "The answer is a parrot", "parrot"]
)
def test_a_short_answer_may_announce_itself(answer):
    assert SHORT.score(answer, answers("parrot")) == {"score": 1.0}
    assert SHORT.score(answer, answers("dog")) == {"score": 0.0}
    choice = Reference(answers=("B",), meta={"choices": ["dog", "parrot"]})
    assert CHOICE.score(answer, choice)["score"] == 1.0


def test_an_option_may_announce_itself():
    choice = Reference(answers=("B",), meta={"choices": ["dog", "The answer is yes"]})
    assert CHOICE.score("The answer is yes", choice)["score"] == 1.0
