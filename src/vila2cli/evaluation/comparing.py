"""Two eval folders side by side: headline differences with intervals, adjusted p-values, and samples needed."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.evaluation.predictions import both, differences_of, shared_tasks
from vila2cli.run.results import StageResult
from vila2cli.score.significance import holm, p_value, samples_needed, smallest_visible, standard_error
from vila2cli.score.stats import difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The headline of one task in two evals, and second minus first: all on the samples both answered."""

    task: str
    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    num_samples: int
    smallest_visible: float | None
    samples_needed: int | None

    def line(self) -> str:
        """The same for the terminal."""
        return (
            f"{self.task} {self.metric}: {self.first:.4f} -> {self.second:.4f}, "
            f"{self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f}), p {self.p:.2g}, "
            f"Holm {self.p_holm:.2g}; {self._plan()}"
        )

    def _plan(self) -> str:
        """What the comparison says of the samples that the next one needs."""
        if self.smallest_visible is None:
            how = "do not differ" if self.difference == 0 else "all differ alike"
            return f"the {self.num_samples:,} samples {how}: how many would show it cannot be told"
        needed = "-" if self.samples_needed is None else f"{self.samples_needed:,}"
        return f"{self.num_samples:,} samples show {self.smallest_visible:.4f}, needed {needed}"


@dataclass(frozen=True, slots=True)
class Comparison(StageResult):
    """Two evals, by the tasks that they share."""

    changes: Sequence[Change]

    def to_json(self) -> dict[str, Any]:
        """The changes by task, and how to read their figures."""
        return {
            "num_comparisons": len(self.changes),
            "adjustment": "Holm, over the headlines of all shared tasks; p from the paired bootstrap's spread",
            "power": "samples_needed and smallest_visible are for 80% power, two-sided at 5%",
            "tasks": {change.task: asdict(change) for change in self.changes},
        }

    def lines(self) -> Iterator[str]:
        for change in self.changes:
            yield change.line()
        yield (
            f"{len(self.changes)} comparisons, p-values adjusted together by Holm's method; 'show' and "
            "'needed' are for 80% power, two-sided at 5%"
        )


def compare_headlines(
    first_dir: Path, second_dir: Path, *, wanted: float | None = None, num_bootstrap: int = 1000, seed: int = 0
) -> list[Change]:
    """The headline changes of all shared tasks; p-values are adjusted for their number by Holm's method.

    `samples_needed` is for a difference of `wanted`, else for the one that was found; it and `smallest_visible`
    are None where the samples show no spread to plan with. Raises DataError when the folders share no task that
    was scored in the same way.
    """
    rows: list[dict[str, Any]] = []
    for name, scorer in shared_tasks(first_dir, second_dir):
        layers = first_dir / name, second_dir / name
        before, after, answers = both(*layers, scorer, num_bootstrap=num_bootstrap, seed=seed)
        first, second = before[scorer.headline], after[scorer.headline]
        one, num = difference(first, second), len(answers[0].ids)
        found = differences_of(scorer, (before, after), answers)[scorer.headline]
        error = standard_error(one)
        target = one.value if wanted is None else wanted
        rows.append(
            {
                "task": name,
                "metric": scorer.headline,
                "first": first.value,
                "second": second.value,
                "difference": one.value,
                "low": found.interval.low,
                "high": found.interval.high,
                "p": p_value(found),
                "num_samples": num,
                "smallest_visible": smallest_visible(error),
                "samples_needed": samples_needed(error, num, target),
            }
        )
    if not rows:
        raise DataError(f"{first_dir} and {second_dir} share no task")
    adjusted = holm([row["p"] for row in rows])
    return [Change(**row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
