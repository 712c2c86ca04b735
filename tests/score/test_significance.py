"""p-values, Holm's adjustment, sample sizes, and how often the intervals hold the truth."""

import functools

import numpy as np
import pytest

from vila2cli.score import stats
from vila2cli.score.short import SHORT
from vila2cli.score.significance import holm, p_value, samples_needed, smallest_visible, standard_error
from vila2cli.score.stats import columns_of, difference, estimate


@pytest.fixture(autouse=True)
def draws_once(monkeypatch):
    """Resamples of one image and seed are drawn once: what varies between simulations is the data."""
    monkeypatch.setattr(stats, "_times_drawn", functools.cache(stats._times_drawn))


def accuracy(values, seed=0, num_bootstrap=400):
    columns = columns_of([{"score": float(value)} for value in values])
    groups = [f"image {row}" for row in range(len(values))]
    return estimate(columns, SHORT.metrics, groups=groups, num_bootstrap=num_bootstrap, seed=seed)["accuracy"]


def test_the_bootstrap_interval_holds_the_true_accuracy():
    rng = np.random.default_rng(5)
    held = 0
    for simulation in range(100):
        interval = accuracy(rng.random(300) < 0.7, seed=simulation).interval()
        held += interval.low <= 0.7 <= interval.high
    assert held >= 93


def test_the_paired_interval_holds_the_true_difference():
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(100):
        first = rng.random(400) < 0.6
        second = np.where(rng.random(400) < 0.3, rng.random(400) < 0.8, first)  # 30% are answered anew
        interval = difference(accuracy(first), accuracy(second)).interval()
        held += interval.low <= 0.3 * (0.8 - 0.6) <= interval.high
    assert held >= 93


def test_p_values_of_no_difference_are_seldom_small():
    rng = np.random.default_rng(7)
    pairs = [(rng.random(200) < 0.5, rng.random(200) < 0.5) for _ in range(100)]
    small = sum(p_value(difference(accuracy(a), accuracy(b))) < 0.05 for a, b in pairs)
    assert small <= 12
    assert p_value(difference(accuracy([1, 0] * 50), accuracy([1, 0] * 50))) == 1.0
    assert p_value(difference(accuracy([0] * 50), accuracy([1] * 50))) < 1e-12


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


def test_with_the_samples_needed_the_difference_shows_most_of_the_time():
    rng = np.random.default_rng(8)

    def once(num):
        first = rng.random(num) < 0.5
        return difference(accuracy(first), accuracy(np.where(rng.random(num) < 0.1, True, first)))

    pilot = once(2000)
    num = samples_needed(standard_error(pilot), 2000, 0.05)
    shown = sum(p_value(once(num)) < 0.05 for _ in range(100))
    assert 65 <= shown <= 95
