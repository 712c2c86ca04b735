import math
from random import Random

import numpy as np
import pytest

from vila2cli.judging.ranking import Comparison, bradley_terry, fit, to_json

NAMES = ("alt-text", "r1", "r2")


def compare(random, strengths, num_images):
    """Every pair on every image, won with the odds of the strengths."""
    found = []
    for image in range(num_images):
        for first in range(len(strengths)):
            for second in range(first):
                chance = 1 / (1 + math.exp(strengths[second] - strengths[first]))
                found.append(Comparison(first, second, float(random.random() < chance), f"{image}"))
    return found


def test_two_captionings_have_the_log_odds_of_their_wins():
    wins = np.array([[[0.0, 29.5], [69.5, 0.0]]])
    assert fit(wins)[0] == pytest.approx([0.0, math.log(70 / 30)])


def test_known_strengths_are_found_within_their_intervals():
    truth = (0.0, 0.8, 1.1)
    num_found = 0
    for number in range(100):
        comparisons = compare(Random(number), truth, 100)
        found = bradley_terry(NAMES, comparisons, num_bootstrap=100, seed=number)
        num_found += found["r2"].low <= truth[2] <= found["r2"].high
    assert num_found >= 90
    assert list(found) == list(NAMES)
    assert found["alt-text"].low == found["alt-text"].high == 0.0


def test_a_captioning_that_never_lost_is_not_infinitely_strong():
    always = [Comparison(1, 0, 1.0, f"{image}") for image in range(20)]
    found = bradley_terry(NAMES[:2], always, num_bootstrap=50, seed=0)
    assert 3 < found["r1"].value < 5
    assert to_json(found)[1]["elo"] == pytest.approx(found["r1"].value * 400 / math.log(10), abs=0.06)


def test_ties_are_half_a_win_for_each():
    ties = [Comparison(1, 0, 0.5, f"{image}") for image in range(9)]
    assert bradley_terry(NAMES[:2], ties, num_bootstrap=20, seed=0)["r1"].value == pytest.approx(0)


def test_what_was_not_compared_has_no_rank():
    found = bradley_terry(NAMES, [Comparison(2, 0, 1.0, "a")], num_bootstrap=20, seed=0)
    assert list(found) == ["alt-text", "r2"]


def test_what_no_chain_of_comparisons_ties_to_the_oldest_has_no_rank():
    apart = [Comparison(1, 0, 1.0, "a"), Comparison(1, 0, 0.0, "b"), Comparison(3, 2, 1.0, "a")]
    names = ("alt-text", "r1", "other", "other again")
    assert list(bradley_terry(names, apart, num_bootstrap=20, seed=0)) == ["alt-text", "r1"]
    tied = [*apart, Comparison(3, 1, 1.0, "a")]
    assert list(bradley_terry(names, tied, num_bootstrap=20, seed=0)) == list(names)
