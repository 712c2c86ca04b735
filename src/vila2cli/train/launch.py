"""What a launcher asks for: `accelerate launch` hands on its config file as environment variables.

What the file asks for and training here cannot do is refused before any data is read.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate.utils.constants import FSDP_SHARDING_STRATEGY

from vila2cli.errors import RecipeError
from vila2cli.files import read_json
from vila2cli.settings import TrainerSettings

Strategy = Literal["ddp", "fsdp2", "zero"]

_OFF = ("", "no", "false", "none", "auto", "0", "1")
_REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM; take FSDP or DEEPSPEED",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config; leave it out",
    "ACCELERATE_DYNAMO_BACKEND": "a dynamo_backend; leave it out and set trainer.compile = true",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps; leave it out, the recipe has "
    "batch_size and micro_batch_size",
}
_REFUSED_FSDP = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params; leave it out",
    "FSDP_IGNORED_MODULES": "fsdp_ignored_modules; leave it out, nobody would sum their gradients",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing; leave it out and set "
    "trainer.gradient_checkpointing = true",
}
_REFUSED_ZERO = {
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "offload_optimizer_device; leave it out",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "offload_param_device; leave it out",
}

_OF_THE_FILE = (
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_stage",
    "offload_optimizer_device",
    "offload_param_device",
    "offload_param_nvme_path",
    "offload_optimizer_nvme_path",
    "zero3_save_16bit_model",
    "mixed_precision",
)
"""What accelerate does not take beside a config file of DeepSpeed's."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How the processes of a training share its model, and whether they compute in bfloat16."""

    strategy: Strategy = "ddp"
    is_bf16: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether no process has the whole model while it is trained."""
        return self.strategy != "ddp"

    def describe(self) -> str:
        """The launch in a few words."""
        number_format = "bfloat16" if self.is_bf16 else "float32"
        return f"in {number_format}; several processes share the work by {self.strategy}"


def read_launch(trainer: TrainerSettings, dtype: str, environ: Mapping[str, str] = os.environ) -> Launch:
    """What the recipe and the launcher's config file, which comes first, ask for together.

    Raises RecipeError, naming all that is in the way, where a training here cannot do what the file says.
    """
    strategy: Strategy = trainer.strategy
    if environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        strategy = "fsdp2"
    if environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        strategy = "zero"
    path = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") if strategy == "zero" else "none"
    config: Mapping[str, Any] = {} if path.lower() == "none" else read_json(Path(path))
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    for name in ("bf16", "fp16"):
        if _table(config, name).get("enabled") is True:
            precision = name
    reasons = list(_refused(strategy, environ, config))
    if precision not in ("no", "bf16"):
        reasons.append(f"{precision}; take bf16")
    if precision == "bf16" and strategy == "zero" and dtype != "bfloat16":
        reasons.append("bf16, in which DeepSpeed keeps frozen weights, too; set base.dtype = bfloat16")
    if reasons:
        raise RecipeError(
            f"the config of `accelerate launch` asks for {'; and for '.join(reasons)} (training does without)"
        )
    return Launch(strategy, precision == "bf16" or dtype == "bfloat16")


def _refused(strategy: Strategy, environ: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[str]:
    names = dict(_REFUSED)
    if strategy == "fsdp2":
        names |= _REFUSED_FSDP
        if environ.get("FSDP_VERSION", "2") != "2":
            yield "fsdp_version 1; set fsdp_version: 2"
        if (kept := environ.get("FSDP_RESHARD_AFTER_FORWARD", "true")).upper() in FSDP_SHARDING_STRATEGY:
            yield f"fsdp_reshard_after_forward {kept}, which is of FSDP1; set true or false"
        if environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":
            yield "SIZE_BASED_WRAP, which would part tied weights; take TRANSFORMER_BASED_WRAP"
    if strategy == "zero":
        names |= _REFUSED_ZERO
        yield from _refused_zero(environ, config)
    yield from (reason for name, reason in names.items() if _is_on(environ.get(name)))


def _refused_zero(environ: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[str]:
    zero = _table(config, "zero_optimization")
    default = 0 if config else environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", 2)  # of a file it is DeepSpeed's
    if str(zero.get("stage", default)) == "0":
        yield "zero_stage 0; take 1, 2 or 3, or MULTI_GPU"
    fields = environ.get("ACCELERATE_CONFIG_DS_FIELDS", "").split(",") if config else ()
    if twice := [name for name in fields if name in _OF_THE_FILE]:
        yield f"{', '.join(twice)} beside a deepspeed_config_file, which says it; leave it out"
    for name in ("optimizer", "scheduler"):
        if name in config:
            yield f"an own {name} of DeepSpeed; leave it out, the recipe has one"
    for name in ("offload_optimizer", "offload_param"):
        if _is_on(_table(zero, name).get("device")):
            yield f"{name}; leave it out"
    if _is_on(config.get("gradient_accumulation_steps")):
        yield _REFUSED["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"]


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = config.get(name) or {}
    if not isinstance(table, Mapping):
        raise RecipeError(f"{name} in the deepspeed_config_file should hold a JSON object, not {table!r}")
    return table


def _is_on(value: Any) -> bool:
    return str(value).lower() not in _OFF
