"""The figures in summary.json of a judged folder: by pair and judge how often which captions were preferred,
how far the judges can be trusted, and what could not be judged."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from vila2cli.errors import DataError
from vila2cli.judging.agreement import kappa_interval, many_judges
from vila2cli.judging.preference import BIASES, RATES, preferences
from vila2cli.judging.ranking import Comparison, bradley_terry, to_json
from vila2cli.run.results import REST, StageResult
from vila2cli.run.results import key as key_of
from vila2cli.score.stats import (
    Bootstrap,
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
    """A judge's verdicts on the captions of an image, and its marks for single captions by layer."""

    image: str
    verdicts: tuple[Verdict, ...]
    captions: Mapping[str, Mapping[str, Any]]


Verdicts = Mapping[SampleId, SampleVerdicts]


@dataclass(frozen=True, slots=True)
class Judgements(StageResult):
    """The figures of every pair, and `about` what holds for all of them: ranks, what is unjudged, by whom."""

    pairs: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any] = key_of(REST)


def read_verdict_layer(folder: Path) -> dict[SampleId, SampleVerdicts]:
    """The verdicts of a layer by sample; raises DataError where they cannot be read."""
    samples = {}
    for sample_id, annotation in read_annotations(folder):
        if annotation.kind != "verdict":
            raise DataError(f"{folder} is a layer of kind {annotation.kind!r}, not of verdicts")
        verdicts = tuple(Verdict.from_json(value) for value in annotation.scores.get("verdicts", ()))
        image = annotation.image_sha256 or "/".join(sample_id)
        samples[sample_id] = SampleVerdicts(image, verdicts, annotation.scores.get("captions", {}))
    return samples


def by_sample(rows: Iterable[tuple[tuple[str, str, str], Verdict]]) -> dict[SampleId, SampleVerdicts]:
    """Verdicts, each with shard, key and image, by sample; a sample stands for an image without a digest."""
    verdicts: dict[SampleId, list[Verdict]] = {}
    images: dict[SampleId, str] = {}
    for (shard, key, image), verdict in rows:
        verdicts.setdefault((shard, key), []).append(verdict)
        images[shard, key] = image or f"{shard}/{key}"
    return {sample: SampleVerdicts(images[sample], tuple(given), {}) for sample, given in verdicts.items()}


def summarise_judges(
    by_judge: Mapping[str, Verdicts], pairs: Sequence[Pair], **bootstrap: Unpack[Bootstrap]
) -> dict[str, Any]:
    """All figures of several judges over the pairs; `judges` are those of the first pair alone."""
    entries = [_pair_entry(by_judge, pair, **bootstrap) for pair in pairs]
    unjudged = [
        {"shard": shard, "key": key, **verdict.to_json()}
        for samples in by_judge.values()
        for (shard, key), sample in samples.items()
        for verdict in sample.verdicts
        if verdict.outcome == "unjudged"
    ]
    return {
        "judges": entries[0]["judges"],
        "pairs": entries,
        **_rankings(by_judge, pairs, **bootstrap),
        **_captions(by_judge, **bootstrap),
        "unjudged": unjudged,
        "unjudged_reasons": reasons(unjudged),
    }


def _pair_entry(by_judge: Mapping[str, Verdicts], pair: Pair, **bootstrap: Unpack[Bootstrap]) -> dict[str, Any]:
    """What each judge prefers of two captionings, and how far the judges agree."""
    of_pair = {judge: _of_pair(samples, pair) for judge, samples in by_judge.items()}
    outcomes = {
        judge: {key: verdict.outcome for key, (verdict, _) in samples.items()}
        for judge, samples in of_pair.items()
    }
    entry = {
        "layer": pair[0],
        "against": pair[1],
        "judges": {judge: _figures(samples, **bootstrap) for judge, samples in of_pair.items()},
        "agreement": [two | _kappa(of_pair, two["judges"], **bootstrap) for two in agreement(outcomes)],
    }
    judged = {
        judge: {key: outcome for key, outcome in samples.items() if outcome != "unjudged"}
        for judge, samples in outcomes.items()
        if judge != MAJORITY
    }
    return entry | ({"all_judges": many_judges(judged)} if len(judged) > 2 else {})


