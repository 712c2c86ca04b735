import pytest

from vila2cli.errors import DataError
from vila2cli.score.verdict import Verdict, agreement, oracle_outcome, outcome_of, parse_letter, summarise


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
        ("a", None),
        ("", None),
        ("A or B", None),
        ("A: a large red circle", None),
        ("Answer: A", None),
        ("AB", None),
        ("C", None),
    ],
)
def test_only_a_bare_letter_is_a_judgement(answer, letter):
    assert parse_letter(answer) == letter


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
    figures = summarise(verdicts)
    assert (figures["wins"], figures["losses"], figures["ties"], figures["unjudged"]) == (2, 1, 2, 1)
    assert figures["num_pairs"] == 5
    assert figures["win_rate"]["value"] == 0.6
    assert figures["win_rate"]["low"] < 0.6 < figures["win_rate"]["high"]
    assert figures["position_bias"] == pytest.approx(6 / 9)
    assert figures["length_bias"] == pytest.approx(1 / 3)


def test_nothing_judged_has_no_rate():
    figures = summarise([verdict("unjudged", answers=("x", "y"))])
    assert (figures["win_rate"], figures["position_bias"], figures["length_bias"]) == (None, None, None)
    assert figures["num_pairs"] == 0


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
