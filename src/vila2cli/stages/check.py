"""Whether a recipe can run here, found out before anything does: no GPU, no model loaded, nothing written."""

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vila2cli.captioning.layers import check_caption_layers
from vila2cli.engine.devices import planned_gpus
from vila2cli.engine.placing import Shape
from vila2cli.errors import DataError, Interrupted, ModelError, RecipeError, Vila2Error
from vila2cli.files import read_json
from vila2cli.image import decode_image
from vila2cli.ranks import num_cores
from vila2cli.run.forecast import Counts
from vila2cli.settings import BaseSettings, LoraSettings, TrainSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Shard, open_source, read_shard
from vila2cli.shards.places import looks_remote
from vila2cli.shards.reader import check_layers
from vila2cli.shards.sample import Reject
from vila2cli.text.prompts import prompt_text
from vila2cli.train.launch import read_launch
from vila2cli.train.starting import num_processes
from vila2cli.train.tile_budget import tiles_line, tokens_of_tiles, trainings

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_OF_NO_TOWER = re.compile(r"^text_model\.|^logit_|(^|\.)head\.")
_OF_TOWERS = re.compile(r"(^|\.)vision_(model|tower)\.")
_WORKERS = 16
_SHOWN = 5
_LAYER_BYTES = 1500
"""What an annotation takes in a layer, with its tar headers; the embedded world's captions take 1,560."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, or the error that a stage would end with."""

    what: str
    text: str
    error: type[Vila2Error] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"check": self.what, "text": self.text, "ok": self.error is None}

    def line(self) -> str:
        return f"{'ok  ' if self.error is None else 'FAIL'}  {self.what}: {self.text}"


def check_recipe(recipe: Recipe, counts: Counts) -> Iterator[Finding]:
    """Look at all that the stages of a run will need. The recipe's keys have been checked by loading it."""
    prompts = _prompts(recipe)
    yield prompts
    if prompts.error is None:
        yield _try("captions", lambda: check_caption_layers(recipe))
    yield _try("training's launch", lambda: read_launch(recipe.trainer, recipe.base.dtype).describe())
    yield from _data(recipe)
    yield from _models(recipe)
    yield _disk(recipe, counts)


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

    def check() -> str:
        for name in named:
            prompt_text(name, recipe.prompts)
        return f"{len(set(named))} known"

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
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{len(problems)} of {len(shards)} shards: {'; '.join(problems[:_SHOWN])}{more}; "
            "see `vila2 shards check`"
        )
    return f"the first sample of each of {len(shards):,} shards can be read"


def _first_problem(shard: Shard) -> str | None:
    rejects: list[Reject] = []
    try:
        check_layers(shard)
        sample = next(read_shard(shard, on_reject=rejects.append, on_note=lambda note: None), None)
        if sample is None:
            return f"{shard.url} has no usable sample: {rejects[0].error if rejects else 'it is empty'}"
        for image in sample.images:
            decode_image(image.data)
    except (DataError, ValueError, OSError) as error:
        return f"{shard.url}: {error}"
    return None


def _models(recipe: Recipe) -> Iterator[Finding]:
    """The bases, whether they are here without asking the hub, and what training them takes."""
    base = recipe.base
    yield _try("base.vision_tower", lambda: _tower_text(find_offline(base.vision_tower)))
    yield _try("base.llm", lambda: _llm_text(find_offline(base.llm)))
    yield _try("tokenizer", lambda: _tokenizer(find_offline(base.llm)))
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
            raise ModelError(
                f"{spec} is neither a folder nor in the hub's cache; get it with `hf download {name}`"
            ) from None
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json")
    return folder


def _tokenizer(folder: Path) -> str:
    found = [name for name in _TOKENIZERS if (folder / name).is_file()]
    if not found:
        raise ModelError(f"{folder} has no tokenizer: none of {', '.join(_TOKENIZERS)}")
    if "tokenizer.json" not in found:
        return f"{folder / found[0]}"
    from tokenizers import Tokenizer

    try:
        size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    except Exception as error:  # noqa: BLE001  (the library raises nothing narrower)
        raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None
    return f"{size:,} entries"


def _weights_text(folder: Path) -> str:
    return f"{num_parameters(folder) / 1e6:,.4g}M parameters in {folder}"


def _tower_text(folder: Path) -> str:
    text = _weights_text(folder)  # what is damaged or cut off is said in its own words
    from vila2cli.model.towers import outline_tower

    outline_tower(folder)
    return text


def _llm_text(folder: Path) -> str:
    text = _weights_text(folder)
    from vila2cli.model.build import outline_llm

    outline_llm(folder)
    return text


