"""Does another round help? A verdict in words: stop where the last round's gain is inside its interval."""

import itertools
import math
from collections.abc import Sequence

from vila2cli.report.figures import Figure, Verdict
from vila2cli.report.paired import MAIN_MEASURES, RoundComparison
from vila2cli.report.results import RoundResult
from vila2cli.report.wording import join_words, points, signed
from vila2cli.score.stats import TOO_FEW

WORTH_A_ROUND = 0.02
"""A gain that is worth another round: "stop" is said only where the samples would have shown one so large."""
_ROUNDING = 1e-9


def verdict(
    comparisons: Sequence[RoundComparison], results: Sequence[RoundResult] = (), recipe_flags: str = ""
) -> list[str]:
    """The verdict and what to do, then the main measures of every two rows that were compared.

    A measure is better where the whole 95% interval of its paired difference is above zero, and there are
    enough samples to say so. `results` tell which rounds are not evaluated; `recipe_flags` are what
    `vila2 run` is given to go on with the run.
    """
    sentence = _saturation([pair for pair in comparisons if pair.after.startswith("round ")], recipe_flags)
    without = [result.group for result in results if result.is_round and not result.tasks]
    if without and len(without) < len(results):
        sentence += f" Not evaluated: {join_words(without)}."
    return [sentence, *(_sentence(pair) for pair in comparisons if pair.main)]


def _saturation(rounds: Sequence[RoundComparison], recipe_flags: str) -> str:
    if not rounds:
        return "Whether another round helps cannot be said yet: that takes two evaluated rounds."
    last = rounds[-1]
    if not last.main:
        return (
            f"Whether another round helps cannot be said: {last.before} and {last.after} share no main measure "
            "of which the answers can be read and were asked and scored alike."
        )
    if not last.told:
        return _too_few(last)
    gained, lost = _changed(last, "gain"), [*_changed(last, "loss"), *_lost_tasks(last)]
    if gained:
        even = _changed(last, "even")
        but = [f"worse in {join_words(lost)}"] if lost else []
        but += [f"not clearly different in {join_words(even)}"] if even else []
        return (
            f"Not saturated: {last.after} is still better than {last.before} in {join_words(gained)}"
            f"{f', but {join_words(but)}' if but else ''}. Run {_next_round(last, recipe_flags)}"
        )
    worse = f" {_capital(last.after)} is worse in {join_words(lost)}." if lost else ""
    if _open(last):
        return f"{_too_wide(last)}{worse}"
    return f"{_saturated(rounds)}{worse}"


def _saturated(rounds: Sequence[RoundComparison]) -> str:
    """What is said where the last round surely brought no gain worth another one."""
    last = rounds[-1]
    flat = list(itertools.takewhile(_is_flat, reversed(rounds)))
    if len(flat) == len(rounds):
        return "No round is clearly better than the one before it in any main measure: stop."
    later = f"{last.after} is not" if len(flat) == 1 else "no later round is"
    earlier = rounds[-len(flat) - 1]
    unknown = ""
    if not _changed(earlier, "gain"):
        why_not = "has too few samples to tell it from" if earlier.main else "cannot be compared with"
        unknown = f" {_capital(earlier.after)} {why_not} {earlier.before}."
    at_latest = " at the latest" if unknown else ""
    return (
        f"Saturated after {earlier.after}{at_latest}: {later} clearly better than the round before it "
        f"in {join_words(list(last.told), 'or')}, so stop there.{unknown}"
    )


def _is_flat(pair: RoundComparison) -> bool:
    return bool(pair.told) and not _changed(pair, "gain") and not _open(pair)


def _next_round(last: RoundComparison, recipe_flags: str) -> str:
    """The round after the last, and the command that runs it."""
    number = int(last.after.removeprefix("round ")) + 1
    return f"round {number}: vila2 run round{number}{f' {recipe_flags}' if recipe_flags else ''}"


def _too_few(last: RoundComparison) -> str:
    few = [f"{change.num_samples} in {name}" for name, change in last.main.items()]
    if len(few) > 1 and len({change.num_samples for change in last.main.values()}) == 1:
        few = [few[0].replace(" in ", " in each of ", 1), *list(last.main)[1:]]
    return (
        f"Whether another round helps cannot be said: too few samples to tell ({join_words(few)}, "
        f"and it takes {TOO_FEW}). Evaluate with more questions a task."
    )


def _open(pair: RoundComparison) -> dict[str, Figure]:
    """The main measures whose interval is so wide that a gain worth a round may hide in it."""
    even = {name: change for name, change in pair.told.items() if change.verdict == "even"}
    wide = {name: one for name, one in even.items() if _half_width(one) > WORTH_A_ROUND + _ROUNDING}
    return {name: change for name, change in wide.items() if (change.high or 0.0) >= WORTH_A_ROUND}


def _half_width(change: Figure) -> float:
    low, high = change.ends or (0.0, 0.0)
    return (high - low) / 2


def _too_wide(last: RoundComparison) -> str:
    """The verdict where the samples would not have shown a gain worth a round, and how many would."""
    found = _open(last)
    spans = [
        f"{name} ({signed(100 * change.value, 1)}, {change.scaled(100).span(' to ', write=signed)} points)"
        for name, change in found.items()
    ]
    widest = max(found.values(), key=_half_width)
    times = (_half_width(widest) / WORTH_A_ROUND) ** 2
    if widest.num_samples is None:
        wanted = f"about {_rounded_up(times)} times as many"
    else:
        wanted = f"about {_rounded_up(times * widest.num_samples):,} in place of {widest.num_samples:,}"
    return (
        f"Whether another round helps cannot be said: {last.after} is not clearly better than {last.before}, "
        f"but a gain of {100 * WORTH_A_ROUND:.0f} points could hide in the interval of {join_words(spans)}. "
        f"More questions a task would tell, {wanted}."
    )


def _rounded_up(number: float) -> int:
    """A number of samples with two digits that count."""
    step: int = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(number / step) * step


def _sentence(comparison: RoundComparison) -> str:
    better, worse = (
        [f"{name} ({points(comparison.main[name].value)})" for name in _changed(comparison, way)]
        for way in ("gain", "loss")
    )
    changed = {
        "better in": better,
        "worse in": [*worse, *_lost_tasks(comparison)],
        "not clearly different in": _changed(comparison, "even"),
        "too few samples to tell in": [
            f"{name} ({comparison.main[name].num_samples})" for name in _changed(comparison, "few")
        ],
    }
    parts = (f"{how} {join_words(names)}" for how, names in changed.items() if names)
    return f"{_capital(comparison.after)} against {comparison.before}: {', '.join(parts)}."


def _changed(comparison: RoundComparison, way: Verdict) -> list[str]:
    return [name for name, change in comparison.main.items() if change.verdict == way]


def _lost_tasks(comparison: RoundComparison) -> list[str]:
    """The single tasks that are clearly worse, which a mean of all may hide, with by how much."""
    # Differences of shares are shown in points, those of scores such as MME's as they are.
    return [
        f"{name} ({signed((100 if abs(change.value) <= 1 else 1) * change.value, 1)})"
        for name, change in comparison.changes.items()
        if name not in MAIN_MEASURES and change.verdict == "loss"
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
