"""Two prediction layers over the same task: paired differences of their metrics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import read_json
from vila2cli.score import find_scorer
from vila2cli.score.box_frames import AUTO, FRAMES
from vila2cli.score.scorer import Scored, Scorer
from vila2cli.score.stats import (
    Columns,
    Difference,
    Estimate,
    Interval,
    Support,
    columns_of,
    difference,
    difference_of,
    estimate,
    interval_within,
    supports,
)
from vila2cli.shards.annotations import SampleId, read_annotations
from vila2cli.shards.sample import Annotation

LEFT_OUT, CUT_OFF = "left out", "cut off"
"""What a prediction's decision says of the reasoning before its answer."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The scores of a prediction layer, in shard and key order, with the image and question of each or "".

    `num_tokens` were generated for all answers of the layer.
    """

    ids: tuple[SampleId, ...]
    scored: tuple[Scored, ...]
    image_sha256s: tuple[str, ...]
    prompt_sha256s: tuple[str, ...]
    num_tokens: int = 0

    def columns(self, scorer: Scorer) -> Columns:
        """The scores as columns, ready for `stats.estimate`."""
        return columns_of(scorer.rows(self.scored))

    def groups(self, scorer: Scorer) -> list[str]:
        """What each sample is resampled with: the scorer's unit, else its image, else itself."""
        triples = zip(self.scored, self.image_sha256s, self.ids, strict=True)
        return [
            one.labels.get(scorer.unit) or image or one.labels.get("image") or "/".join(name)
            for one, image, name in triples
        ]

    def estimate(self, scorer: Scorer, *, num_bootstrap: int, seed: int) -> dict[str, Estimate]:
        """Every metric of the scorer with its bootstrap replicates."""
        return estimate(
            self.columns(scorer),
            scorer.metrics,
            groups=self.groups(scorer),
            num_bootstrap=num_bootstrap,
            seed=seed,
        )

    def intervals(self, scorer: Scorer, found: Mapping[str, Estimate]) -> dict[str, Interval]:
        """The interval of every metric, the cautious one for shares of few images of its own."""
        columns, of = self.columns(scorer), self.supports(scorer)
        tops = {name: scorer.top_of(name, columns) for name in found}
        return {name: interval_within(one, tops[name], of[name]) for name, one in found.items()}

    def supports(self, scorer: Scorer) -> dict[str, Support]:
        """How many samples and images each metric is of."""
        return supports(self.columns(scorer), scorer.metrics, self.groups(scorer))

    def asks_like(self, other: "Predictions") -> bool:
        """Whether both were asked the same, sample by sample, as far as the layers recorded it."""
        asked = zip(self.prompt_sha256s, other.prompt_sha256s, strict=True)
        return all(one == two for one, two in asked if one and two)


def read_predictions(layer_dir: Path, scorer: Scorer | None = None, *, box_frame: str = "") -> Predictions:
    """Read all complete shards of a prediction layer; raises DataError when there is none.

    The rows are those that were stored, or the final ones of a `scorer` that settles them over all answers,
    where boxes are in the frame `box_frame` in place of the one that was known when they were asked for.
    """
    ids, scored, images, prompts, num_tokens = [], [], [], [], 0
    for sample_id, annotation in read_annotations(layer_dir):
        if annotation.kind != "prediction":
            raise DataError(f"{layer_dir} is a layer of kind {annotation.kind!r}, not of predictions")
        ids.append(sample_id)
        scored.append(_scored(annotation))
        images.append(annotation.image_sha256)
        prompts.append(annotation.prompt_sha256 or "")
        num_tokens += annotation.num_tokens or 0
    if not ids:
        raise DataError(f"{layer_dir} holds no predictions; run vila2 eval first")
    final: Sequence[Scored] = scored
    if scorer is not None and scorer.settle is not None:
        framed = {"box_frame": box_frame} if box_frame else {}
        final = scorer.settle([replace(one, labels={**one.labels, **framed}) for one in scored])
    return Predictions(tuple(ids), tuple(final), tuple(images), tuple(prompts), num_tokens)


