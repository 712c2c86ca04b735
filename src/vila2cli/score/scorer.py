"""What a metric family is: a score per sample, and metrics from the totals of those scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vila2cli.score.stats import Columns, Metrics


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that fill each slot of an object fact; a phrase may have several words."""

    size: tuple[str, ...]
    colour: tuple[str, ...]
    shape: tuple[str, ...]
    place: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is true for one sample: accepted answers, and for captions the scene and its words.

    `synonyms` are words for objects, each with its class. `meta` is the sample's own JSON, for what a
    family needs beside the answers (choices, category).
    """

    answers: tuple[str, ...] = ()
    scene: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


Row = dict[str, float]
"""The scores of one sample; `score` is its share of the headline metric, between 0 and 1."""

Labels = dict[str, str]
"""The groups of a sample by their kind: {"question": "17", "category": "count"}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """How a judge scores an answer: the prompt's id, what it is filled with, and what a reply says.

    `slots` raises DataError where the reference lacks something; `read` gives the row of an answer, None for a
    reply that cannot be read.
    """

    prompt: str
    slots: Callable[[str, Reference], Mapping[str, str]]
    read: Callable[[str], Row | None]


@dataclass(frozen=True, slots=True)
class Scored:
    """One prediction with its scores, and what a family needs that looks at all samples together.

    `is_cut`: generation ended before the answer did, `has_reasoning`: reasoning was left out.
    """

    row: Row
    labels: Labels = field(default_factory=dict)
    text: str = ""
    references: tuple[str, ...] = ()
    is_cut: bool = False
    has_reasoning: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether there is an answer, and all of it."""
        return not self.is_cut and bool(self.text.strip())


@dataclass(frozen=True, slots=True)
class Account:
    """What metrics.json reports under `name`: how answers were read, and why the figure may be wrong."""

    name: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A metric family. `version` changes whenever the same answer could score differently.

    `score` raises DataError where the reference does not fit the family. `metrics` may use the
    keys of the row and `n`, the number of samples. `complete` gives the rows of all samples once
    more, with what only shows in all of them: whether every question of a group is right, or how
    rare a word is. What it needs beside the rows is kept with each prediction: `labels`, and the
    reference answers where `keeps_references`. `tops` are the greatest values of metrics, where these
    are not shares of 1. `unit` is the label that is resampled as a whole in place of the image.
    `rule` says in a few words whose scoring this is, and `deviation` where and why
    a figure may differ from that of the official code, `unread` why it may once answers are `unparsed`.
    `settle` gives the rows again where how an answer is read depends on all answers of a model; it is called
    before any are left out. `account` says how they were read. Where there is a `marking`, a judge gives the
    row and `score` only checks the reference.
    """

    name: str
    version: str
    headline: str
    score: Callable[[str, Reference], Row]
    metrics: Metrics
    labels: Callable[[Reference], Labels] | None = None
    complete: Callable[[Sequence[Scored]], list[Row]] | None = None
    keeps_references: bool = False
    unit: str = ""
    is_share: bool = True  # the headline is a share of 1 and can be averaged with other tasks
    tops: Callable[[str, Columns], float] | None = None
    rule: str = ""
    deviation: str = ""
    unread: str = ""
    settle: Callable[[Sequence[Scored]], Sequence[Scored]] | None = None
    account: Callable[[Sequence[Scored]], Account] | None = None
    marking: Marking | None = None

    def top_of(self, metric: str, columns: Columns) -> float:
        """The greatest value that a metric can have, 0 being its least; 0 for one without a limit."""
        return float(self.is_share) if self.tops is None else self.tops(metric, columns)

    def stored(self, answer: str, reference: Reference) -> dict[str, Any]:
        """What a prediction layer keeps of one answer; `Scored` is made from it again."""
        stored: dict[str, Any] = {**self.score(answer, reference)}
        if self.labels is not None:
            stored["labels"] = self.labels(reference)
        if self.keeps_references:
            stored["references"] = list(reference.answers)
        return stored

    def rows(self, scored: Sequence[Scored]) -> list[Row]:
        """The rows of all samples, complete."""
        return [prediction.row for prediction in scored] if self.complete is None else self.complete(scored)
