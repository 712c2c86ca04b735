import pytest

from vila2cli.errors import DataError
from vila2cli.judging.preference import preferences
from vila2cli.score.verdict import Verdict, agreement, counts, oracle_outcome, outcome_of, parse_choice


def verdict(outcome, *, answers=(), num_words=(10, 5)):
    return Verdict(
        layer="r1", against="alt-text", judge="model", outcome=outcome, num_words=num_words, answers=answers
    )


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("A.", "A"),
        ("(B)", "B"),
        ("B:", "B"),
        ("**B**", "B"),
        ("[[A]]", "A"),
        ("Caption B.", "B"),
        ("**Answer: B**", "B"),
        ("tie", "tie"),
        ('{"better": "tie"}', "tie"),
        ('```json\n{"better": "b", "why": "it is right"}\n```', "B"),
        ('Sure! Here is my verdict:\n{"better": "A"}\nCaption A says more.', "A"),
        ('{"better": "A"} or {"better": "B"}', None),
        ('{"better": "both"}', None),
        ("Caption B is better.", "B"),
        ("**I prefer the second caption**", "B"),
        ("Overall, the first caption is better because it names the dog.", "A"),
        ("Caption B is better, but A is fine", None),
        ("Caption B is better because caption A is wrong", None),
        ("Caption B is better if it is a dog", None),
        ("Caption B is not better", None),
        ("Is caption B better?", None),
        ("Caption A is better as a short text, the second is better as a long one.", None),
        ("Caption A is better because it is shorter, B is preferable in detail", None),
        ("Caption A is better since it is shorter, so I pick B", None),
        ("Caption B is better because A is wrong", "B"),
        ("Caption A is better for colour. Caption B is better for shape.", None),
        ("I would not prefer the second caption", None),
        ("A is wrong, so B", None),
        ("Caption A is better than B", "A"),
        ("B is better.", "B"),
        ("I prefer caption B over caption A because it names the dog.", "B"),
        ("**Caption B** is better than the other one.", "B"),
        ("Caption A is better than caption A", None),
        ("Caption A is better because it is as good as B", None),
        ("Caption A is better as both say the same", None),
        ("Caption A names the dog.\nCaption B does not.\n\n**Verdict: A**", "A"),
        ("Caption A invents a cat.\nTherefore, caption B is better.", "B"),
        ("A: it names the dog\nB: it is vague\nThe better caption is A.", "A"),
        ("The dog is brown, so I do not think that\ncaption A is better.", None),
        ("- A names the dog\n- B is vague\nA is better.", "A"),
        ("Answer: A\nOn second thought,\nAnswer: B", None),
        ("Caption A is better.\nCaption B is better.", None),
        ("Caption A: 4\nCaption B: 3", None),
        ("It's a tie.", "tie"),
        ("Both captions are equally accurate.", "tie"),
        ("A names the dog.\nNeither caption is better than the other.", "tie"),
        ("Both captions are equally accurate, but A is longer.", None),
        ("a", None),
        ("", None),
        ("A or B", None),
        ("A: a large red circle", None),
        ("Answer: A", "A"),
        ("AB", None),
        ("C", None),
    ],
)
def test_a_judgement_is_a_letter_or_one_json_object(answer, letter):
    assert parse_choice(answer) == letter


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("A", "B", "win"),
        ("B", "A", "loss"),
        ("A", "A", "tie"),
        ("B", "B", "tie"),
        ("A", "both", "unjudged"),
        ("", "B", "unjudged"),
    ],
)
def test_a_win_needs_both_orders(first, second, outcome):
    assert outcome_of(first, second) == outcome


@pytest.mark.parametrize(("balance", "against", "outcome"), [(3, 2, "win"), (-1, -1, "tie"), (-2, 0, "loss")])
def test_the_oracle_prefers_the_higher_balance(balance, against, outcome):
    assert oracle_outcome(balance, against) == outcome


def test_figures_of_a_judge():
    verdicts = [
        verdict("win", answers=("A", "B")),
        verdict("win", answers=("A", "B"), num_words=(3, 5)),
        verdict("loss", answers=("B", "A")),
        verdict("tie", answers=("A", "A")),
        verdict("tie"),
        verdict("unjudged", answers=("A", "hm")),
    ]
    assert counts(verdicts) == {"wins": 2, "losses": 1, "ties": 2, "unjudged": 1, "num_pairs": 5, "equal": 0}
    found = preferences(verdicts, list(map(str, range(6))), num_bootstrap=200, seed=0)
    assert found["win_rate"].value == 0.6
    assert found["win_rate"].low < 0.6 < found["win_rate"].high
    assert found["position_bias"].value == pytest.approx(
        5 / 8
    )  # of the pairs that were answered in both orders
    assert found["length_bias"].value == pytest.approx(1 / 3)


def test_nothing_judged_has_no_rate():
    unjudged = [verdict("unjudged", answers=("x", "y"))]
    assert counts(unjudged)["num_pairs"] == 0
    assert preferences(unjudged, ["0"], num_bootstrap=200, seed=0) == {}


def test_agreement_leaves_out_what_one_of_them_did_not_judge():
    outcomes = {
        "oracle": {1: "win", 2: "loss", 3: "win", 4: "tie"},
        "model": {1: "win", 2: "loss", 3: "unjudged", 5: "tie"},
    }
    assert agreement(outcomes) == [{"judges": ["oracle", "model"], "kappa": 1.0, "num_samples": 2}]
    assert agreement({"oracle": {1: "win"}}) == []


def test_verdicts_survive_json():
    one = verdict("win", answers=("A", "B"))
    assert Verdict.from_json(one.to_json()) == one


@pytest.mark.parametrize("change", [{"outcome": "draw"}, {"num_words": 3}, {"num_words": None}])
def test_other_json_is_no_verdict(change):
    with pytest.raises(DataError, match="not a verdict"):
        Verdict.from_json({**verdict("win").to_json(), **change})
