"""What summary.json says of a judged folder: by pair and judge how often which captions were preferred, how
far the judges can be trusted, and what could not be judged."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.judging.agreement import kappa_interval, many_judges
from vila2cli.judging.preference import BIASES, RATES, preferences
from vila2cli.judging.ranking import Comparison, bradley_terry, to_json
from vila2cli.run.results import REST, StageResult, key
from vila2cli.score.stats import (
    Columns,
    FloatArray,
    columns_of,
    estimate,
    interval_within,
    ratio,
    supports,
)
from vila2cli.score.verdict import Pair, Verdict, agreement, counts
from vila2cli.shards.annotations import SampleId, read_annotations

MAJORITY = "people"
"""The judge that the majority of several people is; it is counted beside them, never among them."""
_CAPTION_SHARES = ("unsupported", "any_unsupported")
POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}


@dataclass(frozen=True, slots=True)
class SampleVerdicts:
    """What one judge said of one image."""

    image: str
    verdicts: tuple[Verdict, ...]
    captions: Mapping[str, Mapping[str, Any]]


Verdicts = Mapping[SampleId, SampleVerdicts]


@dataclass(frozen=True, slots=True)
class Judgements(StageResult):
    """The figures of every pair, and `about` what holds for all of them: ranks, what is unjudged, by whom."""

    pairs: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any] = key(REST)


def read_verdict_layer(folder: Path) -> dict[SampleId, SampleVerdicts]:
    """The verdicts of a layer by sample; raises DataError where they cannot be read."""
    found = {}
    for sample_id, annotation in read_annotations(folder):
        if annotation.kind != "verdict":
            raise DataError(f"{folder} is a layer of kind {annotation.kind!r}, not of verdicts")
        verdicts = tuple(Verdict.from_json(one) for one in annotation.scores.get("verdicts", ()))
        image = annotation.image_sha256 or "/".join(sample_id)
        found[sample_id] = SampleVerdicts(image, verdicts, annotation.scores.get("captions", {}))
    return found


def summarise_judges(
    by_judge: Mapping[str, Verdicts], pairs: Sequence[Pair], *, num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """All figures of several judges over the pairs; `judges` are those of the first pair alone."""
    entries = []
    for pair in pairs:
        of_pair = {judge: _of_pair(found, pair) for judge, found in by_judge.items()}
        outcomes = {
            judge: {key: one.outcome for key, (one, _) in found.items()} for judge, found in of_pair.items()
        }
        kappas = [
            one | _kappa(of_pair, one["judges"], num_bootstrap=num_bootstrap, seed=seed)
            for one in agreement(outcomes)
        ]
        entry = {
            "layer": pair[0],
            "against": pair[1],
            "judges": {
                judge: _figures(found, num_bootstrap=num_bootstrap, seed=seed)
                for judge, found in of_pair.items()
            },
            "agreement": kappas,
        }
        judged = {
            judge: {key: outcome for key, outcome in found.items() if outcome != "unjudged"}
            for judge, found in outcomes.items()
            if judge != MAJORITY
        }
        if len(judged) > 2:
            entry["all_judges"] = many_judges(judged)
        entries.append(entry)
    unjudged = [
        {"shard": shard, "key": key, **one.to_json()}
        for found in by_judge.values()
        for (shard, key), said in found.items()
        for one in said.verdicts
        if one.outcome == "unjudged"
    ]
    return {
        "judges": entries[0]["judges"],
        "pairs": entries,
        **_rankings(by_judge, pairs, num_bootstrap=num_bootstrap, seed=seed),
        **_captions(by_judge, num_bootstrap=num_bootstrap, seed=seed),
        "unjudged": unjudged,
        "unjudged_reasons": reasons(unjudged),
    }


def reasons(unjudged: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many pairs each judge left unjudged, by the first word of the reason."""
    counts: dict[str, Counter[str]] = {}
    for one in unjudged:
        word = str(one.get("reason", "")).partition(":")[0] or "unknown"
        counts.setdefault(str(one["judge"]), Counter())[word] += 1
    return {judge: dict(found.most_common()) for judge, found in counts.items()}


def _of_pair(found: Verdicts, pair: Pair) -> dict[SampleId, tuple[Verdict, str]]:
    return {
        sample_id: (one, said.image)
        for sample_id, said in found.items()
        for one in said.verdicts
        if (one.layer, one.against) == pair
    }


