"""Tables of a recipe about how training runs: in which blend, on which processes, how saved and logged."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

from vila2cli.settings.kinds import Settings, Workers, one_is_a_list, setting

Tracker = Literal[
    "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]


class SourceSettings(Settings):
    """One source's part in a pass over the data."""

    weight: Annotated[
        NonNegativeFloat,
        setting("samples in proportion to the other weights, as many as the scarcest allows; 0 for all"),
    ] = 0.0
    epochs: Annotated[float, setting("how often a pass takes each sample at most", gt=0, le=1e6)] = 1.0
    max_samples: Annotated[NonNegativeInt, setting("samples a pass, other ones each pass; 0 for all")] = 0
    max_tokens: Annotated[NonNegativeInt, setting("tokens a pass, other ones each pass; 0 for all")] = 0


class TrainerSettings(Settings):
    """How every training stage runs; nothing here changes what is learned beyond rounding."""

    processes: Annotated[
        PositiveInt | Literal["auto"],
        setting(
            "processes that a training starts on this machine; auto is one for each visible GPU, 1 without",
            decides=False,
        ),
    ] = "auto"
    strategy: Annotated[
        Literal["ddp", "fsdp2"],
        setting("several processes: each with the whole model, or with a part of every layer", decides=False),
    ] = "ddp"
    attention: Annotated[
        Literal["auto", "sdpa", "sdpa_by_sample", "flash_attention_2"],
        setting(
            "the LLM's; auto is flash_attention_2 where it imports on CUDA, else sdpa_by_sample where packed",
            decides=False,
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, setting("compute activations again in the backward pass instead of keeping them", decides=False)
    ] = False
    compile: Annotated[bool, setting("compile each layer with torch.compile", decides=False)] = False
    master_weights: Annotated[
        bool, setting("with base.dtype bfloat16 keep and update the weights in float32", decides=False)
    ] = True
    prefetch: Annotated[
        NonNegativeInt, setting("optimizer steps whose images are made ready ahead", decides=False)
    ] = 1
    workers: Workers = "auto"
    checkpoint_every: Annotated[
        NonNegativeInt,
        setting(
            "steps between checkpoints to resume from, 0 for only at a signal and between phases", decides=False
        ),
    ] = 0
    timeout_s: Annotated[
        float,
        setting("how long a process waits for the others before it names the one missing", decides=False, gt=0),
    ] = 1800.0
    log_every: Annotated[
        NonNegativeInt, setting("steps between lines of steps.jsonl, 0 for none", decides=False)
    ] = 10
    log_with: Annotated[
        tuple[Tracker, ...],
        BeforeValidator(one_is_a_list),
        setting("accelerate's trackers that get the lines, too, as project NAME", decides=False),
    ] = ()
    peak_tflops: Annotated[
        NonNegativeFloat,
        setting("peak of one device in TFLOP/s, for the MFU; 0 for the known one of its name", decides=False),
    ] = 0.0
