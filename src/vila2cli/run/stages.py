"""The table of stages: what each of a run's stages runs, writes and waits for, and when it is complete.

`vila2 run`, the rules that make includes, and `vila2 slurm` all read it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from vila2cli.errors import RecipeError, meant
from vila2cli.files import read_json
from vila2cli.run.folder import RunFolder
from vila2cli.run.splitting import listed_shards, undone
from vila2cli.settings.layers import RECAPTION, REWRITE
from vila2cli.settings.recipe import Recipe
from vila2cli.settings.slurm import StageKind
from vila2cli.shards.records import read_layer_json, read_stats
from vila2cli.shards.rejects import MAY_PASS, are_too_many
from vila2cli.shards.stats import done

SPECIALISTS, CONTROLS = "specialists", "controls"
WORLD: Literal["world"] = "world"
DIRECT, EQUAL_COMPUTE, ONLY = "final-direct", "final-equal-compute", "final-only-"
LAYERS = ("recaption", "rewrite", "filter", "relabel")
"""Stages that write one layer."""
CHECKPOINTS = ("pretrain", "sft", "specialize", "soup")
"""Stages that write a checkpoint."""
_DONE_FILES = {"world": "world.json", "eval": "metrics.json", **dict.fromkeys(CHECKPOINTS, "vila2.json")}
WORLD_DIR = Path("data/world")
"""Where `vila2 world` writes, and the recipe of the embedded world reads."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run: `words` are the command line after `vila2`, `after` names stages that come before.

    It writes the folder `out`, and where specialists answer together, or several caption layers are written,
    `beside` has those of the others. One with more rejects than `max_reject_rate` has failed; `rates_beside`
    are those of `beside` where they differ.
    """

    name: str
    kind: StageKind
    words: tuple[str, ...]
    out: Path
    after: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    max_reject_rate: float = 1.0
    rates_beside: tuple[float, ...] = ()

    @property
    def specialists(self) -> tuple[str, ...]:
        """The specialists it trains or asks."""
        return tuple(word for flag, word in pairwise(self.words) if flag == "--name")

    @property
    def is_split(self) -> bool:
        """Whether workers share the shards."""
        return not self.is_training and self.kind != "world"

    @property
    def is_training(self) -> bool:
        return self.kind in ("pretrain", "sft", "specialize")

    @property
    def marker(self) -> Path:
        """The file that is written last."""
        return self.out / done_file(self.kind)

    @property
    def markers(self) -> tuple[Path, ...]:
        """Those of all its folders."""
        return tuple(out / done_file(self.kind) for out in (self.out, *self.beside))

    def is_complete(self) -> bool:
        """Whether all of its output is there, see `is_complete`."""
        return all(is_complete(one.kind, one.out, max_reject_rate=one.max_reject_rate) for one in self._apart())

    def missing_workers(self, count: int) -> list[int]:
        """Which of `count` workers have shards left; the first alone where only the summary is missing."""
        if self.is_complete():
            return []
        if self.beside:
            return sorted({i for one in self._apart() for i in one.missing_workers(count)})
        written = self.out / "scores" if self.kind == "filter" else self.out
        names = _shards(self.kind, written)
        if not names:
            return list(range(count))
        missing = set(undone(written, names)) | set(self._unanswered(names))
        if not missing and _asks_again(self.kind, self.out):
            return list(range(count))
        return [i for i in range(count) if missing & set(names[i::count])] or [0]

    def _apart(self) -> list["Stage"]:
        """The same with each of its folders alone."""
        rates = (self.max_reject_rate, *(self.rates_beside or [self.max_reject_rate] * len(self.beside)))
        outs = zip((self.out, *self.beside), rates, strict=True)
        return [replace(self, out=out, beside=(), max_reject_rate=rate, rates_beside=()) for out, rate in outs]

    def _unanswered(self, names: Sequence[str]) -> list[str]:
        """The shards of an eval, as `FOLDER/SHARD`, that are complete but for what a server did not answer."""
        if self.kind != "eval":
            return []
        stats = {name: self.out / f"{name}.stats.json" for name in names}
        dropped = {name: read_stats(path).get("dropped", {}) for name, path in stats.items() if path.is_file()}
        return [name for name, reasons in dropped.items() if any(word in reasons for word in MAY_PASS)]


def done_file(kind: str) -> str:
    """The file in its folder that a stage writes last."""
    return _DONE_FILES.get(kind, "summary.json")


def is_complete(kind: str, out: Path, *, max_reject_rate: float = 1.0) -> bool:
    """Whether the output of a stage is there, of all shards, and a layer's within the budget of rejects."""
    if not (out / done_file(kind)).is_file() or _asks_again(kind, out) or undone(out, _shards(kind, out)):
        return False
    return kind not in LAYERS or is_summed_up(out, max_reject_rate)


