"""What a run will take, stage by stage: images times device-seconds per image, and where the rate is from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import read_json
from vila2cli.run.cost import price_text, three_digits
from vila2cli.run.folder import RunFolder
from vila2cli.run.results import StageResult
from vila2cli.run.stages import Stage, done_file
from vila2cli.settings.recipe import Recipe
from vila2cli.settings.slurm import StageKind
from vila2cli.settings.training import TrainSettings
from vila2cli.shards import expected_samples, open_source

KINDS: tuple[StageKind, ...] = tuple(kind for kind in get_args(StageKind) if kind != "world")


@dataclass(frozen=True, slots=True)
class Rate:
    """Device-seconds per image, what devices those are, and who measured it."""

    seconds: float
    device: str
    source: str


_H100 = Rate(1 / 10.6, "GPU-hours", "VILA^2 section 3.6, one H100")
_A100_PRETRAIN = Rate(30 * 128 * 3600 / 50e6, "GPU-hours", "VILA appendix B, 7B on A100s")
_A100_SFT = Rate(6 * 128 * 3600 / 1e6, "GPU-hours", "VILA appendix B, 7B on A100s")
PUBLISHED: Mapping[StageKind, Rate] = {
    "recaption": _H100,
    "relabel": _H100,
    "pretrain": _A100_PRETRAIN,
    "sft": _A100_SFT,
    "specialize": _A100_SFT,
}
"""What papers report; VILA trained 7B on 128 GPUs, 30 h on about 50M images and 6 h on about 1M.

VILA^2 does not state its hours of training, and nobody those of filtering, judging and evaluating.
"""


_OF_PAPERS = {rate.source for rate in PUBLISHED.values()}
_MAX_NAMED = 6
_LIKE: Mapping[StageKind, StageKind] = {"specialize": "sft", "relabel": "recaption"}
"""Stages that do the same work on other data."""


Counts = Mapping[str, int | None]
"""Samples of the data "pretrain", "interleaved", "sft", "eval" and of each specialist; None where it is not
there, or not known without reading it."""


def with_sizes(counts: Counts, sizes: Mapping[str, int]) -> Counts:
    """These in place of those counted; raises RecipeError for other data."""
    if other := sorted(sizes.keys() - counts.keys()):
        raise RecipeError(f"there is no data named {other[0]}; it is one of {', '.join(sorted(counts))}")
    return {**counts, **sizes}


@dataclass(frozen=True, slots=True)
class Forecast:
    """One stage: how many images pass through it (None: not known) and at what rate (None: nobody says).

    `uncounted` names the data of which it is not known. A paper's rate is for one square an image; where one is
    cut into up to `most_tiles`, so many times the hours are the most, as work grows with tokens at most.
    """

    stage: Stage
    num_images: int | None
    rate: Rate | None
    dollars_per_hour: float
    is_complete: bool
    uncounted: tuple[str, ...] = ()
    most_tiles: int = 1

    @property
    def hours(self) -> float | None:
        """Device-hours."""
        if self.num_images is None or self.rate is None:
            return None
        return self.num_images * self.rate.seconds / 3600

    @property
    def dollars(self) -> float | None:
        return None if self.hours is None else self.hours * self.dollars_per_hour

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "name": self.stage.name,
            "num_images": self.num_images,
            "images_per_s": None if self.rate is None else 1 / self.rate.seconds,
            "device": None if self.rate is None else self.rate.device,
            "source": None if self.rate is None else self.rate.source,
            "hours": self.hours,
            **({"most_tiles": self.most_tiles} if self.most_tiles > 1 else {}),
            "dollars": self.dollars,
            "complete": self.is_complete,
            "uncounted": list(self.uncounted),
        }

    def line(self, num_devices: int, width: int) -> str:
        """One line for the terminal, of a stage whose rate is known; wall-clock hours are on `num_devices`."""
        images = "?" if self.num_images is None else f"{self.num_images:,}"
        text = f"{self.stage.name:<{width}}  {images:>12} images  "
        assert self.rate is not None, "it is known how fast it is"
        if self.hours is None or self.dollars is None:
            return f"{text}{three_digits(1 / self.rate.seconds)} images/s  ({self.rate.source})"
        price = f"  {price_text(self.dollars)}" if self.dollars_per_hour else ""
        hours = _hours(self.hours, self.rate.device, num_devices)
        most = f", up to {self.most_tiles} times that in tiles" if self.most_tiles > 1 else ""
        return f"{text}{hours}{price}{most}  ({self.rate.source})"


def measured_rates(run_dir: Path) -> dict[StageKind, Rate]:
    """The rates that the summaries of a run hold, of each kind of stage those of the latest round."""
    folder, found = RunFolder(run_dir), dict[StageKind, Rate]()
    numbers = (path.name.removeprefix("round") for path in run_dir.glob("round*"))
    rounds = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
    for kind in KINDS:
        if kind in ("specialize", "relabel"):
            name = "checkpoint" if kind == "specialize" else "relabel"
            outs = sorted(run_dir.glob(f"specialists/*/{name}"))
        else:
            outs = [folder.stage(kind, number) for number in rounds]
        rates = (_read_rate(kind, out) for out in outs)
        rate = next((rate for rate in rates if rate is not None), None)
        if rate is not None:
            found[kind] = rate
    return found


def _read_rate(kind: StageKind, out: Path) -> Rate | None:
    """The rate of one finished stage, None where it is not finished or timed nothing."""
    path = out / done_file(kind)
    if not path.is_file() or not path.stat().st_size:
        return None
    try:
        summary = read_json(path)
        seconds, num_images, device = _figures(kind, summary)
    except (DataError, KeyError, TypeError):  # of another version
        return None
    return Rate(seconds / num_images, device, f"measured: {out}") if num_images and seconds else None


def _figures(kind: StageKind, summary: Mapping[str, Any]) -> tuple[float, int, str]:
    """Device-seconds, the images they were spent on, and the unit of hours; "" where it is the recipe's."""
    if kind in ("recaption", "rewrite", "filter"):
        cost = summary["cost"]
        return cost["hours_per_1k_images"] * 3600, 1000, cost["device"]
    if kind in ("pretrain", "sft", "specialize"):
        seconds = sum(phase["seconds"] for phase in summary["phases"])
        num_samples = sum(phase["num_samples"] for phase in summary["phases"])
        return seconds * summary.get("processes", 1), num_samples, ""
    if kind == "relabel":
        return summary["seconds"], summary["out"], ""
    if kind == "judge":
        return summary["seconds"], summary["num_drawn"], ""
    return summary["seconds"], sum(task["num_samples"] for task in summary["tasks"].values()), ""


