"""`vila2 soup`: one checkpoint averaged from several that were trained from the same one."""

import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vila2cli import __version__
from vila2cli.errors import DataWarning, RecipeError
from vila2cli.files import aside, read_json
from vila2cli.run.folder import complete_folder, write_json
from vila2cli.run.locks import lock
from vila2cli.run.recipe_file import store_recipe
from vila2cli.run.results import StageResult
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.score.task import Task, find_tasks
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import open_source, read_shard

Evaluate = Callable[[str, Path, Sequence[Path]], Mapping[str, Any]]
"""Checkpoint, folder for its answers and task folders to what metrics.json holds."""
Say = Callable[[str], None]

FINAL_SPLITS = frozenset(("eval", "test"))
"""Splits that are for reporting by their name alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoupSummary(StageResult):
    """What vila2.json holds: the `parents` with their shares, and the digests of all `candidates`."""

    stage: str
    vila2: str
    seconds: float
    parents: Sequence[Mapping[str, Any]]
    candidates: Sequence[str]
    selection: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    seed: int

    def lines(self) -> list[str]:
        return [f"{parent['share']:.3f} of {parent['path']}" for parent in self.parents]


@dataclass(frozen=True, slots=True)
class GreedyStep:
    """A model considered by the greedy soup: the score of the pool with it, and whether it stayed."""

    index: int
    score: float
    is_kept: bool


def soup(
    recipe: Recipe,
    *,
    models: Sequence[str],
    out: Path,
    evaluate: Evaluate,
    tasks: Sequence[str] = (),
    say: Say = lambda line: None,
) -> SoupSummary:
    """Average `models` as [soup] says and write the checkpoint to `out`, whole or not at all.

    Which models are averaged, and the words for it, follow POINTS section 3.3. The paper selects on the
    benchmarks that it reports; here maximum and greedy select on `tasks` (default: soup.tasks) of another
    split, on the mean of their headline metrics. Answers are kept in `OUT-selection`, so that a run that
    was stopped goes on. Raises RecipeError for settings that do not fit,
    ModelError for models that cannot be averaged.
    """
    from vila2cli.model.averaging import write_soup
    from vila2cli.model.checkpoint import resolve_model, weights_sha256
    from vila2cli.model.likeness import check_alike
    from vila2cli.model.loading import outline

    start_s = time.monotonic()
    settings = recipe.soup
    _check_settings(recipe, models)
    folders = [resolve_model(model) for model in models]
    _check_distinct(folders)
    check_alike(folders)
    outline(folders[0])  # what one of them lacks, all do
    _warn_of_other_parents(folders)
    selection: dict[str, Any] | None = None
    shares = [1.0] * len(models)
    with lock(out), interruptible() as stop, complete_folder(out) as partial:
        if settings.method == "weighted":
            shares = list(settings.weights)
        elif settings.method != "uniform":
            candidates = dict(zip(map(str, models), folders, strict=True))
            work = out.with_name(f"{out.name}-selection")
            selector = _Selector(selection_tasks(recipe, tasks), candidates, work, evaluate, say, stop)
            chosen = selector.maximum(settings.top) if settings.method == "maximum" else selector.greedy()
            shares = [float(index in chosen) for index in range(len(models))]
            selection = selector.record()
        shares = [share / sum(shares) for share in shares]
        members = [index for index, share in enumerate(shares) if share]
        with stop.at_once():
            write_soup([folders[i] for i in members], [shares[i] for i in members], partial)
        identities = [weights_sha256(folder) for folder in folders]
        summary = SoupSummary(
            stage="soup",
            vila2=__version__,
            seconds=round(time.monotonic() - start_s, 3),
            parents=[{"path": str(models[i]), "sha256": identities[i], "share": shares[i]} for i in members],
            candidates=identities,
            selection=selection,
            settings=settings.deciding(),
            seed=recipe.seed,
        )
        store_recipe(partial, recipe)
        write_json(partial / "vila2.json", summary.to_json())
    return summary


def _check_distinct(folders: Sequence[Path]) -> None:
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RecipeError("a model is named twice; give soup.weights to let it count for more")


class _Selector:
    """Scores models and their averages on the selection tasks, each once."""

    def __init__(
        self,
        tasks: Sequence[Task],
        candidates: Mapping[str, Path],
        work: Path,
        evaluate: Evaluate,
        say: Say,
        stop: Stop,
    ) -> None:
        self._tasks, self._models, self._folders = tasks, list(candidates), list(candidates.values())
        self._work, self._evaluate, self._say, self._stop = work, evaluate, say, stop
        self._trial = aside(work / "trial")
        self.scores = [self._score([index]) for index in range(len(candidates))]
        self.order = sorted(range(len(candidates)), key=lambda index: (-self.scores[index], index))
        self.steps: list[GreedyStep] = []

    def maximum(self, top: int) -> set[int]:
        """The `top` best models."""
        return set(self.order[:top])

    def greedy(self) -> set[int]:
        """The models that the greedy soup keeps."""
        self.steps = greedy(self.order, self.scores[self.order[0]], self._score)
        return {step.index for step in self.steps if step.is_kept}

    def record(self) -> dict[str, Any]:
        """What the lineage says of the selection."""
        return {
            "split": self._tasks[0].split,
            "tasks": {task.name: task.version for task in self._tasks},
            "metric": "mean of the headline metrics",
            "scores": {self._models[index]: self.scores[index] for index in self.order},
            "steps": [
                {"model": self._models[step.index], "score": step.score, "kept": step.is_kept}
                for step in self.steps
            ],
        }

    def _score(self, indices: Sequence[int]) -> float:
        self._stop.check()
        name = "+".join(map(str, sorted(indices)))
        if len(indices) == 1:
            score = self._ask(self._models[indices[0]], name)
        else:
            from vila2cli.model.averaging import write_soup

            shutil.rmtree(self._trial, ignore_errors=True)
            members = [self._folders[index] for index in sorted(indices)]
            with self._stop.at_once():
                write_soup(members, [1 / len(members)] * len(members), self._trial)
            score = self._ask(str(self._trial), name)
            shutil.rmtree(self._trial)
        self._say(f"{' + '.join(self._models[index] for index in sorted(indices))}: {score:.4f}")
        return score

    def _ask(self, model: str, name: str) -> float:
        metrics = self._evaluate(model, self._work / name, [task.folder for task in self._tasks])
        return headline_mean(metrics)


def greedy(order: Sequence[int], best: float, score: Callable[[Sequence[int]], float]) -> list[GreedyStep]:
    """The greedy soup: down `order`, best first, a model stays when the pool's score does not fall.

    `best` is the score of the first alone; `score` that of the average of some.
    """
    steps = [GreedyStep(order[0], best, is_kept=True)]
    pool = [order[0]]
    for index in order[1:]:
        pooled = score([*pool, index])
        is_kept = pooled >= best
        if is_kept:
            pool.append(index)
            best = pooled
        steps.append(GreedyStep(index, pooled, is_kept))
    return steps


def headline_mean(metrics: Mapping[str, Any]) -> float:
    """The unweighted mean of all tasks' headline metrics, as POINTS averages its benchmarks."""
    entries = metrics["tasks"].values()
    return fmean(float(entry["metrics"][entry["headline"]]["value"]) for entry in entries)


