"""How well a number tells right from wrong: the area under the ROC curve, with its interval."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vila2cli.score.stats import CONFIDENCE, FloatArray, Interval


def auc(values: Sequence[float], is_right: Sequence[bool]) -> float:
    """The chance that a right one has the lower value than a wrong one, ties counting half.

    0.5 is no better than drawing lots. Raises ValueError when there is no right or no wrong one.
    """
    if len(set(is_right)) < 2:
        raise ValueError("an AUC needs something right and something wrong")
    return _area(np.asarray(values), np.asarray(is_right, dtype=bool), np.ones(len(values)))


def auc_interval(
    values: Sequence[float], is_right: Sequence[bool], *, num_bootstrap: int = 1000, seed: int = 0
) -> Interval:
    """The area with its 95% interval of a Poisson bootstrap over the values."""
    random = np.random.default_rng(seed)
    value, right = np.asarray(values), np.asarray(is_right, dtype=bool)
    drawn = [_area(value, right, random.poisson(1.0, len(value)).astype(float)) for _ in range(num_bootstrap)]
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(auc(values, is_right), float(low), float(high))


def _area(value: NDArray[Any], right: NDArray[np.bool_], weight: FloatArray) -> float:
    """The area with each value counted `weight` times; nan where only right or only wrong ones count."""
    _, place = np.unique(value, return_inverse=True)
    rights = np.bincount(place, weights=weight * right)
    wrongs = np.bincount(place, weights=weight * ~right)
    num_pairs = rights.sum() * wrongs.sum()
    worse = wrongs.sum() - np.cumsum(wrongs)
    return float((rights * (worse + wrongs / 2)).sum() / num_pairs) if num_pairs else math.nan