def count_data(recipe: Recipe) -> Counts:
    """Count the samples that the recipe names, from stats files or a few shards, without reading them all."""
    from vila2cli.score.task import find_tasks

    tasks: list[str] = []
    if recipe.eval.tasks:
        try:
            tasks = [str(task.folder) for task in find_tasks(recipe.eval.tasks)]
        except DataError:
            tasks = []
    specialists = {name: _count(settings.data) for name, settings in recipe.specialists.items()}
    sft, text = _count(recipe.data.sft), _count(recipe.data.text) if recipe.data.text else 0
    return {
        "pretrain": _count(recipe.data.pretrain),
        "interleaved": _count(recipe.data.interleaved) if recipe.data.interleaved else 0,
        "sft": None if sft is None or text is None else sft + text,
        "eval": _count(tasks),
        **specialists,
    }


def _count(specs: Sequence[str]) -> int | None:
    try:
        return expected_samples(open_source(specs).shards)[0] if specs else None
    except DataError:
        return None


def forecast(
    stages: Sequence[Stage], recipe: Recipe, counts: Counts, rates: Mapping[StageKind, Rate]
) -> Iterator[Forecast]:
    """What each stage will take, at the measured rates, else the published ones."""
    tiles = recipe.base.tiles  # among which there may be one that shows a picture whole
    most_tiles = 1 if tiles.method == "none" else tiles.max + tiles.thumbnail
    for stage in stages:
        rate = _rate(stage.kind, recipe, rates)
        yield Forecast(
            stage,
            num_images(stage, recipe, counts),
            rate,
            recipe.cost.dollars_per_hour,
            stage.is_complete(),
            tuple(name for name in _data_of(stage) if counts[name] is None),
            most_tiles if rate is not None and rate.source in _OF_PAPERS else 1,
        )


def _rate(kind: StageKind, recipe: Recipe, rates: Mapping[StageKind, Rate]) -> Rate | None:
    """The measured rate, else that of a stage that does the same work, else a paper's where GPUs work."""
    rate = rates.get(kind) or rates.get(_LIKE.get(kind, kind))
    if rate is None and recipe.cost.device == "GPU-hours":
        rate = PUBLISHED.get(kind)
    return rate if rate is None or rate.device else replace(rate, device=recipe.cost.device)


