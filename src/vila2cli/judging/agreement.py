"""How far judges agree beyond chance: Cohen's kappa with an interval, Fleiss' kappa, Krippendorff's alpha.

Cohen's is for two judges of the same samples, Fleiss' for as many ratings of each sample by whomever,
Krippendorff's for any number of judges of whom each may have left samples out.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, Unpack

import numpy as np

from vila2cli.score.stats import Bootstrap, Columns, FloatArray, Interval, columns_of, estimate, ratio

Level = Literal["nominal", "ordinal"]
ORDER = ("loss", "tie", "win")
"""The outcomes of a comparison as an ordinal scale."""


def kappa_interval(
    first: Sequence[str], second: Sequence[str], images: Sequence[str], **bootstrap: Unpack[Bootstrap]
) -> Interval | None:
    """Cohen's kappa of two judges with its bootstrap interval over images; None where it is not defined.

    Where they agree on everything the replicates do not vary and tell nothing of how sure that is: None, too.
    `first[i]` and `second[i]` are the labels that sample i got, `images[i]` what it is resampled with.
    """
    labels = sorted({*first, *second})
    if len(labels) < 2:
        return None
    rows = [
        {f"{x}/{y}": float((a, b) == (x, y)) for x in labels for y in labels}
        for a, b in zip(first, second, strict=True)
    ]
    kappa = estimate(columns_of(rows), _kappa_of(labels), groups=images, **bootstrap)["kappa"]
    return None if kappa.is_even else kappa.interval()


def _kappa_of(labels: Sequence[str]) -> Callable[[Columns], dict[str, FloatArray]]:
    def kappa(totals: Columns) -> dict[str, FloatArray]:
        joint = np.stack([np.stack([totals[f"{x}/{y}"] for y in labels]) for x in labels])
        observed = ratio(np.trace(joint), totals["n"])
        chance = ratio((joint.sum(axis=0) * joint.sum(axis=1)).sum(axis=0), totals["n"] ** 2)
        return {"kappa": ratio(observed - chance, 1.0 - chance)}

    return kappa


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]]) -> float | None:
    """Fleiss' kappa over samples that all have equally many ratings; None where it is not defined.

    `ratings[i]` are the labels of sample i in any order.
    """
    if not ratings or len(ratings[0]) < 2:
        return None
    num_raters = len(ratings[0])
    assert all(len(labels) == num_raters for labels in ratings), "every sample needs as many ratings"
    counts = [Counter(labels) for labels in ratings]
    agreeing = [sum(c * (c - 1) for c in count.values()) for count in counts]
    observed = sum(agreeing) / (len(ratings) * num_raters * (num_raters - 1))
    totals = sum(counts, Counter[Hashable]())
    chance = sum((c / totals.total()) ** 2 for c in totals.values())
    return None if chance == 1.0 else (observed - chance) / (1 - chance)


def krippendorff_alpha(
    units: Sequence[Sequence[str]], *, level: Level = "nominal", order: Sequence[str] = ORDER
) -> float | None:
    """Krippendorff's alpha from the labels that each unit got; units with one label do not count.

    `order` is the ordinal scale, lowest first. None where nobody can be compared, or all labels are equal.
    """
    paired = [labels for labels in units if len(labels) > 1]
    values = list(order) if level == "ordinal" else sorted({label for unit in paired for label in unit})
    place = {value: i for i, value in enumerate(values)}
    together = np.zeros((len(values), len(values)))
    for labels in paired:
        for a, b in combinations(labels, 2):
            together[place[a], place[b]] += 1 / (len(labels) - 1)
            together[place[b], place[a]] += 1 / (len(labels) - 1)
    totals = together.sum(axis=1)
    distance = _distances(totals, level)
    expected = float((np.outer(totals, totals) * distance).sum())
    if expected == 0:
        return None
    return 1 - (float(totals.sum()) - 1) * float((together * distance).sum()) / expected


def _distances(totals: FloatArray, level: Level) -> FloatArray:
    """Squared differences between the values, from how often each was given."""
    num = len(totals)
    if level == "nominal":
        return np.ones((num, num)) - np.eye(num)
    between = np.cumsum(totals) - totals / 2
    squared: FloatArray = (between[:, None] - between[None, :]) ** 2
    return squared


def many_judges(by_judge: Mapping[str, Mapping[Any, str]]) -> dict[str, float | int | None]:
    """Fleiss' kappa over what everybody judged, and Krippendorff's alpha over what two or more did."""
    keys = {key for labels in by_judge.values() for key in labels}
    units = [[labels[key] for labels in by_judge.values() if key in labels] for key in sorted(keys, key=str)]
    by_all = [labels for labels in units if len(labels) == len(by_judge)]
    return {
        "num_judges": len(by_judge),
        "num_samples": len([labels for labels in units if len(labels) > 1]),
        "num_judged_by_all": len(by_all),
        "fleiss_kappa": fleiss_kappa(by_all),
        "krippendorff_alpha": krippendorff_alpha(units),
        "krippendorff_alpha_ordinal": krippendorff_alpha(units, level="ordinal"),
    }
