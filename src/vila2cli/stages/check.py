"""Whether a recipe can run here, found out before anything does: no GPU, no model loaded, nothing written."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vila2cli.captioning.layers import check_caption_layers
from vila2cli.devices import planned_gpus
from vila2cli.engine.placing import Shape
from vila2cli.errors import DataError, Interrupted, ModelError, RecipeError, Vila2Error
from vila2cli.files import read_json
from vila2cli.image import decode_image
from vila2cli.model.checkpoint import looks_local
from vila2cli.model.sizes import PartSizes, num_parameters, part_sizes, training_bytes
from vila2cli.ranks import num_cores
from vila2cli.run.cost import counted
from vila2cli.run.forecast import Counts, Forecast
from vila2cli.run.results import StageResult
from vila2cli.run.stored import made_otherwise
from vila2cli.settings import BaseSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Shard, open_source, read_shard
from vila2cli.shards.places import looks_remote
from vila2cli.shards.reader import EMPTY, check_any, check_layers
from vila2cli.shards.sample import Reject
from vila2cli.text.prompts import prompt_text
from vila2cli.train.launch import read_launch
from vila2cli.train.starting import num_processes
from vila2cli.train.tile_budget import tiles_line, tokens_of_tiles, trainings

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_WORKERS = 16
_SHOWN = 5
_LAYER_BYTES = 1500
"""What an annotation takes in a layer, with its tar headers; the embedded world's captions take 1,560."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, odd or not, or the error that a stage would end with."""

    what: str
    text: str
    error: type[Vila2Error] | None = None
    is_odd: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"check": self.what, "text": self.text, "ok": self.error is None}

    def line(self) -> str:
        found = "FAIL" if self.error else "note" if self.is_odd else "ok  "
        return f"{found}  {self.what}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(StageResult):
    """Everything that was looked at, and what the stages of the run will take."""

    recipe: Path | None
    checks: Sequence[Finding]
    stages: Sequence[Forecast]


def check_recipe(recipe: Recipe, counts: Counts) -> Iterator[Finding]:
    """Look at all that the stages of a run will need. The recipe's keys have been checked by loading it."""
    prompts = _prompts(recipe)
    yield prompts
    if prompts.error is None:
        yield _try("captions", lambda: check_caption_layers(recipe))
    yield _try("training's launch", lambda: read_launch(recipe.trainer, recipe.base.dtype).describe())
    yield from _data(recipe)
    yield from _models(recipe)
    yield from _disk(recipe, counts)
    yield from _stages(recipe)


def _stages(recipe: Recipe) -> Iterator[Finding]:
    """What there is of the run, and which of it was made with other settings."""
    num, others = made_otherwise(recipe)
    if num > len(others):
        yield Finding("stages", f"{counted(num - len(others), 'folder')} made with these settings")
    for text in others:
        yield Finding("stages", f"{text}; give the --set of that run again, or go on elsewhere", is_odd=True)


def _try(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, check())
    except Interrupted:
        raise
    except Vila2Error as error:
        return Finding(what, str(error), type(error))


def _prompts(recipe: Recipe) -> Finding:
    """Whether every prompt that a stage names exists."""
    named = [p for layer in recipe.caption_layers for p in recipe.captions_of(layer).prompts]
    named += [p for s in recipe.specialists.values() for p in s.prompts]
    named += [recipe.rewrite.prompt] if recipe.rewrites else []
    named += [recipe.filter.prompt] if recipe.pretrain.filtered and recipe.filter.needs_model else []

    def check() -> str:
        for name in named:
            prompt_text(name, recipe.prompts)
        return f"{len(set(named))} named, all known"

    return _try("prompts", check)


def _data(recipe: Recipe) -> Iterator[Finding]:
    """The first sample of every shard, by table of the recipe."""
    named = {f"data.{name}": getattr(recipe.data, name) for name in ("pretrain", "interleaved", "text", "sft")}
    named |= {f"specialists.{name}.data": settings.data for name, settings in recipe.specialists.items()}
    for what, specs in named.items():
        if specs:
            yield _try(what, lambda specs=specs: _first_samples(specs))  # type: ignore[misc]
        elif what in ("data.pretrain", "data.sft"):
            yield Finding(what, "is empty: name the shards", RecipeError)
    if recipe.eval.tasks:
        yield _try("eval.tasks", lambda: _tasks(recipe.eval.tasks, recipe.eval.box_frame))
    else:
        yield Finding("eval.tasks", "is empty: name the task folders", RecipeError)


def _tasks(specs: Sequence[str], box_frame: str) -> str:
    from vila2cli.score.task import find_tasks

    tasks = find_tasks(specs, box_frame=box_frame)
    return f"{len(tasks)} tasks, {_first_samples([task.folder for task in tasks])}"


