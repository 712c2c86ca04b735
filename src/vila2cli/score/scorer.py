"""What a metric family is: a score per sample, and metrics from the totals of those scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vila2cli.score.stats import Metrics


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that fill each slot of an object fact; a phrase may have several words."""

    size: tuple[str, ...]
    colour: tuple[str, ...]
    shape: tuple[str, ...]
    place: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is true for one sample: accepted answers, and for captions the scene and its words."""

    answers: tuple[str, ...] = ()
    scene: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None


Row = dict[str, float]
"""The scores of one sample; `score` is its share of the headline metric, between 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A metric family. `version` changes whenever the same answer could score differently.

    `score` raises DataError where the reference does not fit the family. `metrics` may use the
    keys of the row and `n`, the number of samples.
    """

    name: str
    version: str
    headline: str
    score: Callable[[str, Reference], Row]
    metrics: Metrics
