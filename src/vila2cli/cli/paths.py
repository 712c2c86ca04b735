"""Where the inputs of a command come from, and where its output goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.cli.controls import answering, is_final
from vila2cli.errors import RecipeError
from vila2cli.ranks import parse_rank
from vila2cli.run.folder import RunFolder
from vila2cli.run.stages import CHECKPOINTS, LAYERS, done_file
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards.places import found_locally, looks_remote

DEFAULT_RECIPE = Path("recipes/world.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A stage with its paths settled, of a `kind` of the table of stages, or a rewrite or soup.

    `stage` is what it is called, `origins` says of model, shards and out who named them, and `deciding` what
    decides a checkpoint beyond the settings of its first section. `layer` is the one of captions that is meant.
    """

    stage: str
    round: int | str | None
    recipe: Recipe
    sections: tuple[str, ...]
    kind: str
    out: Path
    model: str | None = None
    shards: tuple[str, ...] = ()
    base: str | None = None
    limit: int | None = None
    worker: Worker = field(default_factory=Worker)
    layer: str = "recaption"
    origins: Mapping[str, str] = field(default_factory=dict)
    deciding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        if self.round is None:
            return self.stage
        return (
            f"{self.round} {self.stage}" if isinstance(self.round, str) else f"round {self.round} {self.stage}"
        )

    @property
    def round_number(self) -> int | None:
        return self.round if isinstance(self.round, int) else None

    @property
    def is_layer(self) -> bool:
        return self.kind in LAYERS

    @property
    def is_checkpoint(self) -> bool:
        return self.kind in CHECKPOINTS

    @property
    def speaks(self) -> bool:
        """Whether this process is the one of a training that prints; others work on shards of their own."""
        return not self.is_checkpoint or parse_rank().index == 0

    @property
    def marker(self) -> Path:
        """The file that the stage writes last."""
        return self.out / done_file(self.kind)


def open_recipe(path: Path | None, sets: Sequence[str] | None) -> Recipe:
    """Load the recipe named, or recipes/world.toml where it exists, or the defaults alone."""
    if path is None and DEFAULT_RECIPE.exists():
        path = DEFAULT_RECIPE
    return load_recipe(path, sets or ())


def parse_round(text: str | None) -> int | str | None:
    """Read `--round`: a number from 0, `final` for the training after the specialists, or a control of it."""
    if text is None or is_final(text):
        return text
    if not text.isdecimal():
        raise RecipeError(
            f"--round {text}: give a number from 0, final, or a control of it: "
            "final-direct, final-equal-compute, final-only-NAME"
        )
    return int(text)