def _asks_again(kind: str, out: Path) -> bool:
    """Whether judges were left without answers that another try may bring."""
    path = out / done_file(kind)
    if kind != "judge" or not path.is_file():
        return False
    reasons = read_json(path).get("unjudged_reasons", {})
    return any(word in found for found in reasons.values() for word in MAY_PASS)


def _shards(kind: str, folder: Path) -> list[str]:
    """The shards that the workers share, as `undone` takes them; nothing before the first has begun."""
    if kind in ("eval", "judge"):
        return listed_shards(folder)
    path = folder / "layer.json"
    return [str(base["name"]) for base in read_layer_json(path)["base"]] if path.is_file() else []


def is_summed_up(out: Path, max_reject_rate: float) -> bool:
    """Whether a layer's summary counts every shard that is there, and is within the budget of rejects.

    A stage that was killed before its summary, or failed on too many rejects, has to look (and fail) again.
    """
    path, num_done = out / done_file("layer"), len(done(out))
    if not path.is_file() or not path.stat().st_size:
        return False
    summary = read_json(path)
    is_of_all: bool = summary.get("num_shards_done", num_done) == num_done
    num_failed = summary.get("rejected", 0) + sum(summary.get("fallbacks", {}).values())
    return is_of_all and not are_too_many(summary.get("reject_rate", 0.0), num_failed, max_reject_rate)


def reject_budget(recipe: Recipe, kind: str, layer: str = "recaption") -> float:
    """The share of rejects above which a stage that writes a layer, of captions the one named, fails."""
    rates = {
        "recaption": recipe.captions_of(layer).max_reject_rate,
        "relabel": recipe.recaption.max_reject_rate,
        "rewrite": recipe.rewrite.max_reject_rate,
        "filter": recipe.filter.max_reject_rate,
    }
    return rates.get(kind, 1.0)


def plan_stages(recipe: Recipe, *targets: str) -> list[Stage]:
    """The stages that lead to the targets, in an order in which they can run; the last round without any.

    A target is `roundN`, `specialists` (they and the final model), `controls` or one of them (`final-direct`,
    `final-equal-compute`, `final-only-NAME`), or `world` where the recipe names the embedded one. Raises
    RecipeError for another.
    """
    goals = [goal for names in goals_of(recipe, *targets).values() for goal in names]
    numbers = [int(found[1]) for goal in goals if (found := re.match(r"round(\d+)-", goal))]
    last = max([recipe.rounds, *numbers])
    stages = [stage for number in range(last + 1) for stage in _round(recipe, number)]
    stages += _specialists(recipe)
    stages += (one for name in _controls(recipe) for one in _control(recipe, name))
    if _needs_world(recipe):
        drawn = Stage(WORLD, WORLD, (WORLD,), WORLD_DIR)
        first = {stage.name for stage in stages if not stage.after}
        stages = [drawn, *(replace(one, after=(WORLD,)) if one.name in first else one for one in stages)]
    budgeted = [replace(stage, max_reject_rate=reject_budget(recipe, stage.kind)) for stage in stages]
    return list(_leading_to(goals, budgeted))


def goals_of(recipe: Recipe, *targets: str) -> dict[str, list[str]]:
    """The stages that each target is complete with, see `plan_stages`."""
    return {target: _goals(recipe, target) for target in targets or (f"round{recipe.rounds}",)}


def _goals(recipe: Recipe, target: str) -> list[str]:
    if found := re.fullmatch(r"round(\d{1,3})", target):
        number = int(found[1])
        return _measuring(number)
    controls = _controls(recipe)
    rounds = _measuring(recipe.rounds)
    known = {SPECIALISTS: [*rounds, "final-eval"], CONTROLS: [*rounds, *(f"{name}-eval" for name in controls)]}
    known |= {name: [*rounds, f"{name}-eval"] for name in controls}
    if _needs_world(recipe):
        known[WORLD] = [WORLD]
    if target not in known:
        rounds = [f"round{i}" for i in range(recipe.rounds + 1)]
        there = [name for name in known if name != SPECIALISTS or recipe.specialists]
        raise RecipeError(
            f"{target} is no target{meant(target, [*rounds, *there])}; this recipe has round0 to {rounds[-1]}, "
            f"{', '.join(there)}"
        )
    return known[target]


def _measuring(last: int) -> list[str]:
    """The stages of all rounds up to the last that nothing waits for, as no stage reads what they find."""
    return [name for i in range(last + 1) for name in (f"round{i}-eval", *([f"round{i}-judge"] if i else []))]