def _first_samples(specs: Sequence[str | Path]) -> str:
    """Read and decode the first sample of every shard; raises DataError naming the shards that fail."""
    shards = open_source(specs).shards
    with ThreadPoolExecutor(_WORKERS) as pool:
        problems = [problem for problem in pool.map(_first_problem, shards) if problem]
    check_any(len(shards) - problems.count(EMPTY), shards)
    problems = [problem for problem in problems if problem != EMPTY]
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{len(problems)} of {len(shards)} shards: {'; '.join(problems[:_SHOWN])}{more}; "
            "see `vila2 shards check`"
        )
    if len(shards) == 1:
        return "1 shard, its first sample can be read"
    return f"{len(shards):,} shards, the first sample of each can be read"


def _first_problem(shard: Shard) -> str | None:
    rejects: list[Reject] = []
    try:
        check_layers(shard)
        sample = next(read_shard(shard, on_reject=rejects.append, on_note=lambda note: None), None)
        if sample is None and not rejects:
            return EMPTY
        if sample is None:
            return f"{shard.url} has no usable sample: {rejects[0].error}"
        for image in sample.images:
            decode_image(image.data)
    except (DataError, ValueError, OSError) as error:
        return f"{shard.url}: {error}"
    return None


def _models(recipe: Recipe) -> Iterator[Finding]:
    """What training starts from, whether it is here without asking the hub, and what training it takes."""
    if recipe.pretrain.model:
        yield from _continued(recipe)
        return
    base = recipe.base
    yield _try("base.vision_tower", lambda: _tower_text(find_offline(base.vision_tower), base.architecture))
    llm = _try("base.llm", lambda: _llm_text(find_offline(base.llm)))
    yield llm
    if llm.error is None:
        yield _try("tokenizer", lambda: _tokenizer(find_offline(base.llm)))
    if base.is_native:
        yield _try("processor", lambda: _processor(base))
    try:
        sizes = part_sizes(base, *(find_offline(spec) for spec in (base.vision_tower, base.llm)))
    except ModelError:
        return
    if base.tiles.method != "none":
        tower = read_json(find_offline(base.vision_tower) / "config.json")
        yield _try("tiles", lambda: tiles_line(recipe, tower))
    yield from _memory(recipe, sizes)
    yield _try("engines for captions", lambda: _engines(recipe, sizes))
    yield _try("processes of a training", lambda: _processes(recipe))


def _continued(recipe: Recipe) -> Iterator[Finding]:
    """The model from which every round continues."""
    from vila2cli.ask.preflight import checked_inputs, planned_for_shape
    from vila2cli.model.loading import outline
    from vila2cli.model.tiles import most_tokens

    model = recipe.pretrain.model
    yield _try("pretrain.model", lambda: f"{_weights_text(find_offline(model))}; every round continues from it")
    try:
        net = outline(find_offline(model))
    except ModelError as error:
        yield Finding("pretrain.model's parts", str(error), ModelError)
        return
    yield _try("pretrain.model's inputs", lambda: checked_inputs(recipe, str(find_offline(model))))
    yield _try("pretrain.model's parts", lambda: _trained_parts(recipe, PartSizes.of(net)))
    yield from _memory(recipe, PartSizes.of(net))
    yield _try(
        "engines for captions",
        lambda: planned_for_shape(recipe, Shape.of(net, most_tokens(find_offline(model))), num_cores()),
    )
    yield _try("processes of a training", lambda: _processes(recipe))


def _trained_parts(recipe: Recipe, sizes: PartSizes) -> str:
    """The parts of a model; raises ModelError where a stage is to train one that it does not have."""
    own = {part: getattr(sizes, part) for part in ("vision_tower", "projector", "llm")}
    for name, stage in trainings(recipe).items():
        if lacking := [part for part in stage.train if own.get(part) == 0]:
            raise ModelError(f"{name}.train names {lacking[0]}, of which it has no parameters")
    return ", ".join(f"{size / 1e6:,.4g}M {part}" for part, size in own.items())


def check_model(recipe: Recipe, model: str) -> Iterator[Finding]:
    """Look at a checkpoint that is to be asked, without its weights: can it be, and on which devices?"""
    from vila2cli.ask.preflight import ASKING, checked_inputs, planned_for

    yield _try(f"model {model}", lambda: checked_inputs(recipe, model))
    for stage in ASKING:
        yield _try(f"engines for {stage}", partial(planned_for, recipe, stage, model))


def find_offline(spec: str) -> Path:
    """The folder of a model that is on this machine; raises ModelError when the hub would have to be asked."""
    if spec.startswith("world:"):
        return Path(__file__).parents[1] / "world" / "bases" / spec.removeprefix("world:")
    folder = Path(spec)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        name, _, revision = spec.partition("@")
        try:
            folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, OSError):
            what = f"{spec} is neither a folder nor in the hub's cache"
            advice = "is the path right?" if looks_local(spec) else f"get it with `hf download {name}`"
            raise ModelError(f"{what}; {advice}") from None
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json")
    return folder


