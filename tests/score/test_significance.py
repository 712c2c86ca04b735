"""p-values, Holm's adjustment, sample sizes, and how often the intervals hold the truth."""

import functools
import itertools

import numpy as np
import pytest

from vila2cli.score import stats
from vila2cli.score.significance import holm, p_value, samples_needed, smallest_visible, standard_error
from vila2cli.score.stats import Support, columns_of, difference, difference_of, estimate
from vila2cli.score.vqa import SHORT

NUM_SIMULATIONS = 400
ENOUGH = 0.93 - (0.93 * 0.07 / NUM_SIMULATIONS) ** 0.5
"""Coverage is to be at least 93 in 100; one standard error of so many simulations is allowed for."""


@pytest.fixture(autouse=True)
def quick_draws(monkeypatch):
    """One generator for the resamples of all images: one keyed by each name takes longer to set up."""
    rng = np.random.Generator(np.random.Philox(1))
    draw = functools.lru_cache(maxsize=4096)(lambda image, num, seed: rng.poisson(1.0, num).astype(float))
    monkeypatch.setattr(stats, "_times_drawn", draw)


def accuracies(*answers, simulation=0, num_bootstrap=400):
    """An estimate for each model; images are named after the simulation, so each has resamples of its own."""
    groups = [f"image {simulation}/{row}" for row in range(len(answers[0]))]
    return [
        estimate(
            columns_of([{"score": float(value)} for value in values]),
            SHORT.metrics,
            groups=groups,
            num_bootstrap=num_bootstrap,
            seed=0,
        )["accuracy"]
        for values in answers
    ]


def p_of(first, second, **settings):
    """The p-value of a paired difference of two models' answers."""
    of = Support(len(first), len(first))
    return p_value(difference_of(*accuracies(first, second, **settings), top=1.0, of=of))


def share_held(truth, estimates):
    intervals = [one.interval() for one in estimates]
    return sum(one.low <= truth <= one.high for one in intervals) / len(intervals)


def test_the_bootstrap_interval_holds_the_true_accuracy():
    rng = np.random.default_rng(5)
    found = [accuracies(rng.random(300) < 0.7, simulation=number)[0] for number in range(NUM_SIMULATIONS)]
    assert share_held(0.7, found) >= ENOUGH


@pytest.mark.parametrize(("share_right", "share_mended"), [(0.6, 0.1), (0.9, 0.4)])
def test_the_paired_interval_holds_the_true_difference(share_right, share_mended):
    """The second model mends a share of what the first has wrong: 4 points of 300 samples."""
    rng = np.random.default_rng(6)
    found = []
    for number in range(NUM_SIMULATIONS):
        first = rng.random(300) < share_right
        second = first | (rng.random(300) < share_mended)
        found.append(difference(*accuracies(first, second, simulation=number)))
    assert share_held((1 - share_right) * share_mended, found) >= ENOUGH


def test_the_paired_interval_holds_where_answers_change_both_ways():
    rng = np.random.default_rng(9)
    found = []
    for number in range(NUM_SIMULATIONS):
        first = rng.random(400) < 0.6
        second = np.where(rng.random(400) < 0.3, rng.random(400) < 0.8, first)  # 30% are answered anew
        found.append(difference(*accuracies(first, second, simulation=number)))
    assert share_held(0.3 * (0.8 - 0.6), found) >= ENOUGH


def test_p_values_of_no_difference_are_seldom_small():
    rng = np.random.default_rng(7)
    pairs = [(rng.random(200) < 0.5, rng.random(200) < 0.5) for _ in range(NUM_SIMULATIONS)]
    p_values = [p_of(*pair, simulation=number) for number, pair in enumerate(pairs)]
    assert sum(p < 0.05 for p in p_values) <= 0.08 * NUM_SIMULATIONS
    assert p_of([1, 0] * 50, [1, 0] * 50) == 1.0
    assert p_of([0] * 50, [1] * 50) < 1e-12
    assert p_of([0], [1]) > 0.05, "one sample shows nothing"


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm(given, adjusted):
    assert holm(given) == pytest.approx(adjusted)


def test_samples_needed_agree_with_the_textbook():
    error = (0.25 / 100) ** 0.5  # of a share of one half in 100 samples
    assert smallest_visible(error) == pytest.approx(2.8016 * 0.05, rel=1e-4)
    assert samples_needed(error, 100, 0.14008) == 100
    assert samples_needed(error, 100, 0.01) == 19623
    assert samples_needed(error, 100, 0.0) is None
    assert samples_needed(error, 100, 1.0) == 6  # the sign test's fewest; the formula alone says 2


def test_samples_that_all_differ_alike_say_nothing_of_how_many_are_needed():
    error = standard_error(difference(*accuracies([0] * 50, [1] * 50)))
    assert error == 0
    assert smallest_visible(error) is None
    assert samples_needed(error, 50, 1.0) is None


def test_with_the_samples_needed_the_difference_shows_most_of_the_time():
    rng = np.random.default_rng(8)
    numbers = itertools.count()

    def once(num):
        first = rng.random(num) < 0.6
        second = np.where(rng.random(num) < 0.3, rng.random(num) < 0.8, first)
        return first, second, {"simulation": next(numbers)}

    first, second, settings = once(2000)
    error = standard_error(difference(*accuracies(first, second, **settings)))
    num = samples_needed(error, 2000, 0.3 * (0.8 - 0.6))
    drawn = (once(num) for _ in range(200))
    shown = sum(p_of(first, second, **settings) < 0.05 for first, second, settings in drawn) / 200
    assert 0.7 <= shown <= 0.9
