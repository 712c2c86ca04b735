"""Does another round help? A verdict in words: stop where the last round's gain is inside its interval."""

import itertools
from collections.abc import Sequence

from vila2cli.report.figures import Verdict
from vila2cli.report.paired import RoundComparison
from vila2cli.report.results import RoundResult
from vila2cli.report.wording import join_words, points
from vila2cli.score.stats import TOO_FEW


def verdict(comparisons: Sequence[RoundComparison], results: Sequence[RoundResult] = ()) -> list[str]:
    """The verdict, then the main measures of every two rows that were compared.

    A measure is better where the whole 95% interval of its paired difference is above zero, and there are
    enough samples to say so. `results` tell which rounds are not evaluated.
    """
    sentence = _saturation([pair for pair in comparisons if pair.after.startswith("round ")])
    without = [result.group for result in results if result.is_round and not result.tasks]
    if without and len(without) < len(results):
        sentence += f" Not evaluated: {join_words(without)}."
    return [sentence, *(_sentence(pair) for pair in comparisons if pair.main)]


def _saturation(rounds: Sequence[RoundComparison]) -> str:
    """The verdict on the evaluated rounds, each compared with the evaluated one before it."""
    if not rounds:
        return "Whether another round helps cannot be said yet: that takes two evaluated rounds."
    last = rounds[-1]
    if not last.main:
        return (
            f"Whether another round helps cannot be said: {last.before} and {last.after} share no main measure "
            "of which the answers can be read and were asked and scored alike."
        )
    if not last.told:
        few = [f"{change.num_samples} in {name}" for name, change in last.main.items()]
        if len(few) > 1 and len({change.num_samples for change in last.main.values()}) == 1:
            few = [few[0].replace(" in ", " in each of ", 1), *list(last.main)[1:]]
        return (
            f"Whether another round helps cannot be said: too few samples to tell ({join_words(few)}, "
            f"and it takes {TOO_FEW})."
        )
    gained, lost = _changed(last, "gain"), _changed(last, "loss")
    if gained:
        worse = f", but worse in {join_words(lost)}" if lost else ""
        return f"Not saturated: {last.after} is still better than {last.before} in {join_words(gained)}{worse}."
    worse = f" {_capital(last.after)} is worse in {join_words(lost)}." if lost else ""
    flat = list(itertools.takewhile(lambda pair: pair.told and not _changed(pair, "gain"), reversed(rounds)))
    if len(flat) == len(rounds):
        return f"No round is clearly better than the one before it in any main measure: stop.{worse}"
    later = f"{last.after} is not" if len(flat) == 1 else "no later round is"
    earlier = rounds[-len(flat) - 1]
    unknown = "" if earlier.told else f" {_capital(earlier.after)} {_why_not(earlier)} {earlier.before}."
    at_latest = " at the latest" if unknown else ""
    return (
        f"Saturated after {earlier.after}{at_latest}: {later} clearly better than the round before it "
        f"in {join_words(list(last.told), 'or')}, so stop there.{unknown}{worse}"
    )


def _why_not(comparison: RoundComparison) -> str:
    return "has too few samples to tell it from" if comparison.main else "cannot be compared with"


def _sentence(comparison: RoundComparison) -> str:
    better, worse = (
        [f"{name} ({points(comparison.main[name].value)})" for name in _changed(comparison, way)]
        for way in ("gain", "loss")
    )
    changed = {
        "better in": better,
        "worse in": worse,
        "not clearly different in": _changed(comparison, "even"),
        "too few samples to tell in": [
            f"{name} ({comparison.main[name].num_samples})" for name in _changed(comparison, "few")
        ],
    }
    parts = (f"{how} {join_words(names)}" for how, names in changed.items() if names)
    return f"{_capital(comparison.after)} against {comparison.before}: {', '.join(parts)}."


def _changed(comparison: RoundComparison, way: Verdict) -> list[str]:
    """The main measures that changed that way."""
    return [name for name, change in comparison.main.items() if change.verdict == way]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