def pair(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Both layers cut to the samples they share; raises DataError when these are other pictures."""
    place = {sample_id: row for row, sample_id in enumerate(second.ids)}
    shared = [(row, place[one]) for row, one in enumerate(first.ids) if one in place]
    if not shared:
        raise DataError("the two prediction layers share no sample; are they of the same task?")
    if any(first.image_sha256s[i] != second.image_sha256s[j] for i, j in shared):
        raise DataError("the two prediction layers have different pictures under the same key")
    return _take(first, [i for i, _ in shared]), _take(second, [j for _, j in shared])


def differences(
    first_dir: Path, second_dir: Path, scorer: Scorer, *, num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Second minus first of every metric of the scorer, on the samples both layers hold."""
    before, after, _ = both(first_dir, second_dir, scorer, num_bootstrap=num_bootstrap, seed=seed)
    return {name: difference(before[name], after[name]) for name in before}


def differences_of(
    scorer: Scorer,
    estimates: tuple[Mapping[str, Estimate], Mapping[str, Estimate]],
    predictions: tuple[Predictions, Predictions],
) -> dict[str, Difference]:
    """Every metric of what `both` gives, second minus first, with the interval that eval states, too.

    A metric is of the images that it is of in both, of which there may be fewer in one.
    """
    columns = [one.columns(scorer) for one in predictions]
    groups = predictions[0].groups(scorer)
    first, second = (supports(one, scorer.metrics, groups) for one in columns)
    before, after = estimates
    found = {}
    for name in before:
        of = min(first[name], second[name], key=lambda one: (one.num_images, one.num_samples))
        top = max(scorer.top_of(name, one) for one in columns)
        found[name] = difference_of(before[name], after[name], top=top, of=of)
    return found


def both(
    first_dir: Path, second_dir: Path, scorer: Scorer, *, num_bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, Estimate], dict[str, Estimate], tuple[Predictions, Predictions]]:
    """Every metric of two layers on the samples both hold, and these samples as either has them."""
    first, second = pair(
        *(read_predictions(one, scorer, box_frame=_measured_frame(one)) for one in (first_dir, second_dir))
    )
    before, after = (one.estimate(scorer, num_bootstrap=num_bootstrap, seed=seed) for one in (first, second))
    return before, after, (first, second)


def shared_tasks(first_dir: Path, second_dir: Path) -> Iterator[tuple[str, Scorer]]:
    """Name and scorer of every task with predictions in both; raises DataError when scored differently."""
    first_tasks, second_tasks = _tasks_of(first_dir), _tasks_of(second_dir)
    for name in (name for name in first_tasks if name in second_tasks):
        if (first_dir / name).is_dir() and (second_dir / name).is_dir():
            _check_same_task(name, first_tasks[name], second_tasks[name])
            yield name, find_scorer(first_tasks[name]["scorer"])


def _tasks_of(eval_dir: Path) -> dict[str, Any]:
    tasks = read_json(eval_dir / "metrics.json").get("tasks")
    if not isinstance(tasks, dict):
        raise DataError(f"{eval_dir}/metrics.json names no tasks; run vila2 eval again")
    return tasks


def _measured_frame(layer_dir: Path) -> str:
    """The frame that metrics.json says a task's boxes were measured in, where one was stated."""
    path = layer_dir.parent / "metrics.json"
    tasks = read_json(path).get("tasks") if path.is_file() else None
    task = tasks.get(layer_dir.name) if isinstance(tasks, dict) else None
    frame = task.get("box_frame") if isinstance(task, dict) else None
    return frame if isinstance(frame, str) and frame in (*FRAMES, AUTO) else ""


def _check_same_task(name: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    for key in ("version", "scorer", "scorer_version", "judge"):
        if first.get(key) != second.get(key):
            raise DataError(
                f"task {name} was scored with {key} {first.get(key)!r} and {second.get(key)!r}; "
                "run vila2 eval again for the older one"
            )


def _take(predictions: Predictions, rows: Sequence[int]) -> Predictions:
    return Predictions(
        tuple(predictions.ids[i] for i in rows),
        tuple(predictions.scored[i] for i in rows),
        tuple(predictions.image_sha256s[i] for i in rows),
        tuple(predictions.prompt_sha256s[i] for i in rows),
    )


def _scored(annotation: Annotation) -> Scored:
    """What `Scorer.stored` kept of a prediction."""
    row = {name: float(value) for name, value in annotation.scores.items() if isinstance(value, int | float)}
    labels = annotation.scores.get("labels") or {}
    reasoning = annotation.decision.get("reasoning")
    return Scored(
        row,
        dict(labels),
        annotation.text or "",
        tuple(annotation.scores.get("references") or ()),
        is_cut=annotation.finish_reason == "length" or reasoning == CUT_OFF,
        has_reasoning=reasoning is not None,
    )
