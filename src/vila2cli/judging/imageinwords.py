"""ImageInWords' human side-by-side judgements (Garg et al. 2024, section 4) as verdicts of people.

Each row compares two descriptions of one image by five metrics on a scale of five: either is
substantially or marginally better, or neither. A metric is a judge of its own here; how much better
it was stays in the verdict's answer.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import load_json
from vila2cli.judging.verdicts import SampleVerdicts, by_sample
from vila2cli.score.verdict import Outcome, Verdict
from vila2cli.shards.annotations import SampleId

METRICS = {
    "metrics/Comprehensiveness": "people-comprehensiveness",
    "metrics/First few line(s) as tldr": "people-first-lines",
    "metrics/Hallucination": "people-hallucination",
    "metrics/Human Like": "people-human-like",
    "metrics/Specificity": "people-specificity",
}
_SIDES = {"iiw-human-sxs-gpt4v": ("IIW-Human", "GPT-4V"), "iiw-human-sxs-iiw-p5b": ("IIW-Human", "IIW-P5B")}
_SETS = {"DCI_Test": ("IIW", "DCI"), "DOCCI_Test": ("IIW", "DOCCI")}
_BETTER = re.compile(r"(.+) is (?:marginally|substantially) better")


def read_imageinwords(paths: list[Path]) -> dict[str, dict[SampleId, SampleVerdicts]]:
    """The verdicts of the data.jsonl of IIW-400, DCI_Test and DOCCI_Test by metric.

    The shard of a sample is the name of the set, its key the image's. Raises DataError for anything else.
    """
    by_metric: dict[str, list[tuple[tuple[str, str, str], Verdict]]] = {}
    for path in paths:
        name = path.parent.name
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                row = load_json(line)
                sample = (name, str(row.get("image/key") or row["image"]), "")
                for verdict in _verdicts(row, name):
                    by_metric.setdefault(verdict.judge, []).append((sample, verdict))
            except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
                raise DataError(f"{path}:{number} is no judgement of ImageInWords: {error}") from None
    if not by_metric:
        raise DataError(f"no judgements in {', '.join(map(str, paths))}; give data.jsonl files of ImageInWords")
    return {metric: dict(sorted(by_sample(rows).items())) for metric, rows in sorted(by_metric.items())}


def _verdicts(row: Mapping[str, Any], set_name: str) -> Iterator[Verdict]:
    for field, sides in _SIDES.items():
        if field in row:
            yield from _by_metric(row, row[field], sides)
    if any(metric in row for metric in METRICS):
        if set_name not in _SETS:
            raise DataError(f"{set_name} is none of {', '.join(_SETS)}: keep the file in the folder of its set")
        yield from _by_metric(row, row, _SETS[set_name])


def _by_metric(row: Mapping[str, Any], judged: Mapping[str, Any], sides: tuple[str, str]) -> Iterator[Verdict]:
    for metric, judge in METRICS.items():
        yield Verdict(
            layer=sides[0],
            against=sides[1],
            judge=judge,
            outcome=_outcome(judged[metric], sides),
            num_words=_num_words(row, sides),
            answers=(judged[metric],),
        )


def _outcome(text: str, sides: tuple[str, str]) -> Outcome:
    if text == "Neutral":
        return "tie"
    better = _BETTER.fullmatch(text)
    if better is None or better[1] not in sides:
        raise DataError(f"{text!r} is no comparison of {sides[0]} and {sides[1]}")
    return "win" if better[1] == sides[0] else "loss"


def _num_words(row: Mapping[str, Any], sides: tuple[str, str]) -> tuple[int, int]:
    """Words of both descriptions; zeros where the row lacks one, so that no length is compared."""
    texts = [row.get(name.removesuffix("-Human")) for name in sides]
    if not all(isinstance(text, str) for text in texts):
        return 0, 0
    first, second = (len(str(text).split()) for text in texts)
    return first, second
