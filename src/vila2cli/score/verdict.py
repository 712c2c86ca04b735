"""Which of two captions is better, asked in both orders: one verdict, and the figures over many.

Position bias is a judge's taste for what stands first; a verdict that changes with the order is a
tie, so that it cannot decide anything.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from vila2cli.errors import DataError
from vila2cli.score.annotations import SampleId, read_annotations
from vila2cli.score.caption import FactCount
from vila2cli.score.stats import cohen_kappa, wilson

Outcome = Literal["win", "loss", "tie", "unjudged"]
Pair = tuple[str, str]
"""Two layers: whose wins are counted, and against which."""
_LETTER = re.compile(r"\s*\(?([AB])\)?[.:]?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judge's outcome for `layer` against `against` on one sample.

    `answers` are the judge's raw texts with `layer` shown first as A, then second as B; empty
    when nothing was asked. `num_words` counts the words of both captions.
    """

    layer: str
    against: str
    judge: str
    outcome: Outcome
    num_words: tuple[int, int]
    answers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "against": self.against,
            "judge": self.judge,
            "outcome": self.outcome,
            "num_words": list(self.num_words),
            "answers": list(self.answers),
        }

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
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a verdict: {error}; was this layer written by another vila2?") from None
        if verdict.outcome not in get_args(Outcome):
            raise DataError(f"not a verdict: outcome {verdict.outcome!r}")
        return verdict


def parse_letter(answer: str) -> Literal["A", "B"] | None:
    """The letter when the answer is nothing but A or B ("B", "B.", "(B)"), else None."""
    match = _LETTER.fullmatch(answer)
    return None if match is None else "A" if match[1] == "A" else "B"


def outcome_of(first_answer: str, second_answer: str) -> Outcome:
    """The outcome for the caption shown as A first and as B second; unjudged unless both are letters."""
    first, second = parse_letter(first_answer), parse_letter(second_answer)
    if first is None or second is None:
        return "unjudged"
    if first == second:
        return "tie"
    return "win" if first == "A" else "loss"


def oracle_outcome(count: FactCount, against: FactCount) -> Outcome:
    """The caption with more right facts after subtracting the contradicted ones is the better one."""
    ahead = (count.right - count.contradicted) - (against.right - against.contradicted)
    return "win" if ahead > 0 else "loss" if ahead < 0 else "tie"


def summarise(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Figures of one judge over one pair of layers.

    `win_rate` counts ties as halves and leaves the unjudged out; its interval is Wilson's. `position_bias` is
    the share of letters that were A (0.5 is none), `length_bias` the share of decided verdicts
    that the caption with more words won. A figure without data is None.
    """
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    num_judged = len(verdicts) - outcomes["unjudged"]
    rate = wilson(outcomes["win"] + outcomes["tie"] / 2, num_judged).to_json() if num_judged else None
    letters = [letter for v in verdicts for answer in v.answers if (letter := parse_letter(answer))]
    longer_won = [
        (v.outcome == "win") == (v.num_words[0] > v.num_words[1])
        for v in verdicts
        if v.outcome in ("win", "loss") and v.num_words[0] != v.num_words[1]
    ]
    return {
        "wins": outcomes["win"],
        "losses": outcomes["loss"],
        "ties": outcomes["tie"],
        "unjudged": outcomes["unjudged"],
        "num_pairs": num_judged,
        "win_rate": rate,
        "position_bias": _share([letter == "A" for letter in letters]),
        "length_bias": _share(longer_won),
    }


def read_verdicts(layer_dir: Path) -> dict[SampleId, tuple[Verdict, ...]]:
    """The verdicts of a layer by sample; raises DataError where they cannot be read."""
    return {
        sample_id: tuple(Verdict.from_json(one) for one in annotation.scores.get("verdicts", ()))
        for sample_id, annotation in read_annotations(layer_dir)
    }


def summarise_pairs(
    verdicts: Mapping[SampleId, Sequence[Verdict]], pairs: Sequence[Pair], judges: Sequence[str]
) -> dict[str, Any]:
    """Figures by pair and judge, `judges` for the first pair alone, and every verdict that is missing."""
    entries = []
    for layer, against in pairs:
        by_judge: dict[str, dict[SampleId, Verdict]] = {judge: {} for judge in judges}
        for sample_id, found in verdicts.items():
            for one in found:
                if (one.layer, one.against) == (layer, against) and one.judge in by_judge:
                    by_judge[one.judge][sample_id] = one
        outcomes = {
            judge: {key: one.outcome for key, one in found.items()} for judge, found in by_judge.items()
        }
        figures = {judge: summarise(list(found.values())) for judge, found in by_judge.items()}
        entry = {"layer": layer, "against": against, "judges": figures, "agreement": agreement(outcomes)}
        entries.append(entry)
    unjudged = [
        {"shard": shard, "key": key, **one.to_json()}
        for (shard, key), found in verdicts.items()
        for one in found
        if one.outcome == "unjudged"
    ]
    return {"judges": entries[0]["judges"], "pairs": entries, "unjudged": unjudged}


def agreement(by_judge: Mapping[str, Mapping[Any, Outcome]]) -> list[dict[str, Any]]:
    """Cohen's kappa of every two judges, over the samples that both judged."""
    found = []
    for first, second in combinations(by_judge, 2):
        mine, theirs = by_judge[first], by_judge[second]
        both = [key for key in mine if key in theirs and "unjudged" not in (mine[key], theirs[key])]
        kappa = cohen_kappa([mine[key] for key in both], [theirs[key] for key in both])
        found.append({"judges": [first, second], "kappa": kappa, "num_samples": len(both)})
    return found


def _share(claims: Sequence[bool]) -> float | None:
    return sum(claims) / len(claims) if claims else None