def _tokenizer(folder: Path) -> str:
    found = [name for name in _TOKENIZERS if (folder / name).is_file()]
    if not found:
        raise ModelError(f"{folder} has no tokenizer: none of {', '.join(_TOKENIZERS)}")
    template = "" if _has_template(folder) else "; no chat template, so one of its family is written"
    if "tokenizer.json" not in found:
        return f"{folder / found[0]}{template}"
    from tokenizers import Tokenizer

    try:
        size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    except Exception as error:  # noqa: BLE001  (the library raises nothing narrower)
        raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None
    return f"{size:,} entries{template}"


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        config.is_file() and bool(read_json(config).get("chat_template"))
    )


def _weights_text(folder: Path) -> str:
    return f"{num_parameters(folder) / 1e6:,.4g}M parameters in {folder}"


def _tower_text(folder: Path, architecture: str) -> str:
    text = _weights_text(folder)  # what is damaged or cut off is said in its own words
    from vila2cli.model.towers import outline_tower

    outline_tower(folder, architecture)
    return text


def _processor(base: BaseSettings) -> str:
    from vila2cli.model.build import check_processor

    check_processor(base)
    config = read_json(find_offline(base.vision_tower) / "config.json")
    vision = config.get("vision_config") or config
    side = int(vision.get("patch_size") or 14) * int(vision.get("spatial_merge_size") or 2)
    most = f"about {base.pixels.max // side**2:,} tokens at most"
    return f"{base.pixels.min:,} to {base.pixels.max:,} pixels a picture, {most}"


def _llm_text(folder: Path) -> str:
    text = _weights_text(folder)
    from vila2cli.model.build import outline_llm

    outline_llm(folder)
    return text


def _memory(recipe: Recipe, sizes: PartSizes) -> Iterator[Finding]:
    stages = trainings(recipe)
    has_copies = recipe.base.dtype == "bfloat16" and recipe.trainer.master_weights
    needs = {
        name: training_bytes(
            stage,
            sizes.vision_tower,
            sizes.llm,
            recipe.base.dtype,
            master_weights=recipe.trainer.master_weights,
            projector=sizes.projector,
            adapters=sizes.adapters(stage.lora),
        )
        for name, stage in stages.items()
    }
    largest = max(needs, key=lambda name: needs[name])
    text = f"{needs[largest] / 1e9:,.3g} GB for {largest}: weights, gradients, AdamW"
    copies = 2 * (sizes.vision_tower + sizes.projector + sizes.llm) if has_copies else 0
    more = (
        f"activations and {copies / 1e9:,.3g} GB of bfloat16 copies of the weights" if copies else "activations"
    )
    text += f"; {more} come on top"
    if recipe.trainer.strategy == "fsdp2":
        text += "; fsdp2 divides it by the number of processes"
    if recipe.cost.device != "core-hours":
        yield Finding("memory of a training process", text)
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    is_short = needs[largest] + copies > there and recipe.trainer.strategy != "fsdp2"
    text += f"; this machine has {there / 1e9:,.3g} GB"
    yield Finding("memory of a training process", text, ModelError if is_short else None)


def _engines(recipe: Recipe, sizes: PartSizes) -> str:
    """The plan of devices for the model that the run will train; raises ModelError where it fits none."""
    from vila2cli.ask.preflight import planned_for_shape

    base = recipe.base
    tower, llm = (read_json(find_offline(spec) / "config.json") for spec in (base.vision_tower, base.llm))
    num_parameters = sizes.vision_tower + sizes.projector, sizes.llm
    shape = Shape.of_bases(
        num_parameters,
        tower,
        llm,
        is_internvl=base.architecture == "internvl",
        image_tokens=tokens_of_tiles(base, tower)[1],
    )
    return planned_for_shape(recipe, shape, num_cores())


def _processes(recipe: Recipe) -> str:
    planned = planned_gpus()
    if planned is not None and recipe.trainer.processes == "auto":
        return f"{len(planned)}, one for each GPU"
    return f"{num_processes(recipe.trainer)}"


def _disk(recipe: Recipe, counts: Counts) -> Iterator[Finding]:
    """Room for the checkpoints of every round and for the layers, where the run folder is.

    Nothing where a model is not here, which is told by then.
    """
    folder = recipe.run_dir.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    try:
        bases = (recipe.base.vision_tower, recipe.base.llm)
        starts = [recipe.pretrain.model] if recipe.pretrain.model else bases
        size = sum(num_parameters(find_offline(spec)) for spec in starts)
    except ModelError:
        return
    width = 4 if recipe.base.dtype == "float32" else 2
    num_checkpoints = 2 * (recipe.rounds + 2) + len(recipe.specialists)
    num_layers = recipe.rounds * len(recipe.caption_layers) + len(recipe.specialists)
    num_annotations = (counts["pretrain"] or 0) * num_layers
    need = num_checkpoints * size * width + num_annotations * _LAYER_BYTES
    text = (
        f"{need / 1e9:,.3g} GB for {num_checkpoints} checkpoints and {num_annotations:,} captions and answers"
    )
    text += f"; {free / 1e9:,.4g} GB are free in {folder}"
    remote = [spec for spec in recipe.data.pretrain if looks_remote(spec)]
    text += " (the data is streamed)" if remote else ""
    yield Finding("disk", text, DataError if need > free else None)
