"""Tables of a recipe about Slurm: what jobs ask for, and how a stage is started on a node."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
)

from vila2cli.settings.kinds import LOWER_NAME, Settings, one_is_a_list, setting, spelled

StageKind = Literal[
    "world", "recaption", "rewrite", "filter", "pretrain", "sft", "specialize", "relabel", "eval", "judge"
]
_IDLE: Mapping[str, tuple[str, ...]] = {
    "world": ("nodes", "gpus", "gres", "array"),
    **dict.fromkeys(("pretrain", "sft", "specialize"), ("array",)),
    **dict.fromkeys(("recaption", "rewrite", "filter", "relabel", "eval", "judge"), ("nodes",)),
}
"""What a job does not take: only training has several nodes, only the others share shards in an array."""
Line = Annotated[str, spelled(r"[^\x00-\x1f\x7f]*", "be one line without control characters")]
"""Text of one line: a value that goes into a script cannot bring lines of its own."""
Lines = Annotated[tuple[Line, ...], BeforeValidator(one_is_a_list)]
OptionName = Annotated[str, LOWER_NAME]


class JobSettings(Settings):
    """What a job asks for; empty text, 0 and [] leave it to [slurm] above a stage, or to the cluster."""

    account: Annotated[Line, setting("account that is charged", decides=False)] = ""
    partition: Annotated[Line, setting("partition or list of them", decides=False)] = ""
    qos: Annotated[Line, setting("quality of service", decides=False)] = ""
    time: Annotated[Line, setting("time limit, as in 4:00:00; a job goes on after it", decides=False)] = ""
    nodes: Annotated[NonNegativeInt, setting("nodes of a training; other jobs take one", decides=False)] = 0
    gpus: Annotated[
        NonNegativeInt,
        setting("GPUs per node: processes of a training, workers of a job over shards", decides=False),
    ] = 0
    gres: Annotated[Line, setting("generic resources in place of --gpus-per-node", decides=False)] = ""
    cpus: Annotated[NonNegativeInt, setting("CPUs per process", decides=False)] = 0
    mem: Annotated[Line, setting("memory per node, as in 200G", decides=False)] = ""
    array: Annotated[
        NonNegativeInt,
        setting("array tasks that share the shards of every stage but training", decides=False),
    ] = 0
    container: Annotated[Line, setting("image for srun --container-image (Pyxis)", decides=False)] = ""
    container_mounts: Annotated[Line, setting("srun --container-mounts (Pyxis)", decides=False)] = ""
    modules: Annotated[Lines, setting("environment modules that are loaded", decides=False)] = ()
    setup: Annotated[Lines, setting("shell lines before the stage, such as an activate", decides=False)] = ()
    options: Annotated[
        dict[OptionName, Line | int | bool], setting("more sbatch options by long name", decides=False)
    ] = Field(default_factory=dict)


class SlurmSettings(JobSettings):
    """How `vila2 slurm` turns the stages of a run into jobs."""

    program: Annotated[Line, setting("how vila2 is started on a node, in words", decides=False)] = "vila2"
    torchrun: Annotated[Line, setting("how torchrun is started there, in words", decides=False)] = "torchrun"
    stop_seconds: Annotated[
        PositiveInt, setting("seconds before the time limit at which a stage is told to stop", decides=False)
    ] = 300
    max_requeues: Annotated[
        NonNegativeInt, setting("times a stopped job is put back into the queue", decides=False)
    ] = 100
    max_kills: Annotated[
        NonNegativeInt, setting("times a killed job (out of memory, say) is tried again", decides=False)
    ] = 2
    stages: dict[StageKind, JobSettings] = Field(default_factory=dict)

    @field_validator("stages")
    @classmethod
    def _takes_what_it_is_given(cls, value: dict[StageKind, JobSettings]) -> dict[StageKind, JobSettings]:
        for kind, job in value.items():
            if idle := [name for name in _IDLE[kind] if getattr(job, name)]:
                raise ValueError(f"{kind} takes no {idle[0]}; leave out slurm.stages.{kind}.{idle[0]}")
        return value

    def job(self, kind: StageKind) -> JobSettings:
        """What a stage's job asks for: [slurm] with [slurm.stages.KIND] on top, but for what it cannot use.

        Evaluating and judging take one GPU unless their table says more.
        """
        own = self.stages.get(kind, JobSettings())
        names = [name for name in JobSettings.model_fields if name not in _IDLE[kind]]
        merged = {name: getattr(own, name) or getattr(self, name) for name in names}
        merged["options"] = {**self.options, **own.options}
        if kind in ("eval", "judge") and not own.gpus:
            merged["gpus"] = min(1, self.gpus)
        return JobSettings(**{**merged, "nodes": merged.get("nodes") or 1})
