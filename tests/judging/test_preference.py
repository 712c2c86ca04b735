"""Simulated judges of known quality and position bias: what they prefer is found again, with its interval."""

from random import Random

import pytest

from vila2cli.judging.preference import preferences
from vila2cli.score.stats import Interval, cautious_share
from vila2cli.score.verdict import Verdict, outcome_of

NUM_IMAGES = 100
NUM_SIMULATIONS = 200  # of 100 only, one in ten judges with 95% intervals is found fewer than 93 times


def verdict(first, second, *, num_words=(10, 5)):
    return Verdict(
        layer="r1",
        against="alt-text",
        judge="model",
        outcome=outcome_of(first, second),
        num_words=num_words,
        answers=(first, second),
    )


def equal():
    return Verdict(layer="r1", against="alt-text", judge="model", outcome="tie", num_words=(5, 5))


def true_rate(preferred, quality):
    """How often `layer` is the better one, where the judge finds the better of two with probability `quality`.

    (Rogan and Gladen's (1978) estimator of a rate behind an imperfect test.)
    """
    value, low, high = (
        min(1.0, max(0.0, (rate - (1 - quality)) / (2 * quality - 1)))
        for rate in (preferred.value, preferred.low, preferred.high)
    )
    return Interval(value, low, high)


def figures(verdicts, num_bootstrap=200, seed=0):
    images = [f"image {number}" for number in range(len(verdicts))]
    return preferences(verdicts, images, num_bootstrap=num_bootstrap, seed=seed)


def simulate(random, *, better, quality, bias, wavers):
    """Verdicts on images of which `layer` is truly better with probability `better`.

    Each answer names the caption shown first with probability `bias`; otherwise what the judge reads, which
    is the better caption with probability `quality`. A judge that wavers reads anew for each answer.
    """
    verdicts = []
    for _ in range(NUM_IMAGES):
        is_better = random.random() < better
        answers = []
        reading = (random.random() < quality) == is_better
        for is_first in (True, False):
            if wavers:
                reading = (random.random() < quality) == is_better
            named_first = random.random() < bias or reading == is_first
            answers.append("A" if named_first else "B")
        verdicts.append(verdict(*answers))
    return verdicts


@pytest.mark.parametrize("bias", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("wavers", [False, True])
def test_the_true_win_rate_is_found_whatever_the_position_bias(bias, wavers):
    better, quality = 0.7, 0.85
    num_found = num_naive = 0
    for number in range(NUM_SIMULATIONS):
        verdicts = simulate(Random(number), better=better, quality=quality, bias=bias, wavers=wavers)
        found = figures(verdicts, seed=number)
        rate = true_rate(found["position_free_rate"], quality)
        num_found += rate.low <= better <= rate.high
        naive = true_rate(found["win_rate"], quality)
        num_naive += naive.low <= better <= naive.high
    assert num_found >= 0.93 * NUM_SIMULATIONS
    assert num_found > num_naive or bias == 0.1


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_bootstrap_intervals_cover_a_known_win_rate(share):
    num_found = 0
    for number in range(NUM_SIMULATIONS):
        random = Random(number)
        verdicts = [
            verdict(*(("A", "B") if random.random() < share else ("B", "A"))) for _ in range(NUM_IMAGES)
        ]
        interval = figures(verdicts, seed=number)["win_rate"]
        num_found += interval.low <= share <= interval.high
    assert num_found >= 0.93 * NUM_SIMULATIONS


def test_position_bias_is_estimated_with_its_interval():
    verdicts = simulate(Random(5), better=0.5, quality=1.0, bias=0.4, wavers=False)
    bias = figures(verdicts)["position_bias"]
    assert bias.low < 0.5 + 0.4 / 2 < bias.high
    assert bias.low > 0.55


def test_figures_worked_by_hand():
    wins, losses = [verdict("A", "B")] * 3, [verdict("B", "A", num_words=(3, 8))]
    first_twice, second_twice = [verdict("A", "A")] * 4, [verdict("B", "B")]
    found = figures([*wins, *losses, *first_twice, *second_twice, equal()])
    assert found["win_rate"].value == pytest.approx((3 + 6 / 2) / 10)
    assert found["position_free_rate"].value == pytest.approx((3 + 1 + 1 / 2) / (3 + 1 + 2 + 1))
    assert found["position_bias"].value == pytest.approx((4 + 8) / 18)
    assert found["length_bias"].value == 1.0  # the one loss went to the longer caption as well


def test_ties_that_a_judge_declares_count_as_halves():
    tie = '{"better": "tie"}'
    found = figures([verdict(tie, tie), verdict("A", tie), verdict("A", "B"), verdict("A", "B")])
    assert found["position_free_rate"].value == found["win_rate"].value == 0.75


def test_verdicts_that_are_all_equal_leave_room_for_others():
    found = figures([verdict("A", "B")] * 20)
    assert found["win_rate"] == found["position_free_rate"] == cautious_share(1.0, 20)
    assert found["win_rate"].low < 0.9


def test_images_asked_about_twice_are_one_trial():
    verdicts = simulate(Random(3), better=0.6, quality=1.0, bias=0.0, wavers=False)
    names = [f"image {number}" for number in range(NUM_IMAGES)]
    once = preferences(verdicts, names, num_bootstrap=200, seed=0)["position_free_rate"]
    twice = preferences(verdicts * 2, names * 2, num_bootstrap=200, seed=0)["position_free_rate"]
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.15)


def test_what_nothing_is_known_of_is_left_out():
    unread = Verdict(
        layer="r1", against="alt-text", judge="model", outcome="unjudged", num_words=(1, 2), reason="refused"
    )
    assert figures([unread]) == {}
    assert set(figures([equal(), unread])) == {"win_rate", "position_free_rate"}
    assert set(figures([verdict("A", "A")])) == {"win_rate", "position_bias"}
