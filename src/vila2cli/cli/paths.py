"""What a command is about to do: where its inputs come from, where its output goes, what is there already."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vila2cli.cli.controls import answering, is_final
from vila2cli.cli.terminal import say
from vila2cli.errors import DataError, ModelError, RecipeError
from vila2cli.files import DEFAULT_MAX_PIXELS, read_json
from vila2cli.ranks import parse_rank
from vila2cli.run.folder import RunFolder, Worker, check_same, read_manifest, select, to_manifest, who_counts
from vila2cli.settings import Settings
from vila2cli.settings.recipe import Recipe, load_recipe, resolved_lines
from vila2cli.shards.places import found_locally, looks_remote, redacted

DEFAULT_RECIPE = Path("recipes/world.toml")
Inputs = Callable[[], Mapping[str, Any]]
DONE_FILES = {"checkpoint": "config.json", "eval": "metrics.json", "judge": "summary.json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A stage with its paths settled. `origins` says of model, shards and out who named them.

    `deciding` is what decides a checkpoint beyond the settings of its first section.
    """

    stage: str
    round: int | str | None
    recipe: Recipe
    sections: tuple[str, ...]
    kind: Literal["layer", "checkpoint", "eval", "judge"]
    out: Path
    model: str | None = None
    shards: tuple[str, ...] = ()
    base: str | None = None
    worker: Worker = field(default_factory=Worker)
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

    def __init__(self, recipe: Recipe, round_text: str | None) -> None:
        self.recipe = recipe
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
        is_rewritten = "rewrite" in self.recipe.pretrain.main.captions
        return [found_locally(self._last_round("rewrite" if is_rewritten else "recaption"))]

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
        return self.folder.stage(stage, self.round if isinstance(self.round, int) else self.recipe.rounds)

    def model(self, given: str | None, fallback: Path | None) -> str:
        """The checkpoint, or RecipeError when neither an option nor the run folder names one."""
        if given is None and fallback is None:
            raise RecipeError(
                "no --model was given; name one, or give --round N to take it from the run folder"
            )
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
        is_recipe = tuple(map(str, fallback)) == _value(self.recipe, key)
        self.origins["shards"] = option if given else "recipe" if is_recipe else "run folder"
        return tuple(given) if given else tuple(map(str, fallback))

    def out(self, given: Path | None, in_run: Path | None, stage: str, model: str | None, near: str) -> Path:
        """The output: in the round's folder, else beside the data as `STAGE-MODEL`."""
        self.origins["out"] = "--out" if given else "run folder" if in_run else "default"
        return given or in_run or default_out(stage, model, near)


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


def ready(plan: Plan, *, dry_run: bool, redo: bool = False, inputs: Inputs | None = None) -> bool:
    """Whether the stage is to run now, after saying what it will do, or why there is nothing to do.

    `redo` leaves it to the stage to find out what is done already. `inputs` is what the stage would put
    into the manifest of a layer.
    """
    if dry_run:
        show(plan)
        return False
    if not redo and is_complete(plan, inputs):
        say(f"{plan.title}: complete, nothing to do ({plan.out})")
        return False
    if not speaks(plan):
        return True
    if plan.recipe.path == DEFAULT_RECIPE:
        say(f"recipe: {DEFAULT_RECIPE}")
    elif plan.recipe.path is None:
        say("recipe: none, settings are the defaults")
    say(f"{plan.title}: writing {plan.out}")
    if how := _how_split(plan):
        say(how)
    return True


def _how_split(plan: Plan) -> str:
    """What part of the work is done here, where an environment decides it."""
    if plan.kind == "checkpoint":
        rank = parse_rank()
        return f"process {rank.index} of {rank.count}: {rank.how}" if rank.how else ""
    how = who_counts(plan.worker)
    return f"worker {plan.worker}: {how}" if how else ""