def _needs_world(recipe: Recipe) -> bool:
    """Whether any of the data is the embedded world's."""
    data = recipe.data
    specs = [*data.pretrain, *data.interleaved, *data.text, *data.sft, *recipe.eval.tasks]
    specs += [spec for specialist in recipe.specialists.values() for spec in specialist.data]
    return any(spec.startswith(f"{WORLD_DIR}/") for spec in specs)


def _leading_to(goals: Sequence[str], stages: Iterable[Stage]) -> Iterator[Stage]:
    """Those of the stages, in their order, that the goals need."""
    by_name = {stage.name: stage for stage in stages}
    needed: set[str] = set()
    todo = list(goals)
    while todo:
        if (name := todo.pop()) not in needed:
            needed.add(name)
            todo += by_name[name].after
    yield from (stage for name, stage in by_name.items() if name in needed)


def _round(recipe: Recipe, number: int) -> Iterator[Stage]:
    folder, here = RunFolder(recipe.run_dir), f"round{number}"

    def stage(kind: StageKind, *after: str, layers: Sequence[str] = ()) -> Stage:
        words = (kind, "--round", str(number), *(word for layer in layers for word in ("--layer", layer)))
        beside = tuple(folder.captions(layer, number) for layer in layers[1:])
        rates = tuple(reject_budget(recipe, kind, layer) for layer in layers[1:])
        out, name = folder.stage(kind, number), f"{here}-{kind}"
        return Stage(name, kind, words, out, after, beside, rates_beside=rates)

    trained_on: list[str] = []
    if number:
        before = f"round{number - 1}"
        layers = recipe.caption_layers if recipe.captions else ()
        yield stage("recaption", f"{before}-sft", layers=layers)
        trained_on = [f"{here}-recaption"]
        if recipe.rewrites:
            merging = RECAPTION, "--rewrite", "--round", str(number)
            yield Stage(f"{here}-rewrite", REWRITE, merging, folder.stage(REWRITE, number), tuple(trained_on))
            trained_on = [f"{here}-rewrite"]
        if recipe.pretrain.filtered:
            yield stage("filter", *trained_on)
            trained_on = [f"{here}-filter"]
    yield stage("pretrain", *trained_on)
    yield stage("sft", f"{here}-pretrain")
    yield stage("eval", f"{here}-sft")
    if number:
        yield stage("judge", f"{here}-recaption", f"{here}-sft")


def _specialists(recipe: Recipe) -> Iterator[Stage]:
    folder = RunFolder(recipe.run_dir)
    for name in recipe.specialists:
        words = ("specialize", "--name", name)
        yield Stage(name, "specialize", words, folder.specialist(name), (f"round{recipe.rounds}-pretrain",))
    relabelling = list(_relabelling(recipe))
    yield from relabelling
    before = tuple(stage.name for stage in relabelling) or (f"round{recipe.rounds}-sft",)
    yield from _training(recipe, "final", before)


def _controls(recipe: Recipe) -> list[str]:
    """The controls of the final model, see cli/controls.py."""
    return [DIRECT, EQUAL_COMPUTE, *(f"{ONLY}{name}" for name in recipe.specialists)]


def _control(recipe: Recipe, control: str) -> Iterator[Stage]:
    before: tuple[str, ...] = (f"round{recipe.rounds}-sft",)
    if control == EQUAL_COMPUTE:
        before = ("final-pretrain",)
    elif control.startswith(ONLY):
        name = control.removeprefix(ONLY)
        before = tuple(stage.name for stage in _relabelling(recipe) if name in stage.specialists)
    yield from _training(recipe, control, before)


def _training(recipe: Recipe, group: str, before: tuple[str, ...]) -> Iterator[Stage]:
    """The training and evaluation of the final model or of a control of it."""
    kinds: tuple[StageKind, ...] = ("pretrain", "sft", "eval")
    for kind in kinds:
        out = RunFolder(recipe.run_dir).stage(kind, group)
        yield Stage(f"{group}-{kind}", kind, (kind, "--round", group), out, before)
        before = (f"{group}-{kind}",)


def _relabelling(recipe: Recipe) -> Iterator[Stage]:
    """The specialists one by one, or all at once where they are adapters of one checkpoint."""
    folder, names = RunFolder(recipe.run_dir), tuple(recipe.specialists)
    for together in [names] if recipe.specialize.lora and names else [(name,) for name in names]:
        words = ("specialize", *(word for name in together for word in ("--name", name)), "--relabel")
        out, *beside = [folder.relabel(name) for name in together]
        name = f"{together[0]}-relabel" if len(together) == 1 else "relabel"
        yield Stage(name, "relabel", words, out, together, tuple(beside))