def reasons(unjudged: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many pairs each judge left unjudged, by the first word of the reason."""
    counts: dict[str, Counter[str]] = {}
    for verdict in unjudged:
        word = str(verdict.get("reason", "")).partition(":")[0] or "unknown"
        counts.setdefault(str(verdict["judge"]), Counter())[word] += 1
    return {judge: dict(words.most_common()) for judge, words in counts.items()}


def _of_pair(samples: Verdicts, pair: Pair) -> dict[SampleId, tuple[Verdict, str]]:
    """The verdicts on a pair, each with its image."""
    return {
        sample_id: (verdict, sample.image)
        for sample_id, sample in samples.items()
        for verdict in sample.verdicts
        if (verdict.layer, verdict.against) == pair
    }


def _figures(samples: Mapping[SampleId, tuple[Verdict, str]], **bootstrap: Unpack[Bootstrap]) -> dict[str, Any]:
    """How often a judge gave which verdict, and what it prefers, None where nothing is known of it.

    The rates have their intervals with them; those of the biases are under `intervals`.
    """
    verdicts, images = [verdict for verdict, _ in samples.values()], [image for _, image in samples.values()]
    preferred = preferences(verdicts, images, **bootstrap)
    rates = {name: preferred[name].to_json() if name in preferred else None for name in RATES}
    biases = {name: preferred[name] for name in BIASES if name in preferred}
    return {
        **counts(verdicts),
        **rates,
        **{name: biases[name].value if name in biases else None for name in BIASES},
        "intervals": {name: bias.to_json() for name, bias in biases.items()},
    }


def _kappa(
    of_pair: Mapping[str, Mapping[SampleId, tuple[Verdict, str]]],
    judges: Sequence[str],
    **bootstrap: Unpack[Bootstrap],
) -> dict[str, Any]:
    """The interval of two judges' kappa, and the share of samples on which they give the same verdict."""
    first, second = (of_pair[judge] for judge in judges)
    rows = [
        (first[key][0].outcome, second[key][0].outcome, first[key][1])
        for key in first
        if key in second and "unjudged" not in (first[key][0].outcome, second[key][0].outcome)
    ]
    if not rows:
        return {"kappa_interval": None, "same": None}
    kappa = kappa_interval(*zip(*rows, strict=True), **bootstrap)
    same = sum(a == b for a, b, _ in rows) / len(rows)
    return {"kappa_interval": None if kappa is None else [kappa.low, kappa.high], "same": same}


def _rankings(
    by_judge: Mapping[str, Verdicts], pairs: Sequence[Pair], **bootstrap: Unpack[Bootstrap]
) -> dict[str, Any]:
    """Bradley-Terry strengths by judge; of two captionings the win rate is all."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair[::-1]))
    if len(names) < 3:
        return {}
    names.sort(key=lambda name: sum(pair[0] == name for pair in pairs))  # a later one is `layer` more often
    place = {name: k for k, name in enumerate(names)}
    strengths = {}
    for judge, samples in by_judge.items():
        comparisons = [
            Comparison(place[verdict.layer], place[verdict.against], POINTS[verdict.outcome], sample.image)
            for sample in samples.values()
            for verdict in sample.verdicts
            if verdict.outcome != "unjudged" and (verdict.layer, verdict.against) in pairs
        ]
        if comparisons:
            strengths[judge] = to_json(bradley_terry(names, comparisons, **bootstrap))
    return {"bradley_terry": strengths}


def _captions(by_judge: Mapping[str, Verdicts], **bootstrap: Unpack[Bootstrap]) -> dict[str, Any]:
    """Mean marks of single captions, by judge and layer, with intervals over images."""
    means: dict[str, dict[str, Any]] = {}
    for judge, samples in by_judge.items():
        rows: dict[str, list[tuple[str, dict[str, float]]]] = {}
        for sample in samples.values():
            for layer, marks in sample.captions.items():
                if row := _caption_row(marks):
                    rows.setdefault(layer, []).append((sample.image, row))
        for layer, of_layer in rows.items():
            columns = columns_of([row for _, row in of_layer])
            groups = [image for image, _ in of_layer]
            estimates = estimate(columns, _caption_metrics, groups=groups, **bootstrap)
            of = supports(columns, _caption_metrics, groups)
            figures = {
                name: interval_within(mean, float(name in _CAPTION_SHARES), of[name]).to_json()
                for name, mean in estimates.items()
            }
            means.setdefault(judge, {})[layer] = {"num_captions": len(of_layer), **figures}
    return {"captions": means} if means else {}


def _caption_metrics(totals: Columns) -> dict[str, FloatArray]:
    """Means over captions, and of the sentences the share that is not supported."""
    sentences = totals["supported"] + totals["unsupported"] if "supported" in totals else totals["n"]
    return {
        name: ratio(totals[name], sentences if name == "unsupported" else totals["n"])
        for name in totals
        if name not in ("n", "supported")
    }


def _caption_row(marks: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a caption got: its marks, or how many sentences are (un)supported."""
    if "score" not in marks:
        return {}
    if "marks" in marks:
        return {"score": marks["score"], **marks["marks"]}
    unsupported = float(marks["unsupported"])
    return {
        "supported": float(marks["supported"]),
        "unsupported": unsupported,
        "any_unsupported": float(unsupported > 0),
    }