def speaks(plan: Plan) -> bool:
    """Whether this process is the one of a training that prints; others work on shards of their own."""
    return plan.kind != "checkpoint" or parse_rank().index == 0


def show(plan: Plan) -> None:
    """Print what would be read and written, and where each setting comes from."""
    say(f"{plan.title} (dry run, nothing is written)")
    say(f"recipe: {plan.recipe.path or 'none'}")
    for line in resolved_lines(plan.recipe, ("seed", *plan.sections)):
        say(f"  {line}")
    if plan.model is not None:
        say(f"model: {plan.model}  # {plan.origins.get('model', 'recipe')}")
        for line in _checkpoint_lines(Path(plan.model), is_ours=plan.origins.get("model") == "run folder"):
            say(f"  {line}")
    found = _show_inputs(plan)
    _show_outputs(plan, found)


def is_complete(plan: Plan, inputs: Inputs | None = None) -> bool:
    """Whether the output is there, whole, and made with these settings from the inputs named.

    Raises RecipeError when it was made with other settings or, being a layer, from other `inputs`. Without
    a record of them, or where the command line names other inputs, the answer is no, and the stage looks
    closer.
    """
    record = _record(plan)
    if record is None or not _is_whole(plan):
        return False
    settings = {
        "seed": plan.recipe.seed,
        "settings": _deciding(plan.recipe, plan.sections[0]),
        "base_settings": _deciding(plan.recipe, "base"),
        "max_pixels": plan.recipe.data.max_pixels,
        **plan.deciding,
    }
    if plan.model is not None and (Path(plan.model) / "config.json").is_file():
        from vila2cli.model.checkpoint import weights_sha256

        settings["model_sha256"] = weights_sha256(plan.model)
    recorded = {key: record[key] for key in settings if key in record}
    check_same(plan.out, recorded, {key: settings[key] for key in recorded})
    if plan.kind == "layer" and inputs is not None and not _is_gone(plan):
        stored = read_manifest(plan.out)
        assert stored is not None, "it is recorded"
        check_same(plan.out, stored.inputs, to_manifest(inputs()).inputs)
    return record.get("model", plan.model) == plan.model and (
        plan.kind == "layer" or not plan.origins.get("shards", "").startswith("--")
    )


def _is_gone(plan: Plan) -> bool:
    """Whether the model, or the one below an adapter, is an earlier stage's that was removed after its work."""
    if plan.origins.get("model") != "run folder" or plan.model is None:
        return False
    from vila2cli.model.adapter import is_adapter, named_base
    from vila2cli.model.checkpoint import resolve_model

    folder = Path(plan.model)
    if not folder.is_dir() or not is_adapter(folder):
        return not folder.is_dir()
    try:
        resolve_model(named_base(folder))
    except ModelError:
        return True
    return False


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def _deciding(recipe: Recipe, section: str) -> Any:
    value = _value(recipe, section)
    return json.loads(json.dumps(value.deciding() if isinstance(value, Settings) else value))


def _record(plan: Plan) -> dict[str, Any] | None:
    """What the output says it was made from: `settings`, `seed` and `model` as far as it says."""
    if plan.kind == "checkpoint":
        lineage = plan.out / "vila2.json"
        record = read_json(lineage) if lineage.is_file() else None
        if record is not None and "phases" in record:
            record.setdefault("max_pixels", DEFAULT_MAX_PIXELS)  # of a default nothing is said
        if record is not None and "layers" in record:
            record["filtered"] = "filter" in record["layers"]
        if record is None or "parent" not in record:
            return record
        parent = {"model": record["parent"].get("path"), "model_sha256": record["parent"].get("sha256")}
        return {**record, **{name: value for name, value in parent.items() if value is not None}}
    manifest = read_manifest(plan.out)
    if manifest is None:
        return None
    record, made_with = dict(manifest.inputs), plan.out / "recipe.toml"
    if "settings" not in record and made_with.exists():
        record["settings"] = _deciding(load_recipe(made_with), plan.sections[0])
    return record


