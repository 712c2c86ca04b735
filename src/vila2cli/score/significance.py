"""Whether a difference is more than chance, after how many comparisons, and how many samples would show it.

All of it rests on the spread of paired bootstrap replicates, taken for the standard error of the difference.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from vila2cli.score.stats import CONFIDENCE, Difference, Estimate

POWER = 0.8
"""How often a true difference should show, for the number of samples."""


def standard_error(estimate: Estimate) -> float:
    """The spread of the bootstrap replicates, 0 where they do not vary."""
    if estimate.is_even:
        return 0.0
    return float(np.std(estimate.replicates_B, ddof=1)) if len(estimate.replicates_B) > 1 else math.nan


def p_value(found: Difference) -> float:
    """Two-sided probability of a difference as large as this one where there is none (normal approximation)."""
    if found.error == 0.0:
        return 1.0 if found.centre == 0.0 else 0.0
    return math.erfc(abs(found.centre) / found.error / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979), so that 5% is the chance of any false alarm."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def smallest_visible(error: float, *, power: float = POWER) -> float | None:
    """The true difference that shows as one with this power, two-sided at 5%, given its standard error.

    None where there is no spread: samples that all differ alike do not say how others would.
    """
    if not error > 0:
        return None
    normal = NormalDist()
    return (normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(power)) * error


FEWEST = 6
"""Pairs that all differ alike have p below 0.05, two-sided, from this number on: 2 * 0.5**6 = 0.03."""


def samples_needed(error: float, num_samples: int, difference: float) -> int | None:
    """How many samples like these show a difference; None for a difference of nothing.

    `error` is the standard error with `num_samples`, and goes down with the root of their number. Without any
    spread it says nothing of that, so there is no number. Fewer than FEWEST show nothing, however they differ.
    """
    visible = smallest_visible(error)
    if difference == 0.0 or visible is None:
        return None
    return max(FEWEST, math.ceil(num_samples * (visible / abs(difference)) ** 2))
