"""What metrics.json holds, as a stage returns it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vila2cli.run.results import REST, StageResult, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics(StageResult):
    """The scores by task, the mean of those that answer questions, and the caption task's metrics.

    `about` says where they are from: model, round, protocol, answer files, seconds.
    """

    tasks: Mapping[str, Any]
    qa_mean: Mapping[str, float] | None
    caption: Mapping[str, Any] | None
    about: Mapping[str, Any] = key(REST)