class Paths:
    """Settles each path of a stage: as given, else from the run folder of a round, else by default."""

    def __init__(self, recipe: Recipe, round_text: str | None, limit: int | None = None) -> None:
        self.recipe, self.limit = recipe, limit
        self.round = parse_round(round_text)
        self.folder = RunFolder(recipe.run_dir)
        self.origins: dict[str, str] = {}

    def stage(self, name: str) -> Path:
        """The folder of a stage in the round."""
        return self.folder.stage(name, self.round)

    def captioned(self) -> list[str]:
        """What a round may pretrain on: the data as it is, or the layers that the round put over it."""
        if self.round in (None, 0):
            return list(self.recipe.data.pretrain)
        # A rewrite layer lies over the recaptions and brings them with it.
        named = self.recipe.captions_named()
        layers = [self._last_round("rewrite" if self.recipe.rewrites else "recaption")]
        layers += [self._last_captions(name) for name in self.recipe.captions if name in named]
        return [found_locally(layer) for layer in layers]

    def pretrained_on(self) -> list[str]:
        """What a round pretrains on: of `captioned` what its filter keeps where the recipe asks for it."""
        specs = self.captioned()
        if self.recipe.pretrain.filtered and self.round not in (None, 0):
            specs = [found_locally(self._last_round("filter"))]
        if isinstance(self.round, str):
            specs += [found_locally(self.folder.relabel(name)) for name in answering(self.recipe, self.round)]
        return specs

    def _last_round(self, stage: str) -> Path:
        """The folder of a stage in the round; the final training goes on from the last one."""
        return self.folder.stage(stage, self._last)

    def _last_captions(self, layer: str) -> Path:
        return self.folder.captions(layer, self._last)

    @property
    def _last(self) -> int:
        return self.round if isinstance(self.round, int) else self.recipe.rounds

    def model(self, given: str | None, fallback: Path | None, engine: str = "auto") -> str:
        """The checkpoint, or the name that a server knows; RecipeError where nothing names one.

        An option goes before the run folder, and that before api.model where the engine is a server.
        """
        if given is None and fallback is None and engine == "api" and self.recipe.api.model:
            self.origins["model"] = "api.model"
            return self.recipe.api.model
        if given is None and fallback is None:
            where = "the run folder, or set api.model" if engine == "api" else "the run folder"
            raise RecipeError(f"no --model was given; name one, or give --round N to take it from {where}")
        self.origins["model"] = "run folder" if given is None else "--model"
        return str(fallback) if given is None else given

    def shards(self, given: list[str] | None, fallback: Sequence[str | Path], key: str) -> tuple[str, ...]:
        """The shard specs, or RecipeError naming the option and the recipe's key that would hold them."""
        option = "--tasks" if key == "eval.tasks" else "--shards"
        if not given and not fallback:
            where = self.recipe.path or "the defaults, as there is no recipes/world.toml here"
            raise RecipeError(
                f"no {option} were given and {key} is empty in {where}; give {option} or --recipe"
            )
        is_recipe = tuple(map(str, fallback)) == setting_of(self.recipe, key)
        self.origins["shards"] = option if given else "recipe" if is_recipe else "run folder"
        return tuple(given) if given else tuple(map(str, fallback))

    def out(self, given: Path | None, in_run: Path | None, stage: str, model: str | None, near: str) -> Path:
        """The output: in the round's folder, else beside the data as `STAGE-MODEL`.

        What is made of a limit's samples alone lies apart, where no later stage and no report looks for it.
        """
        self.origins["out"] = "--out" if given else "run folder" if in_run else "default"
        folder = in_run or default_out(stage, model, near)
        return given or (folder if self.limit is None else folder.parent / f"limit-{self.limit}" / folder.name)

    def plan(self, kind: str, sections: Sequence[str], out: Path | None, near: str = "", **more: Any) -> Plan:
        """The plan of a stage of the round, whose output lies `near` the first of its shards by default."""
        in_run = self.stage(kind) if self.round is not None else None
        folder = self.out(out, in_run, kind, more.get("model"), near or more["shards"][0])
        return self._plan(kind, kind, self.round, sections, folder, **more)

    def plan_of_captions(self, layer: str, out: Path | None, **more: Any) -> Plan:
        """The plan of a caption layer of the round."""
        if layer == "recaption":
            return self.plan("recaption", ("recaption", "prompts"), out, **more)
        in_run = self.folder.captions(layer, self.round) if self.round is not None else None
        folder = self.out(out, in_run, layer, more["model"], more["shards"][0])
        section = f"captions.{layer}" if layer in self.recipe.captions else "recaption"
        title = f"recaption {layer}"
        return self._plan(title, "recaption", self.round, (section, "prompts"), folder, layer=layer, **more)

    def plan_of(self, specialist: str, kind: str, out: Path | None, **more: Any) -> Plan:
        """The plan of a specialist's training, or of its answering."""
        is_training = kind == "specialize"
        in_run = self.folder.specialist(specialist) if is_training else self.folder.relabel(specialist)
        folder = self.out(out, in_run, specialist, more["model"], more["shards"][0])
        title = f"{specialist} {'specialist' if is_training else kind}"
        return self._plan(title, kind, None, (f"specialists.{specialist}",), folder, **more)

    def _plan(
        self, stage: str, kind: str, round: int | str | None, sections: Sequence[str], out: Path, **more: Any
    ) -> Plan:
        given = {
            "recipe": self.recipe,
            "sections": tuple(sections),
            "origins": self.origins,
            "limit": self.limit,
            **more,
        }
        return Plan(stage=stage, kind=kind, round=round, out=out, **given)


def setting_of(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key, or a table of a recipe."""
    value: Any = recipe
    for name in key.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def default_out(stage: str, model: str | None, near: str) -> Path:
    """`data/*.tar` and `ckpt/r2` give `./recaption-r2`: beside the folder that holds the first shard.

    Beside remote shards nothing is written: then it is in the current folder.
    """
    name = "" if model is None else Path(model).name
    if model is not None and name in ("pretrain", "sft", "checkpoint"):
        name = f"{Path(model).parent.name}-{name}"
    if looks_remote(near):
        near = "."
    parts = Path(near).parts
    # A glob or range in a folder's name stands for many folders: go beside the first of them.
    fixed = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[{")), len(parts))
    depth = len(parts) - (2 if near.endswith((".tar", ".tgz", ".gz")) else 1)
    folder = Path(*parts[: max(len(Path(near).anchor), min(depth, fixed))])
    return folder / (f"{stage}-{name}" if name else stage)
