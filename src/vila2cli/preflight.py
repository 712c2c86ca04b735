"""Whether a recipe can run here, found out before anything does: no GPU, no model loaded, nothing written."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vila2cli.errors import DataError, ModelError, RecipeError, Vila2Error
from vila2cli.files import read_json
from vila2cli.forecast import Counts
from vila2cli.image import decode_image
from vila2cli.places import is_remote
from vila2cli.recipe import Recipe
from vila2cli.sample import Reject
from vila2cli.settings import TrainSettings
from vila2cli.shards import Shard, open_source, read_shard
from vila2cli.text.prompts import prompt_text

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
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

    def line(self) -> str:
        return f"{'ok  ' if self.error is None else 'FAIL'}  {self.what}: {self.text}"


def check_recipe(recipe: Recipe, counts: Counts) -> Iterator[Finding]:
    """Look at all that the stages of a run will need. The recipe's keys have been checked by loading it."""
    yield _prompts(recipe)
    yield from _data(recipe)
    yield from _models(recipe)
    yield _disk(recipe, counts)


def _try(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, check())
    except Vila2Error as error:
        return Finding(what, str(error), type(error))


def _prompts(recipe: Recipe) -> Finding:
    """Whether every prompt that a stage names exists."""
    named = [*recipe.recaption.prompts, *(p for s in recipe.specialists.values() for p in s.prompts)]

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
    return f"{len(tasks)} tasks, {_first_samples([str(task.folder) for task in tasks])}"


def _first_samples(specs: Sequence[str]) -> str:
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
    yield _try("base.vision_tower", lambda: _weights_text(find_offline(base.vision_tower)))
    yield _try("base.llm", lambda: _weights_text(find_offline(base.llm)))
    yield _try("tokenizer", lambda: _tokenizer(find_offline(base.llm)))
    try:
        sizes = [num_parameters(find_offline(spec)) for spec in (base.vision_tower, base.llm)]
    except ModelError:
        return
    yield from _memory(recipe, *sizes)


def find_offline(spec: str) -> Path:
    """The folder of a model that is on this machine; raises ModelError when the hub would have to be asked."""
    if spec.startswith("world:"):
        return Path(__file__).parent / "world" / "bases" / spec.removeprefix("world:")
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


def num_parameters(folder: Path) -> int:
    """Parameters of a checkpoint, from the heads of its files; raises ModelError for one missing or cut."""
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    missing = sorted(name for name in names if not (folder / name).is_file())
    files = sorted(folder / name for name in names) or sorted(folder.glob("*.safetensors"))
    if missing or not files:
        raise ModelError(f"{folder} lacks {', '.join(missing) or '*.safetensors weights'}")
    total = 0
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  (it is no mapping)
                    size = 1
                    for length in file.get_slice(name).get_shape():
                        size *= length
                    total += size
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged or cut off: {error}") from None
    return total


def training_bytes(settings: TrainSettings, tower: int, llm: int, dtype: str) -> int:
    """Weights, gradients and AdamW's two moments of one training, without activations.

    Every weight is kept in the training's number format, of a trained part also gradient and moments.
    """
    width = 4 if dtype == "float32" else 2
    trained = (tower if "vision_tower" in settings.train else 0) + (llm if "llm" in settings.train else 0)
    return width * (tower + llm) + 3 * width * trained


def _memory(recipe: Recipe, tower: int, llm: int) -> Iterator[Finding]:
    stages = {
        "pretrain.align": recipe.pretrain.align,
        "pretrain.main": recipe.pretrain.main,
        "sft": recipe.sft,
        **{f"specialists.{name}": settings for name, settings in recipe.specialists.items()},
    }
    needs = {name: training_bytes(stage, tower, llm, recipe.base.dtype) for name, stage in stages.items()}
    largest = max(needs, key=lambda name: needs[name])
    text = f"{needs[largest] / 1e9:,.3g} GB for {largest}: weights, gradients, AdamW; activations come on top"
    if recipe.cost.device != "core-hours":
        yield Finding("memory of a training process", text)
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    error = ModelError if needs[largest] > there else None
    yield Finding("memory of a training process", f"{text}; this machine has {there / 1e9:,.3g} GB", error)


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
    num_annotations = (counts.pretrain or 0) * (recipe.rounds + len(recipe.specialists))
    need = num_checkpoints * size * width + num_annotations * _LAYER_BYTES
    text = f"{need / 1e9:,.3g} GB for {num_checkpoints} checkpoints and {num_annotations:,} annotations"
    text += f"; {free / 1e9:,.4g} GB are free in {folder}"
    remote = [spec for spec in recipe.data.pretrain if is_remote(spec)]
    text += " (the data is streamed)" if remote else ""
    return Finding("disk", text, DataError if need > free else None)
