"""The table [engine]: how a stage that asks a model uses the machine, and how vLLM is set up."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_serializer

from vila2cli.settings.kinds import Settings, Workers, number_or, setting

AskingStage = Literal["recaption", "rewrite", "relabel", "filter", "judge", "eval"]
ONLY_SPEED = frozenset(
    (
        "async_scheduling",
        "attention_backend",
        "block_size",
        "compilation_config",
        "cpu_offload_gb",
        "cudagraph_capture_sizes",
        "disable_cascade_attn",
        "disable_chunked_mm_input",
        "disable_custom_all_reduce",
        "disable_log_stats",
        "distributed_executor_backend",
        "download_dir",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "kv_cache_memory_bytes",
        "kv_offloading_backend",
        "kv_offloading_size",
        "load_format",
        "long_prefill_token_threshold",
        "max_cudagraph_capture_size",
        "max_long_partial_prefills",
        "max_num_partial_prefills",
        "max_parallel_loading_workers",
        "mm_encoder_tp_mode",
        "mm_processor_cache_gb",
        "mm_processor_cache_type",
        "num_gpu_blocks_override",
        "nsight",
        "safetensors_load_strategy",
        "scheduling_policy",
        "swap_space",
        "use_tqdm_on_load",
    )
)
"""Arguments of vLLM that decide how fast an answer comes, not what it says; every other may."""


class MachineSettings(Settings):
    """The GPUs, or without any the processor cores, of stages that ask a model, and vLLM's own settings."""

    gpus: Annotated[
        Literal["all"] | PositiveInt,
        number_or("all"),
        setting("GPUs used of those visible, or without any processor cores", decides=False),
    ] = "all"
    replicas: Annotated[
        Literal["auto"] | PositiveInt,
        number_or("auto"),
        setting(
            "engines side by side, a process each, that are handed shards; auto: as many as fit on the GPUs, "
            "one without any, and one for a worker of several",
            decides=False,
        ),
    ] = "auto"
    tensor_parallel: Annotated[
        Literal["auto"] | PositiveInt,
        number_or("auto"),
        setting(
            "GPUs that share a model in vLLM; auto: the least that divide its heads and hold weights and a "
            "batch's keys and values",
            decides=False,
        ),
    ] = "auto"
    gpu_memory_utilization: Annotated[
        float, setting("share of a GPU's memory that vLLM takes", decides=False, gt=0, le=1)
    ] = 0.9
    max_model_len: Annotated[
        NonNegativeInt,
        setting("tokens of prompt and answer at most; 0 for the checkpoint's own, as far as memory allows"),
    ] = 0
    quantization: Annotated[
        str, setting("how vLLM quantizes weights, such as fp8; empty for the checkpoint's own way")
    ] = ""
    kv_cache_dtype: Annotated[
        str, setting("number format of keys and values in vLLM, such as fp8; auto is the model's")
    ] = "auto"
    max_num_batched_tokens: Annotated[
        NonNegativeInt, setting("tokens that vLLM works on in one step, 0 for its own choice", decides=False)
    ] = 0
    workers: Workers = "auto"
    vllm: Annotated[
        dict[str, Any], setting("any other argument of vLLM's engine, by its name in EngineArgs")
    ] = Field(default_factory=dict)

    def decisive(self) -> dict[str, Any]:
        """What of it decides answers and was set, for a manifest: nothing by default."""
        values = {name: value for name, value in self.deciding().items() if value != _DEFAULTS[name]}
        own = {name: value for name, value in values.pop("vllm", {}).items() if name not in ONLY_SPEED}
        if own:
            values["vllm"] = own
        return {"engine_options": values} if values else {}

    def over(self, other: "MachineSettings") -> "MachineSettings":
        """These settings where they were set, those of another table elsewhere."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return MachineSettings.model_validate({**_plain(other), **own})


class StageMachineSettings(MachineSettings):
    """The same for one stage; what is not set is as in [engine]."""

    unset_is: ClassVar[str] = "that of [engine]"

    @model_serializer(mode="wrap")
    def _as_set(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


def _plain(table: MachineSettings) -> dict[str, Any]:
    return {name: getattr(table, name) for name in MachineSettings.model_fields}


_DEFAULTS = _plain(MachineSettings())
