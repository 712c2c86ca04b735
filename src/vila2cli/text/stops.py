"""Texts that end an answer."""

from collections.abc import Sequence


def stopped_at(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of `stops` to be complete begins, None without one.

    So the answer is the same whatever tokens it came in, as vLLM's is; of those that are complete at once the
    first named counts.
    """
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found, key=lambda one: one[0])[1] if found else None
