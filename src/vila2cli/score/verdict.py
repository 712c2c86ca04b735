"""Which of two captions is better, asked in both orders: one verdict, and the figures over many.

Position bias is a judge's preference for the caption shown first; a verdict that changes with the order is a
tie, so that it cannot decide anything.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, get_args

from vila2cli.errors import DataError
from vila2cli.score.stats import cohen_kappa
from vila2cli.text.bare import bare, one_object

Outcome = Literal["win", "loss", "tie", "unjudged"]
_CHOICES: Mapping[str, Literal["A", "B", "tie"]] = {"a": "A", "b": "B", "tie": "tie"}
Pair = tuple[str, str]
"""Two layers: whose wins are counted, and against which."""
_LETTER = re.compile(
    r"(?:(?i:answer|verdict|better|caption)\W{1,4}){0,2}[(\[]{0,2}([AB]|[Tt]ie)[)\]]{0,2}[.:]?"
)

_NAMED = r"(?:the\s+)?(?:caption\s+\(?[AB]\)?|(?:first|second)\s+(?:caption|description|one))"
_ONE = rf"(?:{_NAMED}|\(?(?-i:[AB])\)?)"
_PREFERS = re.compile(
    r"(?:(?:i\s+(?:think|believe|find)(?:\s+that)?|overall|in\s+(?:my\s+opinion|conclusion)|therefore|so|thus),?\s+)?"
    rf"(?:(?P<better>{_ONE})\s+is\s+(?:the\s+)?(?:better|best)(?:\s+(?:one|caption|description))?"
    rf"|i\s+(?:would\s+)?(?:prefer|choose|pick)\s+(?P<choice>{_ONE}))"
    rf"(?:\s+(?:than|over|to)\s+(?P<other>{_ONE}|the\s+other(?:\s+(?:one|caption|description))?))?"
    r"(?P<why>,?\s+(?:because|as|since)\s[^.!?\n]*)?[.!]?",
    re.IGNORECASE,
)
_TIES = re.compile(
    r"(?:it(?:['’]s|\s+is)\s+)?a\s+tie\W*|(?:both|the\s+two)(?:\s+captions)?\s+are\s+(?:equal|equally\s+\w+)\W*"
    r"|neither(?:\s+caption)?\s+is\s+better(?:\s+than\s+the\s+other)?\W*",
    re.IGNORECASE,
)
_HELD_BACK = re.compile(
    r"\b(?:but|however|although|though|unless|if|except|while|whereas|yet|not|neither|both|equal\w*|tie|same)\b"
    r"|\bas\s+\w+\s+as\b"
    rf"|{_NAMED}\s+(?:is|would\s+be)\s"
    r"|(?:\b(?-i:[AB])\b|\bsecond\b|\bfirst\b).*\b(?:better|best|prefer\w*|superior|wins?|winner)\b"
    r"|\b(?:prefer|choose|pick|making)\s+(?:the\s+)?(?-i:[AB]|first|second)\b",
    re.IGNORECASE,
)
"""Behind a preference: what may take it back."""
_CONCLUDES = re.compile(
    r"\W*(?:(?:my|the)\s+)?(?:final\s+)?(?:answer|verdict|choice|winner|better(?:\s+caption)?)"
    r"(?:\s+is)?\W{1,5}(?:caption\s+)?(?P<letter>(?-i:[AB]|[Tt]ie))\W*",
    re.IGNORECASE,
)
"""A line that says nothing but the verdict."""
_RUNS_ON = re.compile(
    r"\b(?:that|whether|if|unless|when|where|think|believe|say|claim|and|or|nor|but|not|than|because)$",
    re.IGNORECASE,
)
"""The end of a line that goes on in the next one, as "I do not think that"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judge's outcome for `layer` against `against` on one sample.

    `answers` are the judge's raw texts with `layer` shown first as A, then second as B; empty
    when nothing was asked. `num_words` counts the words of both captions. `reason` says why a
    pair is unjudged, in one word and perhaps more behind a colon. `equal` says that both captions are
    the same text, of which a tie tells nothing.
    """

    layer: str
    against: str
    judge: str
    outcome: Outcome
    num_words: tuple[int, int]
    answers: tuple[str, ...] = ()
    reason: str = ""
    equal: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("reason", "equal") or value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Verdict":
        """Read what `to_json` wrote; raises DataError for anything else."""
        try:
            first, second = value["num_words"]
            verdict = cls(
                layer=value["layer"],
                against=value["against"],
                judge=value["judge"],
                outcome=value["outcome"],
                num_words=(int(first), int(second)),
                answers=tuple(value["answers"]),
                reason=str(value.get("reason", "")),
                equal=value.get("equal") is True,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a verdict: {error}; was this layer written by another vila2?") from None
        if verdict.outcome not in get_args(Outcome):
            raise DataError(f"not a verdict: outcome {verdict.outcome!r}")
        return verdict


def parse_choice(answer: str) -> Literal["A", "B", "tie"] | None:
    """What an answer chooses, by the one JSON object in it whose `better` is A, B or tie, else by itself.

    Then it is nothing but that word, perhaps as "(B)", "**Caption B**" or "Answer: B", one sentence such as
    "Caption B is better because ..." or "I prefer the second caption.", or its last line alone is such a
    sentence or "Verdict: B", whatever was weighed before; no other prose is read.
    """
    value = one_object(answer)
    if value is not None:
        return _CHOICES.get(str(value.get("better", "")).lower())
    text = bare(answer)
    if match := _LETTER.fullmatch(text):
        return _CHOICES[match[1].lower()]
    return _preferred(text) or _concluded(text)


def _concluded(text: str) -> Literal["A", "B", "tie"] | None:
    """The verdict on the last line below others, none of which is a verdict of its own."""
    *above, last = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    if not above or any(_CONCLUDES.fullmatch(line) or _preferred(line) for line in above):
        return None
    stated = _CONCLUDES.fullmatch(last)
    if stated is None and _RUNS_ON.search(above[-1]):
        return None
    return _CHOICES[stated["letter"].lower()] if stated else _preferred(last)


def _preferred(text: str) -> Literal["A", "B", "tie"] | None:
    """The caption that one sentence prefers to the other, whose reasons hold nothing back, or a tie."""
    if _TIES.fullmatch(text):
        return "tie"
    stated = _PREFERS.fullmatch(text)
    if stated is None or _HELD_BACK.search(stated["why"] or ""):
        return None
    better = _which(stated["better"] or stated["choice"])
    return None if _which(stated["other"] or "") == better else better


def _which(said: str) -> Literal["A", "B"] | None:
    """Which of the two a text names."""
    if re.search(r"\b(?:a|first)\b", said.lower()):
        return "A"
    return "B" if re.search(r"\b(?:b|second)\b", said.lower()) else None


def outcome_of(first_answer: str, second_answer: str) -> Outcome:
    """The outcome for the caption shown as A first and as B second; unjudged unless both are choices."""
    first, second = parse_choice(first_answer), parse_choice(second_answer)
    if first is None or second is None:
        return "unjudged"
    if {first, second} != {"A", "B"}:
        return "tie"
    return "win" if first == "A" else "loss"


def oracle_outcome(balance: int, against: int) -> Outcome:
    """The caption with the higher `slot_balance` describes its scene better; equal ones are a tie."""
    return "win" if balance > against else "loss" if balance < against else "tie"


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """The outcomes of one judge for one pair of layers, counted; `num_pairs` are those that were judged.

    `equal` counts pairs of equal captions, judged or not.
    """
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    return {
        "wins": outcomes["win"],
        "losses": outcomes["loss"],
        "ties": outcomes["tie"],
        "unjudged": outcomes["unjudged"],
        "num_pairs": len(verdicts) - outcomes["unjudged"],
        "equal": sum(verdict.equal for verdict in verdicts),
    }


def agreement(by_judge: Mapping[str, Mapping[Any, Outcome]]) -> list[dict[str, Any]]:
    """Cohen's kappa of every two judges, over the samples that both judged."""
    kappas = []
    for first, second in combinations(by_judge, 2):
        pairs = [(outcome, by_judge[second].get(key, "unjudged")) for key, outcome in by_judge[first].items()]
        judged = [pair for pair in pairs if "unjudged" not in pair]
        kappa = cohen_kappa([outcome for outcome, _ in judged], [outcome for _, outcome in judged])
        kappas.append({"judges": [first, second], "kappa": kappa, "num_samples": len(judged)})
    return kappas
