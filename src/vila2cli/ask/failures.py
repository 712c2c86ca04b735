"""Samples that an engine could not answer, held against the reject budget while shards are written."""

import re
from collections import Counter
from collections.abc import Mapping

from vila2cli.errors import RejectBudgetError

MIN_FAILED = 100
"""Failures from which on their share is taken seriously."""

_NUMBERED = re.compile(r"\w*\d\w*")
_MAX_KIND = 160


def error_kind(error: str) -> str:
    """An error without what differs from sample to sample: "prompt of # tokens does not fit"."""
    return _NUMBERED.sub("#", error)[:_MAX_KIND]


class EngineFailures:
    """Counts samples asked about and the errors of those that failed; above `max_rate` the work ends.

    `table` is that of the recipe which sets the rate.
    """

    def __init__(self, max_rate: float, table: str = "") -> None:
        self._max_rate = max_rate
        self._key = f"{table}.max_reject_rate" if table else "max_reject_rate"
        self._num_asked = 0
        self._kinds: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._num_shards = 0

    def count(self, error: str | None) -> None:
        """Note a sample that was answered (None) or failed.

        Raises RejectBudgetError as soon as more failed than the recipe allows.
        """
        self._num_asked += 1
        if error is None:
            return
        kind = error_kind(error)
        self._kinds[kind] += 1
        self._examples.setdefault(kind, error)
        num_failed = self._kinds.total()
        if num_failed >= MIN_FAILED and num_failed > self._max_rate * self._num_asked:
            raise RejectBudgetError(
                f"the engine failed on {num_failed} of {self._num_asked} samples, above {self._key} "
                f"{self._max_rate:.1%}; {self.commonest()}; shards finished before stay, mend this and run "
                "the same command again"
            )

    def gives_up(self, num_asked: int, num_failed: int) -> bool:
        """Whether a shard of which so many samples failed is not to be written; counts those."""
        is_lost = 0 < num_asked == num_failed and self._max_rate < 1
        self._num_shards += is_lost
        return is_lost

    def check(self) -> None:
        """Raise RejectBudgetError when shards were given up, now that the others are done."""
        if self._num_shards:
            raise RejectBudgetError(
                f"the engine failed on every sample of {self._num_shards} shards, which are not written; "
                f"{self.commonest()}; mend this and run the same command again, or set {self._key} to 1"
            )

    def commonest(self) -> str:
        """The commonest error as it was first met, "" without errors."""
        if not self._kinds:
            return ""
        kind, num = self._kinds.most_common(1)[0]
        return f"{num} times: {self._examples[kind]}"


class Budgets:
    """The failures of several layers that are filled in one pass; only when all are spent the work ends.

    `tables` are those of the recipe which set the rate, by layer.
    """

    def __init__(self, tables: Mapping[str, str], max_rate: float) -> None:
        self._failures = {layer: EngineFailures(max_rate, table) for layer, table in tables.items()}
        self._spent: dict[str, RejectBudgetError] = {}

    def __getitem__(self, layer: str) -> EngineFailures:
        return self._failures[layer]

    def gives_up(self, layer: str, num_asked: int, num_failed: int) -> bool:
        """As `EngineFailures.gives_up`, of a layer's shard."""
        return self._failures[layer].gives_up(num_asked, num_failed)

    def is_spent(self, layer: str) -> bool:
        """Whether more samples of a layer failed than the recipe allows."""
        return layer in self._spent

    def count(self, layer: str, error: str | None) -> str | None:
        """Note a sample that was answered (None) or failed; says why when that spends the layer's budget.

        Raises RejectBudgetError where no layer is left.
        """
        try:
            self._failures[layer].count(error)
        except RejectBudgetError as too_many:
            self._spent.setdefault(layer, too_many)
            if len(self._spent) == len(self._failures):
                raise
            return str(too_many)
        return None

    def check(self) -> None:
        """Raise the first layer's RejectBudgetError, now that the others are done."""
        for error in self._spent.values():
            raise error
        for failures in self._failures.values():
            failures.check()
