"""One of a sample's captions drawn by shares: by key, seed and epoch, without any state.

Recap-DataComp-1B trains CLIP on the recaption of an image with p = 0.8. A source that a sample lacks is left
out, and the others keep their proportions.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vila2cli.text.prompts import stable_hash

_STEP, _FIRST, _SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Of splitmix64 (Steele, Lea and Flood 2014), which makes of each hash and epoch a number of its own."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Sources of captions with their shares, which add up to 1, and the seed of all draws."""

    shares: Mapping[str, float]
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The sources in an order that does not depend on how they were written down."""
        return tuple(sorted(self.shares))

    def hash(self, shard: str, key: str) -> int:
        """What a sample is drawn by: a key is unique in its shard only."""
        return stable_hash("choose", self.seed, shard, key)

    def draw(self, shard: str, key: str, available: Collection[str], epoch: int = 0) -> str | None:
        """The source of one sample in an epoch among those that it has; None where it has none of them."""
        mask = sum(1 << place for place, name in enumerate(self.names) if name in available)
        if not mask:
            return None
        hashes, masks = np.array([self.hash(shard, key)], np.uint64), np.array([mask], np.int64)
        return self.names[int(self.draws(hashes, masks, epoch)[0])]

    def draws(self, hashes: NDArray[np.uint64], masks: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """The same for many samples: places in `names`; bit i of a mask says whether a sample has names[i]."""
        shares = [float(self.shares[name]) for name in self.names]
        weights = (share * ((masks >> place) & 1) for place, share in enumerate(shares))
        target = _uniform(hashes, epoch) * sum(weights, np.zeros(len(masks)))
        found = np.full(len(hashes), -1, np.int64)
        below = np.zeros(len(hashes))
        for place, share in enumerate(shares):
            has = (masks >> place) & 1 == 1
            below += share * has
            found = np.where(has & ((found < 0) | (below - share * has <= target)), place, found)
        return found


def _uniform(hashes: NDArray[np.uint64], epoch: int) -> NDArray[np.float64]:
    """Numbers from 0 on and below 1, another in each epoch."""
    with np.errstate(over="ignore"):
        mixed = hashes + np.uint64(epoch + 1) * _STEP
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def reached(
    asked: Mapping[str, float], counts: Mapping[str, int], lacking: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """By source the share asked for and the one reached, how often it was drawn, how many samples lack it."""
    total = sum(counts.values()) or 1
    return {
        name: {
            "asked": asked[name],
            "share": round(counts.get(name, 0) / total, 6),
            "samples": counts.get(name, 0),
            "lacking": lacking.get(name, 0),
        }
        for name in sorted(asked)
    }


def drawn_line(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The same for the terminal."""
    parts = [f"{name} {one['share']:.2%} (asked {one['asked']:.2%})" for name, one in figures.items()]
    without = [f"{one['lacking']:,.0f} lack {name}" for name, one in figures.items() if one["lacking"]]
    return f"captions drawn: {', '.join(parts)}" + (f"; of the samples {', '.join(without)}" if without else "")
