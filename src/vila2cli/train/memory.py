"""What to lower where a training needs more memory than there is."""

import contextlib
from collections.abc import Iterator

import torch

from vila2cli.errors import OutOfMemory
from vila2cli.settings import TrainSettings
from vila2cli.settings.recipe import Recipe

_OF_THE_CPU = ("DefaultCPUAllocator", "not enough memory")


@contextlib.contextmanager
def naming_what_to_lower(
    label: str, key: str, settings: TrainSettings, recipe: Recipe, count: int
) -> Iterator[None]:
    """Raise OutOfMemory for an allocation that failed, with settings that need less.

    `label` says what was trained, `key` is the table of its `settings` in the recipe, `count` the number of
    processes.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_by_type = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not (is_by_type or any(words in str(error) for words in _OF_THE_CPU)):
            raise
        where = "GPU" if isinstance(error, torch.OutOfMemoryError) else "main"
        ways = "; ".join(_ways(key, settings, recipe, count)) or "train it on more or larger GPUs"
        raise OutOfMemory(f"{label}: out of {where} memory; {ways}; then run the same command again") from None


def _ways(key: str, settings: TrainSettings, recipe: Recipe, count: int) -> Iterator[str]:
    """Settings that need less memory, the ones that change least first."""
    trainer, micro = recipe.trainer, settings.micro_batch_size or settings.batch_size
    if micro > 1:
        now = settings.micro_batch_size or "the whole batch"
        yield f"set {key}.micro_batch_size = {micro // 2} (now {now})"
    elif settings.packing and (length := settings.pack_length or settings.max_length) > 1:
        yield f"lower {key}.pack_length (now {length}) or {key}.pack_images"
    if not trainer.gradient_checkpointing:
        yield "trainer.gradient_checkpointing = true"
    if recipe.base.dtype != "bfloat16":
        yield 'base.dtype = "bfloat16"'
    elif trainer.master_weights:
        yield "trainer.master_weights = false"
    if trainer.strategy == "ddp" and "lora" not in settings.train and not settings.cache_features:
        yield 'trainer.strategy = "fsdp2"' + ("" if count > 1 else " on several GPUs")
    if settings.cache_features:
        yield f"{key}.cache_features = false"
    yield f"or lower {key}.max_length (now {settings.max_length})"
