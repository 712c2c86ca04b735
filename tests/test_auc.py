"""The area under the ROC curve against counting pairs."""

import itertools
from random import Random

import pytest
from auc import auc, auc_interval


def test_it_is_the_share_of_pairs_in_the_right_order() -> None:
    random = Random(0)
    values = [float(random.randrange(8)) for _ in range(60)]
    is_right = [random.random() < 0.4 for _ in values]
    rights = [value for value, right in zip(values, is_right, strict=True) if right]
    wrongs = [value for value, right in zip(values, is_right, strict=True) if not right]
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a, b in itertools.product(rights, wrongs)]
    assert auc(values, is_right) == pytest.approx(sum(pairs) / len(pairs))


def test_the_ends_and_the_middle() -> None:
    assert auc([1, 2, 3, 4], [True, True, False, False]) == 1
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 0
    assert auc([5, 5, 5, 5], [True, False, True, False]) == 0.5
    with pytest.raises(ValueError, match="something wrong"):
        auc([1, 2], [True, True])


def test_the_interval_holds_the_value_and_narrows_with_more() -> None:
    random = Random(0)
    is_right = [random.random() < 0.5 for _ in range(2000)]
    values = [random.gauss(0 if right else 0.7, 1) for right in is_right]
    small = auc_interval(values[:200], is_right[:200], num_bootstrap=200)
    large = auc_interval(values, is_right, num_bootstrap=200)
    assert large.low < large.value < large.high
    assert large.low < 0.69 < large.high  # of two normal curves 0.7 apart
    assert large.high - large.low < (small.high - small.low) / 2


def test_a_resample_without_the_one_that_is_wrong_does_not_count() -> None:
    interval = auc_interval([1, 2, 3], [True, True, False], num_bootstrap=200)
    assert (interval.low, interval.value, interval.high) == (1, 1, 1)
