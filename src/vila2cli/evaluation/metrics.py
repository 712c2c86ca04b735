"""What metrics.json holds, as a stage returns it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from vila2cli.run.cost import fewer_tiles_lines
from vila2cli.run.results import REST, StageResult, key
from vila2cli.text.printable import aligned, printable

ENOUGH_WRONG = 10
"""So many answers of a task of which none is right are rather asked or read wrongly than all wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics(StageResult):
    """The scores by task, the mean of those that answer questions, and the caption task's metrics.

    `about` says where they are from: model, round, protocol, answer files, seconds.
    """

    tasks: Mapping[str, Any]
    qa_mean: Mapping[str, float] | None
    caption: Mapping[str, Any] | None
    about: Mapping[str, Any] = key(REST)

    def lines(self) -> Iterator[str]:
        """A table of the tasks with their headlines; what else there is stands in metrics.json."""
        if "model" in self.about:
            yield f"model: {self.about['model']}"
        rows: list[tuple[str, ...]] = [("task", "samples", "metric", "value", "95% interval", "rejected")]
        rows += [_row(name, entry) for name, entry in self.tasks.items()]
        if self.qa_mean is not None and len(self.tasks) > 1:
            num = sum(int(entry.get("num_samples", 0)) for entry in self.tasks.values() if _is_asked(entry))
            rows.append(("mean of questions", f"{num:,}", "", *_figures(self.qa_mean), ""))
        if not any(row[-1] for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        yield from aligned(rows)
        num_fewer = sum(entry.get("fewer_tiles", 0) for entry in self.tasks.values())
        yield from fewer_tiles_lines({"fewer_tiles": num_fewer})
        if seconds := self.about.get("seconds"):
            yield f"seconds: {seconds:.4g}"
        yield "every metric of each task: metrics.json"


def none_right(tasks: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What to look at for each task of questions without a right answer; `tasks` as metrics.json has them."""
    for name, entry in tasks.items():
        num = int(entry.get("num_samples", 0))
        value = (entry.get("metrics", {}).get(str(entry.get("headline"))) or {}).get("value")
        if num >= ENOUGH_WRONG and value == 0 and _is_asked(entry):
            asked = f"; each question was asked as: {printable(entry['prompt'])}" if entry.get("prompt") else ""
            look = f"look at them: vila2 shards show {quote(str(folder / name))}"
            yield f"{name}: none of {num:,} answers is right; {look}{asked}"


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    headline = str(entry.get("headline", ""))
    figures = _figures(entry.get("metrics", {}).get(headline) or {})
    num, rejected = (int(entry.get(key, 0)) for key in ("num_samples", "num_rejected"))
    return name, f"{num:,}", headline, *figures, f"{rejected:,}" if rejected else ""


def _is_asked(entry: Mapping[str, Any]) -> bool:
    return entry.get("answer_type") != "caption"


def _figures(value: Mapping[str, Any]) -> tuple[str, str]:
    if value.get("value") is None:
        return "-", ""
    interval = f"{value['low']:.4f} to {value['high']:.4f}" if "low" in value else ""
    return f"{value['value']:.4f}", interval
