"""How well a number tells right from wrong: the area under the ROC curve, with its interval."""

from collections.abc import Sequence

import numpy as np

from vila2cli.score.stats import CONFIDENCE, FloatArray, Interval


def auc(values: Sequence[float], is_right: Sequence[bool], weights: FloatArray | None = None) -> float:
    """The chance that a right one has the lower value than a wrong one, ties counting half.

    0.5 is no better than drawing lots. `weights` says how often each one counts. Raises ValueError
    when there is no right or no wrong one.
    """
    value = np.asarray(values, dtype=np.float64)
    right = np.asarray(is_right, dtype=bool)
    weight = np.ones(len(value)) if weights is None else weights
    _, place = np.unique(value, return_inverse=True)
    rights = np.bincount(place, weights=weight * right)
    wrongs = np.bincount(place, weights=weight * ~right)
    if not rights.sum() or not wrongs.sum():
        raise ValueError("an AUC needs something right and something wrong")
    above = wrongs.sum() - np.cumsum(wrongs)
    return float((rights * (above + wrongs / 2)).sum() / (rights.sum() * wrongs.sum()))


def auc_interval(
    values: Sequence[float], is_right: Sequence[bool], *, num_bootstrap: int = 1000, seed: int = 0
) -> Interval:
    """The area with its 95% interval of a Poisson bootstrap over the values."""
    random = np.random.default_rng(seed)
    drawn = [
        auc(values, is_right, random.poisson(1.0, len(values)).astype(np.float64)) for _ in range(num_bootstrap)
    ]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(auc(values, is_right), float(low), float(high))
