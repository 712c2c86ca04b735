"""Which GPUs an engine gets: how many share a model, and how many engines a machine holds.

The plan is worked out from shapes alone, so that it can be told before anything is loaded. Memory is planned
with: what it says fits may still be a little too much, and vLLM then says so when it starts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal

from transformers import PreTrainedModel

from vila2cli.devices import Gpu
from vila2cli.engine.limits import cache_bytes_per_token
from vila2cli.errors import ModelError
from vila2cli.model.freeze import parts_of
from vila2cli.model.layers import context_length, layers_of, tower_heads
from vila2cli.settings import MachineSettings

_OVERHEAD = 2_000_000_000
"""Bytes of a GPU for activations, the CUDA context and captured graphs."""
_WHOLE_TOWERS = ("InternVLForConditionalGeneration",)
"""Classes of which vLLM keeps the whole vision tower on every GPU where its heads do not divide."""
_WEIGHT_BYTES = {"fp8": 1.0, "int8": 1.0, "bitsandbytes": 0.55, "mxfp4": 0.55, "experts_int8": 1.0}
"""Bytes of a weight that vLLM quantizes itself."""
_IMAGE_TOKENS, _TEXT_TOKENS = 1024, 384
"""Tokens planned for an image where the config does not say, and for prompt and answer."""
_DEFAULT_BATCH = 128
_PART_OF_BATCH = 4
"""Room for this part of a batch will do: twice the GPUs for a fuller one are worth more as two engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a checkpoint decides where it fits.

    `tower` and `llm` are parameters (the projector counts with the tower), `kv_bytes` the keys and values of a
    token in 16-bit numbers, `num_tokens` the tokens of a usual request, and `needs_tower_heads` whether vLLM
    refuses to keep a tower whole whose heads do not divide.
    """

    tower: int
    llm: int
    heads: int
    kv_heads: int
    tower_heads: int
    intermediate: int
    kv_bytes: int
    context: int
    num_tokens: int
    needs_tower_heads: bool = True

    @classmethod
    def of(cls, net: PreTrainedModel, image_tokens: int = 0) -> "Shape":
        """The shape of a model, of which no weight is looked at: one on the meta device will do.

        `image_tokens` are those of a picture in as many tiles as it can have, where it has several.
        """
        config: Any = net.config
        layers, vision = layers_of(config), getattr(config, "vision_config", None)
        sizes: Counter[bool] = Counter()
        places = parts_of(net)
        for name, parameter in net.named_parameters():
            sizes[places[name] == "llm"] += parameter.numel()
        image = int(getattr(config, "image_seq_length", 0) or _IMAGE_TOKENS) if vision is not None else 0
        image = max(image, image_tokens)
        heads = gcd(*(layer.heads for layer in layers))
        return cls(
            tower=sizes[False],
            llm=sizes[True],
            heads=heads,
            kv_heads=gcd(*(layer.kv_heads for layer in layers)),
            tower_heads=tower_heads(vision),
            intermediate=gcd(*(layer.intermediate for layer in layers)) or heads,
            kv_bytes=cache_bytes_per_token(config, itemsize=2),
            context=context_length(config),
            num_tokens=min(image + _TEXT_TOKENS, context_length(config)),
            needs_tower_heads=type(net).__name__ not in _WHOLE_TOWERS,
        )

    @classmethod
    def of_bases(
        cls,
        sizes: tuple[int, int],
        tower: Mapping[str, Any],
        llm: Mapping[str, Any],
        *,
        is_internvl: bool,
        image_tokens: int = 0,
    ) -> "Shape":
        """The shape of a model that is to be made: parameters of tower and LLM, and the bases' config.json."""
        heads = int(llm.get("num_attention_heads") or 1)
        kv_heads = int(llm.get("num_key_value_heads") or heads)
        head_dim = int(llm.get("head_dim") or int(llm.get("hidden_size") or heads) // heads)
        context = int(llm.get("max_position_embeddings") or 2**31)
        vision = tower.get("vision_config") or tower
        return cls(
            tower=sizes[0],
            llm=sizes[1],
            heads=heads,
            kv_heads=kv_heads,
            tower_heads=int(vision.get("num_attention_heads") or vision.get("num_heads") or 1),
            intermediate=int(llm.get("intermediate_size") or heads),
            kv_bytes=4 * int(llm.get("num_hidden_layers") or 1) * kv_heads * head_dim,
            context=context,
            num_tokens=min(max(_IMAGE_TOKENS, image_tokens) + _TEXT_TOKENS, context),
            needs_tower_heads=not is_internvl,
        )

    def splits_over(self, num_gpus: int) -> bool:
        """Whether vLLM takes so many GPUs for one model."""
        divides = self.heads % num_gpus == 0 and self.intermediate % num_gpus == 0
        shares_keys = self.kv_heads % num_gpus == 0 or num_gpus % self.kv_heads == 0
        return divides and shares_keys and (not self.needs_tower_heads or self.tower_heads % num_gpus == 0)

    def weight_bytes(self, num_gpus: int, width: float) -> int:
        """Bytes of the weights on each of so many GPUs; the tower is never quantized."""
        tower = self.tower / num_gpus if self.tower_heads % num_gpus == 0 else self.tower
        return round(2 * tower + width * self.llm / num_gpus)

    def cache_bytes(self, num_gpus: int, num_tokens: int, width: float = 2.0) -> int:
        """Bytes of the keys and values of so many tokens on each of the GPUs, which hold a head at least."""
        return round(num_tokens * self.kv_bytes * width / 2 / min(num_gpus, self.kv_heads))


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """How many engines there are, the devices of each, and the bytes that each takes of one of them.

    `device` says what devices are. A `batch` below what was asked for is what fits beside the weights.
    """

    replicas: int
    per_replica: int
    device: Literal["gpu", "core"]
    used: int = 0
    memory: int = 0
    batch: int = 0
    gpus: tuple[Gpu, ...] = ()

    def begins_with_first(self, gpus: Sequence[Gpu]) -> bool:
        """Whether its first engine has the first of these GPUs, as one in this process would take them."""
        return self.gpus[: self.per_replica] == tuple(gpus[: self.per_replica])

    def line(self) -> str:
        """The plan in words."""
        one = "GPU" if self.device == "gpu" else "core"
        devices = f"{self.per_replica} {one}{'s' if self.per_replica > 1 else ''}"
        text = f"{self.replicas} {'replicas' if self.replicas > 1 else 'replica'} of {devices}"
        if self.device == "core":
            return text
        return (
            f"{text} (replicas x tensor parallel: {self.replicas} x {self.per_replica}), "
            f"{self.used / 1e9:,.3g} of {self.memory / 1e9:,.3g} GB each for weights and {self.batch} requests"
        )


def plan_cores(machine: MachineSettings, num_cores: int) -> EnginePlan:
    """Engines on processor cores: one, unless more are asked for; each gets as many cores."""
    cores = num_cores if machine.gpus == "all" else min(machine.gpus, num_cores)
    replicas = 1 if machine.replicas == "auto" else machine.replicas
    return EnginePlan(replicas, max(1, cores // replicas), "core")


def plan_gpus(
    shape: Shape,
    gpus: Sequence[Gpu],
    machine: MachineSettings,
    *,
    kind: str = "vllm",
    batch_size: int = _DEFAULT_BATCH,
    itemsize: int = 2,
    is_worker: bool = False,
) -> EnginePlan:
    """Engines on GPUs; a worker of several has one engine, on all of the GPUs that it was given.

    The hf engine takes one GPU each. Of GPUs of several sizes the smaller ones are left out where there are
    more engines without them, or as many on fewer GPUs each. Raises ModelError where the model fits no number
    of GPUs that it can be split over, or where settings ask for more than there is.
    """
    given = gpus if machine.gpus == "all" else gpus[: machine.gpus]
    if machine.gpus != "all" and machine.gpus > len(gpus):
        raise ModelError(f"engine.gpus = {machine.gpus}, and {len(gpus)} are visible; lower it")
    plans: list[EnginePlan] = []
    reasons: list[ModelError] = []
    for memory in sorted({gpu.memory for gpu in given}):
        large = [gpu for gpu in given if gpu.memory >= memory]
        try:
            plans.append(_plan_alike(shape, large, machine, kind, batch_size, itemsize, is_worker=is_worker))
        except ModelError as error:
            reasons.append(error)
    if not plans:
        raise reasons[0]
    # The first of equals, which leaves out fewest.
    return max(plans, key=lambda plan: (plan.replicas, -plan.per_replica))


def _plan_alike(
    shape: Shape,
    given: Sequence[Gpu],
    machine: MachineSettings,
    kind: str,
    batch_size: int,
    itemsize: int,
    *,
    is_worker: bool,
) -> EnginePlan:
    """The plan for GPUs as if each were as small as the smallest of them."""
    memory = min(gpu.memory for gpu in given)
    budget = memory * (machine.gpu_memory_utilization if kind == "vllm" else 1.0)
    width = _WEIGHT_BYTES.get(machine.quantization, float(itemsize))
    cache = 1.0 if machine.kv_cache_dtype.startswith("fp8") else float(itemsize)
    batch_size = batch_size or _DEFAULT_BATCH

    def used(num_gpus: int, batch: int) -> int:
        tokens = batch * shape.num_tokens
        return shape.weight_bytes(num_gpus, width) + shape.cache_bytes(num_gpus, tokens, cache) + _OVERHEAD

    most = len(given) if machine.replicas == "auto" else len(given) // machine.replicas
    splits = _splits(shape, machine, kind, most, len(given))
    fitting = [num for num in splits if used(num, -(-batch_size // _PART_OF_BATCH)) <= budget]
    enough = fitting or [num for num in reversed(splits) if used(num, 1) <= budget]
    if not enough:
        raise ModelError(_too_large(shape, splits, used(splits[-1], 1), memory, machine, len(given)))
    is_alone = is_worker and machine.replicas == "auto"
    tensor_parallel = enough[-1] if is_alone and fitting else enough[0]
    per_sequence = max(1, used(tensor_parallel, 1) - used(tensor_parallel, 0))
    batch = min(batch_size, int((budget - used(tensor_parallel, 0)) // per_sequence))
    if machine.replicas != "auto":
        replicas = machine.replicas
    else:
        replicas = 1 if is_alone else len(given) // tensor_parallel
    in_use = used(tensor_parallel, batch)
    return EnginePlan(replicas, tensor_parallel, "gpu", in_use, memory, batch, tuple(given))


def _splits(shape: Shape, machine: MachineSettings, kind: str, most: int, num_gpus: int) -> list[int]:
    """The numbers of GPUs that one engine may have, least first."""
    asked = machine.tensor_parallel
    if most < 1 or (asked != "auto" and asked > most):
        raise ModelError(
            f"engine.replicas = {machine.replicas} and engine.tensor_parallel = {asked} need more than the "
            f"{num_gpus} GPUs that are there; lower one of them"
        )
    if kind != "vllm":
        if asked not in ("auto", 1):
            raise ModelError(f"engine.tensor_parallel = {asked}: the hf engine runs on one GPU; leave it out")
        return [1]
    if asked == "auto":
        return [num for num in range(1, most + 1) if shape.splits_over(num)]
    if not shape.splits_over(asked):
        fitting = ", ".join(str(num) for num in range(1, most + 1) if shape.splits_over(num))
        raise ModelError(
            f"engine.tensor_parallel = {asked} does not divide the model: {shape.heads} heads, "
            f"{shape.kv_heads} of keys, {shape.tower_heads} in the vision tower; it can be {fitting}"
        )
    return [asked]


def _too_large(
    shape: Shape, splits: Sequence[int], need: int, memory: int, machine: MachineSettings, num_gpus: int
) -> str:
    return (
        f"the model does not fit: {2 * (shape.tower + shape.llm) / 1e9:,.3g} GB of weights in 16 bits, and on "
        f"{splits[-1]} of {num_gpus} GPUs (it divides over {', '.join(map(str, splits))}) each would hold "
        f"{need / 1e9:,.3g} GB of {machine.gpu_memory_utilization:.0%} of {memory / 1e9:,.3g} GB; take more "
        "or larger GPUs, or set engine.quantization"
    )


def context_that_fits(shape: Shape, plan: EnginePlan, machine: MachineSettings, itemsize: int = 2) -> int:
    """Tokens of one context whose keys and values fit beside the weights on the GPUs of a replica."""
    width = _WEIGHT_BYTES.get(machine.quantization, float(itemsize))
    cache = 1.0 if machine.kv_cache_dtype.startswith("fp8") else float(itemsize)
    budget = plan.memory * machine.gpu_memory_utilization
    room = budget - shape.weight_bytes(plan.per_replica, width) - _OVERHEAD
    return int(room // max(1, shape.cache_bytes(plan.per_replica, 1, cache)))
