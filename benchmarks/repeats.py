"""Evals against each other, and the mean of repeats: what several benchmarks sum up their runs with."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vila2cli.evaluation.predictions import differences, shared_tasks
from vila2cli.score import CAPTION_SCORERS
from vila2cli.score.stats import CONFIDENCE, Interval, mean_of


def compare_evals(
    first_dir: Path, second_dir: Path, *, num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Second minus first of two eval folders, for every task both hold.

    Returns `tasks` (task -> metric -> `difference`, `low`, `high`) and `qa_mean`, the mean over the
    headline scores of the shared question-answering tasks (None when there is none).
    """
    tasks: dict[str, dict[str, dict[str, float]]] = {}
    headlines = []
    for name, scorer in shared_tasks(first_dir, second_dir):
        found = differences(first_dir / name, second_dir / name, scorer, num_bootstrap=num_bootstrap, seed=seed)
        tasks[name] = {metric: one.interval().to_json("difference") for metric, one in found.items()}
        if scorer.name not in CAPTION_SCORERS and scorer.is_share:
            headlines.append(found[scorer.headline])
    qa_mean = mean_of(headlines).interval().to_json("difference") if headlines else None
    return {"tasks": tasks, "qa_mean": qa_mean}


def t_interval(values: Sequence[float]) -> Interval | None:
    """The mean of independent repeats with its interval by Student's t; None below two."""
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    half = _t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def _t_quantile(freedom: int) -> float:
    """Where CONFIDENCE of a t distribution lies within plus and minus: with t = sqrt(freedom) tan(angle)
    its density is a power of the cosine."""
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    area = np.cumsum(density[1:] + density[:-1])
    return math.sqrt(freedom) * math.tan(float(np.interp(CONFIDENCE, area / area[-1], angle[1:])))
