"""What a judge prefers once its position bias is taken out, with bootstrap intervals over images.

Every pair is asked in both orders and a disagreement is a tie. Say that a judge names the caption
shown first with probability b whatever it reads, and otherwise prefers `layer` with probability p.
Then the win rate with ties as halves is expected at b/2 + (1 - b)p: drawn towards one half. A pair
lost to the position says "the first" twice; a judge that merely wavers says "the first" twice as
often as "the second" twice. So b is estimated as their difference over all pairs, and

    p = (wins + m + e/2) / (wins + losses + 2m + e),   m = min(first twice, second twice),

with e the ties that no position made (equal captions, or a judge that said so). Where a judge never
wavers this is wins / (wins + losses). It is the judge's preference, not the truth, which
Rogan and Gladen's estimator gives of a judge that is wrong in a known share of pairs.

Percentiles of the replicates are too close together for shares of few images (they cover some 94% near
one half, 92% near an end, and shrink to a point where all verdicts are equal). Instead the variance of
the replicates says how many independent trials the images amount to, and the interval is the cautious one
of that many: in simulations it covers 96 to 98%.
"""

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from vila2cli.score.stats import (
    Bootstrap,
    Columns,
    FloatArray,
    Interval,
    columns_of,
    estimate,
    ratio,
    share_interval,
)
from vila2cli.score.verdict import Verdict, parse_choice

RATES = ("win_rate", "position_free_rate")
BIASES = ("position_bias", "length_bias")


def preferences(
    verdicts: Sequence[Verdict], images: Sequence[str], **bootstrap: Unpack[Bootstrap]
) -> dict[str, Interval]:
    """`win_rate`, `position_free_rate`, `position_bias` and `length_bias` of one judge on one pair of layers.

    `win_rate` counts ties as halves, `position_bias` is the share of letters that were A (0.5 is none), and
    `length_bias` the share of decided verdicts that the caption with more words won. `images[i]` names what
    verdict i is resampled with. Left out are unjudged verdicts, those with an answer in one order only, and
    figures of which nothing is known.
    """
    pairs = zip(verdicts, images, strict=True)
    judged = [(verdict, image) for verdict, image in pairs if verdict.outcome != "unjudged"]
    if not judged:
        return {}
    columns = columns_of([_row(verdict) for verdict, _ in judged])
    shares = estimate(
        columns,
        lambda totals: {name: ratio(*parts) for name, parts in _parts(totals).items()},
        groups=[image for _, image in judged],
        **bootstrap,
    )
    parts = _parts({name: column.sum() for name, column in columns.items()})
    return {
        name: share_interval(share, float(parts[name][1]), float(parts[name][1]))
        for name, share in shares.items()
        if parts[name][1] > 0
    }


def _row(verdict: Verdict) -> dict[str, float]:
    """What is counted of a verdict, each 0, 1 or a number of letters."""
    outcome, (first, second) = verdict.outcome, verdict.num_words
    choices = [parse_choice(answer) for answer in verdict.answers]
    is_decided = outcome in ("win", "loss")
    is_tie = outcome == "tie"
    twice = choices[0] if is_tie and len(choices) == 2 and choices[0] == choices[1] else None
    counted = {
        "won": outcome == "win",
        "lost": outcome == "loss",
        "first_twice": twice == "A",
        "second_twice": twice == "B",
        "even": is_tie and twice not in ("A", "B"),
        "named_first": choices.count("A"),
        "letters": choices.count("A") + choices.count("B"),
        "longer_won": is_decided and first != second and (outcome == "win") == (first > second),
        "lengths": is_decided and first != second,
    }
    return {name: float(count) for name, count in counted.items()}


def _parts(totals: Columns) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Each figure as what is counted, and out of how many."""
    won, lost, even = totals["won"], totals["lost"], totals["even"]
    wavered = np.minimum(totals["first_twice"], totals["second_twice"])
    return {
        "win_rate": (won + (totals["n"] - won - lost) / 2, totals["n"]),
        "position_free_rate": (won + wavered + even / 2, won + lost + 2 * wavered + even),
        "position_bias": (totals["named_first"], totals["letters"]),
        "length_bias": (totals["longer_won"], totals["lengths"]),
    }