def _data_of(stage: Stage) -> tuple[str, ...]:
    """The data that decide how many images pass through a stage, as `Counts` names them."""
    if stage.kind == "specialize":
        return stage.specialists
    if stage.kind == "pretrain":
        return "pretrain", "interleaved"
    return {"sft": ("sft",), "eval": ("eval",), "judge": ()}.get(stage.kind, ("pretrain",))


def num_images(stage: Stage, recipe: Recipe, counts: Counts) -> int | None:
    """How many images pass through a stage, each as often as it does."""
    if stage.kind == "recaption":
        shares = [recipe.captions_of(layer).share for layer in recipe.caption_layers]
        return _share(counts["pretrain"], sum(shares))
    if stage.kind in ("rewrite", "filter"):
        return counts["pretrain"]
    if stage.kind == "pretrain":
        return _pretraining(recipe, counts)
    if stage.kind == "sft":
        return _passes(counts["sft"], recipe.sft)
    if stage.kind == "specialize":
        (name,) = stage.specialists
        return _passes(counts[name], recipe.specialists[name])
    if stage.kind == "relabel":
        shares = [recipe.specialists[name].relabel_share for name in stage.specialists]
        return _share(counts["pretrain"], sum(shares))
    return recipe.judge.num_samples if stage.kind == "judge" else counts["eval"]


def _pretraining(recipe: Recipe, counts: Counts) -> int | None:
    # What a filter leaves is not known before it has run: all of it, then.
    passes = [_passes(counts["pretrain"], phase) for phase in recipe.pretrain.phases.values()]
    passes.append(_passes(counts["interleaved"], recipe.pretrain.main))
    known = [number for number in passes if number is not None]
    return sum(known) if len(known) == len(passes) else None


def _share(number: int | None, share: float) -> int | None:
    return None if number is None else round(number * share)


def _passes(number: int | None, settings: TrainSettings) -> int | None:
    """Samples seen in all epochs."""
    if number is None:
        return None
    return round(min(number, settings.max_samples or number) * settings.epochs)


@dataclass(frozen=True, slots=True)
class Forecasts(StageResult):
    """What every stage of a run will take."""

    stages: Sequence[Forecast]

    def lines(self, num_devices: int = 1) -> Iterator[str]:
        return forecast_lines(self.stages, num_devices=num_devices) if self.stages else iter(())


def forecast_lines(found: Sequence[Forecast], *, num_devices: int) -> Iterator[str]:
    """One line per stage and the sum of those that are left, by unit of hours, for the terminal."""
    width = max(len(one.stage.name) for one in found)
    for one in found:
        if one.is_complete:
            yield f"{one.stage.name:<{width}}  {'complete':>12}"
        elif one.rate is not None:
            yield one.line(num_devices, width)
    left = [one for one in found if not one.is_complete]
    for device in sorted({one.rate.device for one in left if one.rate is not None and one.hours is not None}):
        known = [one for one in left if one.rate is not None and one.rate.device == device]
        hours = sum(one.hours or 0.0 for one in known)
        dollars = sum(one.dollars or 0.0 for one in known)
        price = f", {price_text(dollars)}" if dollars else ""
        most = sum((one.hours or 0.0) * one.most_tiles for one in known)
        more = f"; in tiles up to {_hours(most, device, num_devices)}" if most > hours else ""
        yield f"left: {_hours(hours, device, num_devices)}{price}{more}"
    if uncounted := [one for one in left if one.rate is not None and one.num_images is None]:
        wanted = dict.fromkeys(name for one in uncounted for name in one.uncounted)
        asked = " ".join(f"--count {name}=NUMBER" for name in wanted)
        yield f"not in the sum, as their data is not here to be counted: {_named(uncounted)}"
        yield f"  say how many samples there are: vila2 plan {asked}"
    if unmeasured := [one for one in left if one.rate is None]:
        yield f"not in the sum, as no run has measured how fast they are: {_named(unmeasured)}"


def _named(found: Sequence[Forecast]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return ", ".join(one.stage.name for one in found[:_MAX_NAMED]) + more


def _hours(hours: float, device: str, num_devices: int) -> str:
    """Hours of a device, and those that pass where several work together."""
    wall = f", {three_digits(hours / num_devices)} h on {num_devices:,}" if num_devices > 1 else ""
    return f"{three_digits(hours)} {device}{wall}"
