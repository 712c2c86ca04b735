"""How vLLM is set up for a checkpoint on this machine: its arguments, and how long a context fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vila2cli.devices import gpus
from vila2cli.engine import EngineSettings
from vila2cli.engine.limits import cache_bytes_per_token
from vila2cli.engine.placing import Shape, context_that_fits, plan_gpus
from vila2cli.errors import ModelError, RecipeError, meant
from vila2cli.model.adapter import read_adapter
from vila2cli.model.layers import context_length, turning_length
from vila2cli.model.loading import outline
from vila2cli.model.tiles import most_tokens

_MIB = 1 << 20
_CPU_BATCH = 128
_MOST_CPU_CACHE = 1024 * _MIB
_MIN_CONTEXT = 1024
_LEAST_STEP, _STEP = 2048, 8192
_CPU_BLOCK = 32
"""Tokens in a block of keys and values. What several prompts begin with is computed once by whole blocks, and
vLLM's own 128 on a CPU are more than most pictures have."""
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_COMPACT_JSON = {"backend": "xgrammar", "disable_any_whitespace": True}
"""How answers are held to a schema. White space is allowed anywhere by default, and small models write nothing
else then until they are cut. vLLM takes this for the engine alone; the same field of a request is ignored."""
_SET_ELSEWHERE = {
    "model": "give --model",
    "tokenizer": "it is the checkpoint's own",
    "revision": "write it after the model, as MODEL@REVISION",
    "dtype": "set dtype of the stage",
    "max_num_seqs": "set batch_size of the stage",
    "max_model_len": "set engine.max_model_len",
    "tensor_parallel_size": "set engine.tensor_parallel",
    "data_parallel_size": "set engine.replicas",
    "pipeline_parallel_size": "set engine.tensor_parallel",
    "gpu_memory_utilization": "set engine.gpu_memory_utilization",
    "quantization": "set engine.quantization",
    "kv_cache_dtype": "set engine.kv_cache_dtype",
    "max_num_batched_tokens": "set engine.max_num_batched_tokens",
    "generation_config": "sampling is the recipe's",
    "enable_lora": "adapters are those that the stage is given",
    "max_loras": "adapters are those that the stage is given",
    "max_lora_rank": "adapters are those that the stage is given",
    "trust_remote_code": "code of a checkpoint is never run",
    "hf_token": "models are read from this machine or the hub's cache",
}
"""Arguments that are not given here, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Placed:
    """How many GPUs hold a model, and for how long a context they have room beside its weights."""

    per_replica: int
    context: int


def place(folder: Path, settings: EngineSettings) -> Placed:
    """How this one engine lies on the GPUs that are visible."""
    shape = Shape.of(outline(folder), most_tokens(folder))
    machine = settings.machine.model_copy(update={"replicas": 1})
    found, itemsize = gpus(), _itemsize(settings)
    plan = plan_gpus(shape, found, machine, batch_size=settings.batch_size, itemsize=itemsize)
    if not plan.begins_with_first(found):
        names = ",".join(gpu.name for gpu in plan.gpus)
        raise ModelError(f"GPUs of several sizes are visible; set CUDA_VISIBLE_DEVICES={names}")
    return Placed(plan.per_replica, context_that_fits(shape, plan, machine, itemsize))


def _itemsize(settings: EngineSettings) -> int:
    return 4 if settings.dtype == "float32" else 2


def context_on(config: Any, settings: EngineSettings, plan: Placed | None, image_tokens: int = 0) -> int:
    """Tokens of prompt and answer: what is set, else the checkpoint's own as far as memory allows.

    `image_tokens` are those of a picture in as many tiles as it can have, where it has several.
    """
    own = context_length(config)
    if settings.context_limit < own:
        return settings.context_limit
    if plan is not None:
        return min(own, max(plan.context, _MIN_CONTEXT))
    room = _MOST_CPU_CACHE // cache_bytes_per_token(config, itemsize=4)
    several = settings.planned_context // 1024  # `context_for` plans for as many, from nine on
    num_images = max(settings.max_images, several if several > 8 else 1)
    planned = max(settings.planned_context, num_images * image_tokens + _MIN_CONTEXT)
    return min(own, max(planned, room - 128))


def check_turning(config: Any, context: int) -> None:
    """Raise ModelError where vLLM would turn the positions of short prompts as those of long ones."""
    if 0 < (length := turning_length(config)) < context:
        raise ModelError(
            f"by LongRoPE its positions turn otherwise above {length:,} tokens, and vLLM goes by the context "
            f"of {context:,} in place of each prompt; set engine.max_model_len = {length}"
        )


def engine_options(
    config: Any, settings: EngineSettings, context: int, plan: Placed | None = None, image_tokens: int = 0
) -> dict[str, Any]:
    """How vLLM is set up for a checkpoint's config, as keywords of its `LLM` and `EngineArgs`.

    `plan` is that of the GPUs, None without any. Raises RecipeError for arguments in engine.vllm that are none.
    """
    on_gpu, machine = plan is not None, settings.machine
    batch_size = settings.batch_size or (None if on_gpu else _CPU_BATCH)
    options: dict[str, Any] = {
        "dtype": settings.dtype,
        "max_model_len": context,
        "max_num_seqs": batch_size,
        "generation_config": "vllm",  # the recipe's sampling, none of the checkpoint's own
        "structured_outputs_config": dict(_COMPACT_JSON),
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if hasattr(config, "vision_config"):
        # The captions of an image are asked for together; of vLLM's 4 GiB the rest is never found again.
        options["mm_processor_cache_gb"] = 0.5 if settings.requests_per_image > 1 else 0
        # An image takes a token or more; vLLM itself plans for no more images than fit.
        options["limit_mm_per_prompt"] = {"image": settings.max_images or context}
    options |= _lora_options(settings.adapters, on_gpu=on_gpu)
    if machine.quantization:
        options["quantization"] = machine.quantization
    if machine.kv_cache_dtype != "auto":
        options["kv_cache_dtype"] = machine.kv_cache_dtype
    if machine.max_num_batched_tokens:
        options["max_num_batched_tokens"] = machine.max_num_batched_tokens
    elif image_tokens > _LEAST_STEP:  # a picture is encoded whole, and vLLM knows the tiles of its class alone
        options["max_num_batched_tokens"] = max(image_tokens, _STEP)
    if plan is not None:
        options["tensor_parallel_size"] = plan.per_replica
        options["gpu_memory_utilization"] = machine.gpu_memory_utilization
    else:
        options["enforce_eager"] = True
        if settings.requests_per_image > 1:
            options["block_size"] = _CPU_BLOCK
        options["kv_cache_memory_bytes"] = kv_cache_bytes(config, batch_size or _CPU_BATCH, context)
    return options | own_arguments(machine.vllm)


def _lora_options(adapters: Sequence[str], *, on_gpu: bool) -> dict[str, Any]:
    """vLLM's settings for as many adapters, all of them in one batch; nothing without any."""
    if not adapters:
        return {}
    rank = max(read_adapter(adapter).rank for adapter in adapters)
    room = next((one for one in _LORA_RANKS if rank <= one), rank)
    # On a CPU vLLM 0.32 gives a request without an adapter, in one batch with others, the weights in the last
    # place (vllm pull request 49656): there is a place more, which stays empty.
    places = len(adapters) if on_gpu else len(adapters) + 1
    return {"enable_lora": True, "max_loras": places, "max_lora_rank": room}


def kv_cache_bytes(config: Any, num_sequences: int, context: int) -> int:
    """Memory for keys and values on CPU: 256 MiB to 1 GiB as the batch needs, and never below one context."""
    sequence = cache_bytes_per_token(config, itemsize=4) * (context + 128)
    return int(max(min(sequence * num_sequences, _MOST_CPU_CACHE), 256 * _MIB, sequence))


def own_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as they are; raises RecipeError naming one that vLLM does not have, or is set elsewhere."""
    if not arguments:
        return {}
    from vila2cli.engine.vllm_support import quiet

    with quiet():
        from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    for name in arguments:
        if name in _SET_ELSEWHERE:
            raise RecipeError(f"engine.vllm.{name} is not taken: {_SET_ELSEWHERE[name]}")
        if name not in known:
            near = meant(name, sorted(known - set(_SET_ELSEWHERE)))
            raise RecipeError(f"engine.vllm.{name} is no argument of vLLM's engine{near}")
    return dict(arguments)
