"""Samples of which one of several captions is trained in an epoch: all of them are stored, one is drawn.

A store has a row for each caption that such a sample has, one after another in the order of `Choice.names`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vila2cli.shards.sample import Sample, Turn
from vila2cli.text.choose import Choice, reached

Ints = NDArray[np.int64]
TABLES = ("alternatives", "chosen", "drawn_by")
"""By row: of how many captions it is the first (0: of none, -1: nothing is drawn), its source, the hash."""
PLAIN = (-1, -1, 0)


@dataclass(frozen=True, slots=True)
class Choosing:
    """How the captions of a source are drawn, and what a sample's are, by name."""

    choice: Choice
    alternatives: Callable[[Sample], Mapping[str, Sequence[Turn]]]

    def rows(self, shard: str, key: str, names: Iterable[str]) -> list[tuple[int, int, int]]:
        """What `TABLES` have of the captions of a sample, in the order of its sources."""
        there, drawn_by = [self.choice.names.index(name) for name in names], self.choice.hash(shard, key)
        return [(0 if number else len(there), place, drawn_by) for number, place in enumerate(there)]


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """The rows of all samples, with the sources' numbers in `choices` for those rows that one is drawn of."""

    alternatives: Ints
    chosen: Ints
    drawn_by: Ints
    source: Ints
    choices: Mapping[int, Choice]

    def rows(self, epoch: int) -> Ints:
        """The rows that are trained on in an epoch, in order."""
        parts = [np.flatnonzero(self.alternatives < 0)]
        for number, choice in self.choices.items():
            firsts = self._firsts(number)
            masks = self._masks(firsts)
            place = choice.draws(self.drawn_by[firsts].astype(np.uint64), masks, epoch)
            before = sum((masks >> other & 1) * (other < place) for other in range(len(choice.names)))
            parts.append(firsts + before)
        return np.sort(np.concatenate(parts))

    def figures(self, number: int, rows: Ints) -> dict[str, Any]:
        """What a source's shares came to over the `rows` of all epochs, and how many samples lack each."""
        choice = self.choices[number]
        own = rows[(self.source[rows] == number) & (self.alternatives[rows] >= 0)]
        counts = np.bincount(self.chosen[own], minlength=len(choice.names)).tolist()
        firsts = self._firsts(number)
        masks = self._masks(firsts)
        lacking = [int((masks >> place & 1 == 0).sum()) for place in range(len(choice.names))]
        by_name = (dict(zip(choice.names, numbers, strict=True)) for numbers in (counts, lacking))
        return reached(choice.shares, *by_name)

    def _firsts(self, number: int) -> Ints:
        return np.flatnonzero((self.alternatives > 0) & (self.source == number))

    def _masks(self, firsts: Ints) -> Ints:
        """Which sources the samples that begin at these rows have, a bit each."""
        masks = np.zeros(len(firsts), np.int64)
        sizes = self.alternatives[firsts]
        for offset in range(int(sizes.max(initial=0))):
            has = sizes > offset
            masks[has] |= np.int64(1) << self.chosen[firsts[has] + offset]
        return masks
