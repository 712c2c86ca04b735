"""One sample's way to a caption: candidates, tries with other sampling, and the choice among what is good."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vila2cli.ask.failures import error_kind
from vila2cli.engine import Request, Result
from vila2cli.score.verdict import outcome_of
from vila2cli.settings import WritingSettings
from vila2cli.shards.sample import Turn
from vila2cli.text.caption_checks import CheckedCaption, Standard
from vila2cli.text.compose import neutral
from vila2cli.text.prompts import fill, prompt_text, stable_hash
from vila2cli.text.words import num_words

JUDGE_PROMPT = "judge-pair-v1"
_MAX_REFUSED_TEXT = 500
"""Characters kept of a caption that failed the checks."""


def standard_of(settings: WritingSettings) -> Standard:
    """What the recipe expects of a caption."""
    return Standard(language=settings.language, min_words=settings.min_words, max_words=settings.max_words)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One generated caption; `defect` says in one word why it is not good, None when it is."""

    request: Request
    result: Result
    caption: CheckedCaption
    defect: str | None

    def to_json(self) -> dict[str, Any]:
        """The attempt as its annotation stores it; a text that failed the checks is cut short."""
        value = {
            "text": self.caption.text if self.defect is None else self.caption.text[:_MAX_REFUSED_TEXT],
            "defect": self.defect,
            "temperature": self.request.temperature,
            "seed": self.request.seed,
            "num_tokens": self.result.num_tokens,
            "finish_reason": self.result.finish_reason,
            "logprob_mean": self.result.logprob_mean,
        }
        return value if self.result.error is None else {**value, "error": self.result.error}


Check = Callable[[Result], tuple[CheckedCaption, str | None]]
"""The caption in a result, and what is wrong with it."""


def seeded(
    request: Request, num_first: int, retry_temperatures: Sequence[float], parts: Sequence[object]
) -> tuple[list[Request], list[Request]]:
    """A request as it is sent first, so many times, and as it is tried again; each has a seed from `parts`."""
    temperatures = [request.temperature] * num_first + [*retry_temperatures]
    tries = [
        replace(request, temperature=temperature, seed=stable_hash(*parts, *([index] if index else [])))
        for index, temperature in enumerate(temperatures)
    ]
    return tries[:num_first], tries[num_first:]


def attempt(
    first: Sequence[Request], retries: Iterable[Request], check: Check
) -> Generator[Sequence[Request], Sequence[Result], list[Attempt]]:
    """Send `first` together; then `retries` one by one until a caption passes `check`.

    What the model cannot take (a prompt that is too long) is not tried again.
    """
    attempts = [_checked(*pair, check) for pair in zip(first, (yield first), strict=True)]
    for request in retries:
        if any(a.defect is None for a in attempts) or all(a.result.error is not None for a in attempts):
            break
        (result,) = yield [request]
        attempts.append(_checked(request, result, check))
    return attempts


def _checked(request: Request, result: Result, check: Check) -> Attempt:
    if result.error is not None:
        return Attempt(request, result, CheckedCaption(""), "engine-error")
    return Attempt(request, result, *check(result))


def best_by_logprob(candidates: Sequence[Attempt]) -> Attempt:
    """The candidate of the highest mean log-probability, the first of equals."""
    return max(candidates, key=lambda one: -1e9 if one.result.logprob_mean is None else one.result.logprob_mean)


def best_by_judge(
    candidates: Sequence[Attempt], *, max_new_tokens: int
) -> Generator[Sequence[Request], Sequence[Result], tuple[Attempt, list[str]]]:
    """A knock-out judged by the model: each challenger in turn has to win in both orders.

    The candidate of the highest mean log-probability starts, so it stays where the judge cannot tell.
    Returns the winner and the outcome of each comparison for its challenger.
    """
    best = best_by_logprob(candidates)
    outcomes: list[str] = []
    for challenger in [one for one in candidates if one is not best]:
        if challenger.caption.text == best.caption.text:
            continue
        pairs = ((challenger, best), (best, challenger))
        results = yield [_comparison(*pair, max_new_tokens) for pair in pairs]
        answers = [
            "" if result.error is not None or result.is_cut else result.answer.text for result in results
        ]
        outcome = outcome_of(*answers)
        outcomes.append(outcome)
        if outcome == "win":
            best = challenger
    return best, outcomes


def _comparison(a: Attempt, b: Attempt, max_new_tokens: int) -> Request:
    text = fill(prompt_text(JUDGE_PROMPT), a=neutral(a.caption.text), b=neutral(b.caption.text))
    return replace(
        a.request,
        messages=(Turn("user", text),),
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        top_p=1.0,
        seed=0,
    )


def decision(
    source: str, by: str, attempts: Sequence[Attempt] = (), chosen: Attempt | None = None, **more: Any
) -> dict[str, Any]:
    """How a caption came to be kept, for its annotation; a lone attempt that is kept says nothing more."""
    value = {"source": source, "by": by, **more}
    if len(attempts) > 1 or (attempts and chosen is None):
        value["attempts"] = [one.to_json() for one in attempts]
        value["chosen"] = None if chosen is None else attempts.index(chosen)
    return value


def attempt_counts(attempts: Sequence[Attempt], num_first: int) -> dict[str, Any]:
    """Figures of one sample's attempts for the stats file: tries beyond the first, ends, defects, errors."""
    return {
        "retries": len(attempts) - num_first,
        "finish_reasons": Counter(str(one.result.finish_reason) for one in attempts),
        "defects": Counter(one.defect for one in attempts if one.defect is not None),
        "errors": Counter(error_kind(one.result.error) for one in attempts if one.result.error is not None),
    }


def caption_counts(text: str, alt_text: str | None, kept: Attempt | None = None) -> dict[str, int]:
    """Figures of a caption that is kept: words of it and of the alt-text, and whether it was shortened."""
    words, alt_words = num_words(text), num_words(alt_text or "")
    return {
        "captions": 1,
        "words": words,
        "words_squared": words**2,
        "alt_words": alt_words,
        "alt_words_squared": alt_words**2,
        "cut": int(kept is not None and kept.caption.was_cut),
        "stripped": int(kept is not None and kept.caption.was_stripped),
    }