def num_parameters(folder: Path) -> int:
    """Parameters of a checkpoint, from the heads of its files; raises ModelError for one missing or cut."""
    return sum(map(math.prod, _shapes(folder).values()))


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor by name; raises as `num_parameters` does."""
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    missing = sorted(name for name in names if not (folder / name).is_file())
    files = sorted(folder / name for name in names) or sorted(folder.glob("*.safetensors"))
    if missing or not files:
        raise ModelError(f"{folder} lacks {', '.join(missing) or '*.safetensors weights'}")
    shapes: dict[str, list[int]] = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged or cut off: {error}") from None
    return shapes


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Parameters of the parts of a joined model, and the shapes of the LLM's matrices by name."""

    vision_tower: int
    projector: int
    llm: int
    matrices: Mapping[str, tuple[int, int]]

    def adapters(self, lora: LoraSettings) -> int:
        """Parameters of the adapters on the linear layers that a recipe names."""
        named = (
            shape
            for name, shape in self.matrices.items()
            if name.removesuffix(".weight").rpartition(".")[2] in lora.targets
        )
        return lora.rank * sum(map(sum, named))


def part_sizes(base: BaseSettings, tower: Path, llm: Path) -> PartSizes:
    """The sizes of a joined model's parts, from configs and the heads of the bases' files.

    Not counted is what a base has beside them: another tower, a pooling head, a second copy of a tied head.
    """
    of_tower = {name: shape for name, shape in _shapes(tower).items() if not _OF_NO_TOWER.search(name)}
    if any(_OF_TOWERS.search(name) for name in of_tower):
        of_tower = {name: shape for name, shape in of_tower.items() if _OF_TOWERS.search(name)}
    config = read_json(llm / "config.json")
    is_tied = bool(config.get("tie_word_embeddings"))
    of_llm = {name: s for name, s in _shapes(llm).items() if not (is_tied and name == "lm_head.weight")}
    return PartSizes(
        vision_tower=sum(map(math.prod, of_tower.values())),
        projector=_projector_size(base, read_json(tower / "config.json"), config),
        llm=sum(map(math.prod, of_llm.values())),
        matrices={name: (s[0], s[1]) for name, s in of_llm.items() if len(s) == 2},
    )


def _projector_size(base: BaseSettings, tower: Mapping[str, Any], llm: Mapping[str, Any]) -> int:
    """Parameters of the projector that is drawn anew; 0 where a config does not say how wide it is."""
    width = (tower.get("vision_config") or tower).get("hidden_size") or 0
    out = llm.get("hidden_size") or 0
    if base.architecture == "idefics3":
        return int(4 * width * out)
    if base.architecture == "internvl":
        return int(8 * width + (4 * width + 1) * out + (out + 1) * out)
    return int((width + 1) * out + (out + 1) * out)


def training_bytes(
    settings: TrainSettings,
    tower: int,
    llm: int,
    dtype: str,
    *,
    master_weights: bool = True,
    projector: int = 0,
    adapters: int = 0,
) -> int:
    """What a training keeps from step to step: weights, and of trained ones gradient and AdamW's two moments.

    All are float32 unless the training is in bfloat16 without master weights; adapters always are.
    """
    width = 2 if dtype == "bfloat16" and not master_weights else 4
    sizes = {"vision_tower": tower, "projector": projector, "llm": llm}
    trained = sum(size for part, size in sizes.items() if part in settings.train)
    own = adapters if "lora" in settings.train else 0
    return width * (sum(sizes.values()) + 3 * trained) + 4 * 4 * own


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


def _disk(recipe: Recipe, counts: Counts) -> Finding:
    """Room for the checkpoints of every round and for the layers, where the run folder is."""
    folder = recipe.run_dir.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    try:
        size = sum(num_parameters(find_offline(spec)) for spec in (recipe.base.vision_tower, recipe.base.llm))
    except ModelError as error:
        return Finding("disk", f"cannot be told without the models: {error}", ModelError)
    width = 4 if recipe.base.dtype == "float32" else 2
    num_checkpoints = 2 * (recipe.rounds + 2) + len(recipe.specialists)
    num_layers = recipe.rounds * len(recipe.caption_layers) + len(recipe.specialists)
    num_annotations = (counts["pretrain"] or 0) * num_layers
    need = num_checkpoints * size * width + num_annotations * _LAYER_BYTES
    text = f"{need / 1e9:,.3g} GB for {num_checkpoints} checkpoints and {num_annotations:,} annotations"
    text += f"; {free / 1e9:,.4g} GB are free in {folder}"
    remote = [spec for spec in recipe.data.pretrain if looks_remote(spec)]
    text += " (the data is streamed)" if remote else ""
    return Finding("disk", text, DataError if need > free else None)