def _figures(found: Mapping[SampleId, tuple[Verdict, str]], *, num_bootstrap: int, seed: int) -> dict[str, Any]:
    """How often a judge said what, and what it prefers, each figure once: None where nothing is known of it.

    The rates have their intervals with them; those of the biases are under `intervals`.
    """
    verdicts, images = [one for one, _ in found.values()], [image for _, image in found.values()]
    preferred = preferences(verdicts, images, num_bootstrap=num_bootstrap, seed=seed)
    rates = {name: preferred[name].to_json() if name in preferred else None for name in RATES}
    biases = {name: preferred[name] for name in BIASES if name in preferred}
    return {
        **counts(verdicts),
        **rates,
        **{name: biases[name].value if name in biases else None for name in BIASES},
        "intervals": {name: one.to_json() for name, one in biases.items()},
    }


def _kappa(
    of_pair: Mapping[str, Mapping[SampleId, tuple[Verdict, str]]],
    judges: Sequence[str],
    *,
    num_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """The interval of two judges' kappa, and the share of samples on which they say the same."""
    mine, theirs = (of_pair[judge] for judge in judges)
    both = [k for k in mine if k in theirs and "unjudged" not in (mine[k][0].outcome, theirs[k][0].outcome)]
    first, second = [mine[k][0].outcome for k in both], [theirs[k][0].outcome for k in both]
    found = kappa_interval(first, second, [mine[k][1] for k in both], num_bootstrap=num_bootstrap, seed=seed)
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(both) if both else None
    return {"kappa_interval": None if found is None else [found.low, found.high], "same": same}


def _rankings(
    by_judge: Mapping[str, Verdicts], pairs: Sequence[Pair], *, num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """Bradley-Terry strengths by judge; of two captionings the win rate says it all."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair[::-1]))
    if len(names) < 3:
        return {}
    names.sort(key=lambda name: sum(pair[0] == name for pair in pairs))  # a later one is `layer` more often
    place = {name: k for k, name in enumerate(names)}
    found = {}
    for judge, samples in by_judge.items():
        comparisons = [
            Comparison(place[one.layer], place[one.against], POINTS[one.outcome], said.image)
            for said in samples.values()
            for one in said.verdicts
            if one.outcome != "unjudged" and (one.layer, one.against) in pairs
        ]
        if comparisons:
            strengths = bradley_terry(names, comparisons, num_bootstrap=num_bootstrap, seed=seed)
            found[judge] = to_json(strengths)
    return {"bradley_terry": found}


def _captions(by_judge: Mapping[str, Verdicts], *, num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Means of what was said of single captions, by judge and layer, with intervals over images."""
    found: dict[str, dict[str, Any]] = {}
    for judge, samples in by_judge.items():
        rows: dict[str, list[tuple[str, dict[str, float]]]] = {}
        for said in samples.values():
            for layer, one in said.captions.items():
                if row := _caption_row(one):
                    rows.setdefault(layer, []).append((said.image, row))
        for layer, of_layer in rows.items():
            columns = columns_of([row for _, row in of_layer])
            groups = [image for image, _ in of_layer]
            estimates = estimate(
                columns, _caption_metrics, groups=groups, num_bootstrap=num_bootstrap, seed=seed
            )
            of = supports(columns, _caption_metrics, groups)
            figures = {
                name: interval_within(one, float(name in _CAPTION_SHARES), of[name]).to_json()
                for name, one in estimates.items()
            }
            found.setdefault(judge, {})[layer] = {"num_captions": len(of_layer), **figures}
    return {"captions": found} if found else {}


def _caption_metrics(totals: Columns) -> dict[str, FloatArray]:
    """Means over captions, and of the sentences the share that is not supported."""
    sentences = totals["supported"] + totals["unsupported"] if "supported" in totals else totals["n"]
    return {
        name: ratio(totals[name], sentences if name == "unsupported" else totals["n"])
        for name in totals
        if name not in ("n", "supported")
    }


def _caption_row(one: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that were said of a caption: its marks, or how many sentences are (un)supported."""
    if "score" not in one:
        return {}
    if "marks" in one:
        return {"score": one["score"], **one["marks"]}
    unsupported = float(one["unsupported"])
    return {
        "supported": float(one["supported"]),
        "unsupported": unsupported,
        "any_unsupported": float(unsupported > 0),
    }
