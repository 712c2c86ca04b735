"""Does another round help? A verdict in words: stop where the last round's gain is inside its interval."""

import itertools
from collections.abc import Sequence

from vila2cli.report.paired import MAIN_MEASURES, MEASURE_NAMES, Change, Comparison
from vila2cli.report.results import RoundResult
from vila2cli.report.wording import join_words, points


def verdict(comparisons: Sequence[Comparison], results: Sequence[RoundResult] = ()) -> list[str]:
    """The verdict, then what the main measures say about every two rows that were compared.

    A measure is better where the whole 95% interval of its paired difference is above zero. `results` tell
    which rounds are not evaluated.
    """
    said = _saturation([one for one in comparisons if one.after.startswith("round ")])
    without = [result.group for result in results if result.is_round and not result.tasks]
    if without and len(without) < len(results):
        said += f" Not evaluated: {join_words(without)}."
    return [said, *(_sentence(one) for one in comparisons if _main(one))]


def _saturation(rounds: Sequence[Comparison]) -> str:
    """The verdict on the evaluated rounds, each compared with the evaluated one before it."""
    if not rounds:
        return "Whether another round helps cannot be said yet: that takes two evaluated rounds."
    last = rounds[-1]
    if not _main(last):
        return (
            f"Whether another round helps cannot be said: {last.before} and {last.after} share no main measure "
            "of which the answers can be read and were asked and scored alike."
        )
    gained, lost = _named(last, "gain"), _named(last, "loss")
    if gained:
        worse = f", but worse in {join_words(lost)}" if lost else ""
        return f"Not saturated: {last.after} is still better than {last.before} in {join_words(gained)}{worse}."
    worse = f" {_capital(last.after)} is worse in {join_words(lost)}." if lost else ""
    flat = list(itertools.takewhile(lambda one: _main(one) and not _named(one, "gain"), reversed(rounds)))
    if len(flat) == len(rounds):
        return f"No round is clearly better than the one before it in any main measure: stop.{worse}"
    later = f"{last.after} is not" if len(flat) == 1 else "no later round is"
    names = join_words([MEASURE_NAMES.get(name, name) for name in _main(last)], "or")
    earlier = rounds[-len(flat) - 1]
    unknown = "" if _main(earlier) else f" {_capital(earlier.after)} cannot be compared with {earlier.before}."
    at_latest = " at the latest" if unknown else ""
    return (
        f"Saturated after {earlier.after}{at_latest}: {later} clearly better than the round before it "
        f"in {names}, so stop there.{unknown}{worse}"
    )


def _sentence(one: Comparison) -> str:
    better, worse = (
        [
            f"{MEASURE_NAMES.get(n, n)} ({points(c.figure.value)})"
            for n, c in _main(one).items()
            if c.verdict == way
        ]
        for way in ("gain", "loss")
    )
    parts = [
        f"better in {join_words(better)}" if better else "",
        f"worse in {join_words(worse)}" if worse else "",
        f"not clearly different in {join_words(even)}" if (even := _named(one, "even")) else "",
    ]
    return f"{_capital(one.after)} against {one.before}: {', '.join(filter(None, parts))}."


def _named(one: Comparison, way: str) -> list[str]:
    """The main measures that changed that way."""
    return [MEASURE_NAMES.get(name, name) for name, change in _main(one).items() if change.verdict == way]


def _main(one: Comparison) -> dict[str, Change]:
    return {name: one.changes[name] for name in MAIN_MEASURES if name in one.changes}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