def selection_tasks(recipe: Recipe, specs: Sequence[str] = ()) -> list[Task]:
    """The tasks that a soup selects on; raises RecipeError unless they are of one split apart from the
    reported one, in name and in images."""
    chosen = specs or recipe.soup.tasks
    if not chosen:
        raise RecipeError(
            f"soup.method = {recipe.soup.method!r} selects models by their score: give --tasks or soup.tasks, "
            'a split that is not reported, or --set soup.method="uniform"'
        )
    tasks = find_tasks(chosen)
    if unshared := [task.name for task in tasks if not task.scorer.is_share]:
        raise RecipeError(
            f"a soup maximises a mean of shares of 1, which {unshared[0]} has none of; leave it out"
        )
    reported = find_tasks(recipe.eval.tasks) if recipe.eval.tasks else []
    splits = {task.split for task in tasks}
    if len(splits) > 1 or not min(splits):
        raise RecipeError(
            f"a soup selects on one split that is named: {', '.join(task.name for task in tasks)} have "
            f"{', '.join(repr(split) for split in sorted(splits))}; state it in each task.toml"
        )
    split = min(splits)
    if split in FINAL_SPLITS | {task.split for task in reported}:
        raise RecipeError(
            f"a soup must not select on the {split!r} split, which is reported: its scores would be too good; "
            "select on another, such as data/world/dev/*"
        )
    images = {task.name: _images(task) for task in tasks}
    for other in reported:
        shown = _images(other)
        for task in tasks:
            if common := images[task.name] & shown:
                raise RecipeError(
                    f"a soup must not select on what is reported: {len(common)} images of {task.folder} are "
                    f"in {other.folder}, too"
                )
    return tasks


def _images(task: Task) -> set[str]:
    """SHA-256 of the images of every sample; samples without an image do not count."""
    shards = open_source([task.folder]).shards
    samples = (sample for shard in shards for sample in read_shard(shard, on_reject=lambda reject: None))
    return {sample.image_sha256 for sample in samples} - {""}


def _warn_of_other_parents(folders: Sequence[Path]) -> None:
    """Averaging works along what models have in common: they should come from one checkpoint."""
    lineages = [read_json(path) for folder in folders if (path := folder / "vila2.json").is_file()]
    parents = {lineage["parent"].get("sha256") for lineage in lineages if lineage.get("parent")}
    if len(parents) > 1:
        warnings.warn(
            f"the models were trained from {len(parents)} different checkpoints; an average of such models is "
            "rarely any good",
            DataWarning,
            stacklevel=3,
        )


def _check_settings(recipe: Recipe, models: Sequence[str]) -> None:
    weights = recipe.soup.weights
    if len(models) < 2:
        raise RecipeError(f"a soup needs two or more --models, got {len(models)}")
    if recipe.soup.method == "weighted" and len(weights) != len(models):
        raise RecipeError(f"soup.weights has {len(weights)} shares for {len(models)} models; give one for each")
    if recipe.soup.method != "weighted" and weights:
        raise RecipeError(f'soup.weights goes with soup.method = "weighted", not {recipe.soup.method!r}')
