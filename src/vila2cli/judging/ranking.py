"""Bradley-Terry strengths of captionings from all their pairwise verdicts, with intervals over images.

Bradley and Terry (1952): `layer` beats `against` with the odds exp(strength - strength). A tie is half
a win for each. The oldest captioning stands at 0. Each pair that was compared gets half a win more on
both sides, without which one that never lost would be infinitely strong.

Shapes: K captionings, B resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from vila2cli.score.stats import CONFIDENCE, Bootstrap, FloatArray, Interval, resample_totals

_MAX_STEPS = 10_000
_TOLERANCE = 1e-7
_PRIOR_WINS = 0.5
ELO_PER_LOGIT = 400 / math.log(10)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One judged pair: the indices of two captionings, what the first scored (1, 0.5 or 0), and the image."""

    first: int
    second: int
    score: float
    image: str


def bradley_terry(
    names: Sequence[str], comparisons: Sequence[Comparison], **bootstrap: Unpack[Bootstrap]
) -> dict[str, Interval]:
    """Strengths as log-odds over the first name that was compared, which stands at 0.

    A name that no chain of comparisons ties to it is left out, as nothing is known of its strength. All
    comparisons of an image are resampled together.
    """
    tied = _tied(comparisons)
    names = [names[k] for k in tied]
    place = {k: new for new, k in enumerate(tied)}
    comparisons = [game for game in comparisons if game.first in place]
    images, index = np.unique([game.image for game in comparisons], return_inverse=True)
    num = len(names)
    wins = np.zeros((len(images), num, num))
    for row, game in zip(index, comparisons, strict=True):
        first, second = place[game.first], place[game.second]
        wins[row, first, second] += game.score
        wins[row, second, first] += 1 - game.score
    totals = resample_totals(wins.reshape(len(images), -1), images.tolist(), **bootstrap)
    stacked = np.concatenate([wins.sum(axis=0)[None], totals.reshape(-1, num, num)])
    strengths = fit(stacked)
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(strengths[1:], [tail, 1 - tail], axis=0)
    intervals = zip(strengths[0], *ends, strict=True)
    return {name: Interval(*map(float, values)) for name, values in zip(names, intervals, strict=True)}


def _tied(comparisons: Sequence[Comparison]) -> list[int]:
    """The lowest index that was compared, and all that a chain of comparisons ties to it, in order."""
    edges = {(game.first, game.second) for game in comparisons}
    tied = {min(min(edge) for edge in edges)}
    while more := {k for edge in edges if tied & set(edge) for k in edge} - tied:
        tied |= more
    return sorted(tied)


def fit(wins_BKK: FloatArray) -> FloatArray:
    """Strengths B x K that make B tables of wins likeliest, by Hunter's (2004) minorise-maximise steps.

    `wins[b, i, j]` is how often i won over j, ties counted half to each.
    """
    played = (wins_BKK + wins_BKK.transpose(0, 2, 1)).sum(axis=0) > 0
    wins = wins_BKK + _PRIOR_WINS * played
    games = wins + wins.transpose(0, 2, 1)
    won = wins.sum(axis=2)
    has_played = played.any(axis=1)
    strength = np.ones(won.shape)
    for _ in range(_MAX_STEPS):
        pairs = strength[:, :, None] + strength[:, None, :]
        share = (games / pairs).sum(axis=2)
        new = np.where(has_played, won / np.where(share > 0, share, 1.0), 1.0)
        new /= np.exp(np.log(new).mean(axis=1, keepdims=True))
        step = np.abs(np.log(new) - np.log(strength)).max()
        strength = new
        if step < _TOLERANCE:
            break
    logits: FloatArray = np.log(strength)
    relative: FloatArray = logits - logits[:, :1]
    return relative


def to_json(strengths: Mapping[str, Interval]) -> list[dict[str, object]]:
    """One line per captioning, the oldest first: log-odds and points of Elo over the oldest."""
    lines = []
    for name, strength in strengths.items():
        ends = {"elo": strength.value, "elo_low": strength.low, "elo_high": strength.high}
        elo = {key: round(value * ELO_PER_LOGIT, 1) for key, value in ends.items()}
        lines.append({"layer": name, **strength.to_json("strength"), **elo})
    return lines