def _is_whole(plan: Plan) -> bool:
    if plan.kind != "layer":
        return (plan.out / DONE_FILES[plan.kind]).exists()
    from vila2cli.shards import LayerWriter, done, open_source

    source = open_source(plan.shards, base=plan.base)
    shards = select(source.shards, plan.worker)
    if not (plan.out / "layer.json").is_file() or not {shard.name for shard in shards} <= done(plan.out):
        return False
    if not _is_summed_up(plan):
        return False
    try:
        return not LayerWriter(plan.out, plan.stage, source).missing(shards)
    except DataError:  # of changed shards: the stage will say so
        return False


def _is_summed_up(plan: Plan) -> bool:
    """Whether a layer's summary is there, counts every shard that is, and is within the budget of rejects.

    A stage that was killed before its summary, or failed on too many rejects, has to look (and fail) again.
    """
    from vila2cli.shards import folder_stats

    path = plan.out / "summary.json"
    summary = read_json(path) if path.is_file() and path.stat().st_size else {}
    settings = plan.recipe.rewrite if plan.stage == "rewrite" else plan.recipe.recaption
    return (
        summary.get("in") == folder_stats(plan.out).num_in
        and summary.get("reject_rate", 1.0) <= settings.max_reject_rate
    )


def _checkpoint_lines(folder: Path, *, is_ours: bool) -> list[str]:
    """What the checkpoint itself decides, read from its config.json without loading it."""
    config_path = folder / "config.json"
    if not config_path.is_file():
        return ["not there yet" if is_ours or folder.is_dir() else "no local folder: the stage asks the hub"]
    config = read_json(config_path)
    vision = config.get("vision_config") or {}
    values = {
        "architecture": ", ".join(config.get("architectures") or ()),
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "image_size": vision.get("image_size"),
    }
    return [f"{name} = {json.dumps(value)}  # checkpoint" for name, value in values.items() if value]


def _show_inputs(plan: Plan) -> list[str]:
    """Print count, first and last of the inputs and each spec that matches nothing; return those found."""
    noun, origin = ("tasks" if plan.kind == "eval" else "shards"), plan.origins.get("shards", "recipe")
    if plan.kind == "eval":
        found = [path for spec in plan.shards for path in _matches(spec)]
        missing = [spec for spec in plan.shards if not _matches(spec)]
    else:
        found, missing = _expand(plan.shards)
    say(f"{noun}: {_span(found)}  # {origin}")
    for spec in missing:
        say(f"  missing: {redacted(spec)}")
    if plan.worker.count > 1:
        say(f"worker {plan.worker}: {_span(select(found, plan.worker))}")
    return found


def _show_outputs(plan: Plan, found: Sequence[str]) -> None:
    origin = plan.origins.get("out", "default")
    if plan.kind == "layer":
        from vila2cli.shards import done

        num_done = len(done(plan.out)) if plan.out.is_dir() else 0
        count = len(select(found, plan.worker))
        say(f"writes: {plan.out}/SHARD.tar for {count} shards, {num_done} done already  # {origin}")
    else:
        file = DONE_FILES[plan.kind]
        state = "there already" if (plan.out / file).exists() else "not there yet"
        say(f"writes: {plan.out} ({file} {state})  # {origin}")


def _expand(specs: Sequence[str]) -> tuple[list[str], list[str]]:
    from vila2cli.shards import expand

    found, missing = [], []
    for spec in specs:
        try:
            found += expand([spec])
        except DataError:
            missing.append(spec)
    return found, missing


def _matches(spec: str) -> list[str]:
    path = Path(spec)
    if path.exists():
        return [spec]
    return sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))


def _span(paths: Sequence[str]) -> str:
    if len(paths) < 2:
        return f"{len(paths)}" + "".join(f", {path}" for path in paths)
    return f"{len(paths)}, {paths[0]} ... {paths[-1]}"
