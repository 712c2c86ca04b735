"""Every knob of a run: typed, frozen settings with unit and default, one class per table of a recipe."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    StringConstraints,
)

Origin = Literal["default", "recipe", "--set"]
Part = Literal["vision_tower", "projector", "llm"]


def setting(doc: str, *, decides: bool = True, **limits: Any) -> Any:
    """A field with its one line of doc; `decides=False` marks what changes speed or limits, not output."""
    return Field(description=doc, json_schema_extra={"decides": decides}, **limits)


def one_is_a_list(value: Any) -> Any:
    """A single string stands for a list of one, a list for a tuple (settings are frozen)."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(one_is_a_list)]
SomeNames = Annotated[tuple[str, ...], BeforeValidator(one_is_a_list), Field(min_length=1)]
Parts = Annotated[
    tuple[Part, ...],
    BeforeValidator(one_is_a_list),
    setting("what is trained: vision_tower, projector, llm; the rest is frozen", min_length=1),
]
LearningRate = Annotated[float, setting("peak learning rate, reached after warm-up", gt=0)]
NewTokens = Annotated[PositiveInt, setting("longest generated text, in tokens")]
EngineName = Annotated[
    Literal["auto", "vllm", "hf"],
    setting("generation engine; auto is vllm where it is importable, else hf", decides=False),
]
EngineBatch = Annotated[PositiveInt, setting("requests in flight at once", decides=False)]
SpecialistName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]


class Settings(BaseModel):
    """One table of a recipe: frozen, and strict about types and unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the output, as JSON values: what belongs in a manifest."""
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra, value = field.json_schema_extra, getattr(self, name)
            if isinstance(extra, dict) and extra.get("decides") is False:
                del values[name]
            elif isinstance(value, Settings):
                values[name] = value.deciding()
        return values


class BaseSettings(Settings):
    """What every round starts from."""

    architecture: Annotated[Literal["idefics3"], setting("transformers model the parts are put into")] = (
        "idefics3"
    )
    vision_tower: Annotated[str, setting("folder or hub id of the vision tower, or world:tower")] = (
        "world:tower"
    )
    llm: Annotated[str, setting("folder or hub id of the language model, or world:llm")] = "world:llm"
    image_size: Annotated[NonNegativeInt, setting("image side in pixels, 0 for the tower's own")] = 0
    projector: Annotated[Literal["linear"], setting("projector after the 2x2 pixel shuffle")] = "linear"
    dtype: Annotated[Literal["float32", "bfloat16"], setting("number format of training")] = "float32"


class DataSettings(Settings):
    """Shard specs: globs, {000..010} ranges, folders or layer folders."""

    pretrain: Annotated[Names, setting("image-caption shards, the ones that are recaptioned")] = ()
    interleaved: Annotated[Names, setting("web documents with images, never recaptioned")] = ()
    text: Annotated[Names, setting("text-only instruction shards blended into SFT")] = ()
    sft: Annotated[Names, setting("visual instruction shards")] = ()


class RecaptionSettings(Settings):
    """Writing new captions with the last round's model (VILA^2 section 2.1)."""

    engine: EngineName = "auto"
    prompts: Annotated[SomeNames, setting("prompt ids; one is drawn per image (VILA^2 section 2.1.1)")] = (
        "long-v1",
        "long-v2",
        "long-v3",
    )
    share: Annotated[float, setting("share of the images that get a new caption, 0 to 1", gt=0, le=1)] = 1.0
    max_new_tokens: NewTokens = 128
    temperature: Annotated[float, setting("sampling temperature, 0 for greedy", ge=0)] = 0.0
    top_p: Annotated[float, setting("nucleus sampling mass, 0 to 1", gt=0, le=1)] = 1.0
    batch_size: EngineBatch = 128
    max_reject_rate: Annotated[
        float, setting("share of unusable samples above which the stage fails", decides=False, ge=0, le=1)
    ] = 0.05
    max_pixels: Annotated[
        NonNegativeInt, setting("largest image decoded, in pixels; 0 for the built-in limit")
    ] = 0


class TrainSettings(Settings):
    """One training stage: what is trained, on how much, how fast."""

    train: Parts = ("projector", "llm")
    learning_rate: LearningRate = 5e-5
    part_learning_rates: Annotated[
        dict[Part, LearningRate], setting("peak learning rates of single parts that differ from learning_rate")
    ] = {}
    epochs: Annotated[float, setting("passes over the data; 0.5 is half of it", gt=0)] = 1.0
    batch_size: Annotated[PositiveInt, setting("samples per optimizer step, over all processes")] = 64
    micro_batch_size: Annotated[
        NonNegativeInt, setting("samples per forward pass, 0 for the whole batch", decides=False)
    ] = 0
    max_samples: Annotated[NonNegativeInt, setting("samples per pass, 0 for all")] = 0
    max_length: Annotated[PositiveInt, setting("longest sequence in tokens, images included")] = 2048
    warmup_ratio: Annotated[float, setting("share of the steps spent warming up", ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, setting("AdamW weight decay", ge=0)] = 0.0
    max_grad_norm: Annotated[float, setting("gradient norm above which it is clipped", gt=0)] = 1.0
    max_reject_rate: Annotated[
        float, setting("share of unusable samples above which the stage fails", decides=False, ge=0, le=1)
    ] = 0.05
    cache_features: Annotated[
        bool, setting("keep the frozen vision tower's features in memory between epochs", decides=False)
    ] = False


class CaptionTrainSettings(TrainSettings):
    """A training stage on image-caption pairs."""

    captions: Annotated[
        SomeNames, setting("caption sources joined in this order: original, or a layer's name")
    ] = ("original", "recaption")


class AlignSettings(CaptionTrainSettings):
    """Stage 1: the fresh projector alone."""

    train: Parts = ("projector",)
    learning_rate: LearningRate = 1e-3


class PretrainSettings(Settings):
    """Stages 1 and 2, from the base vision tower and LLM with a fresh projector."""

    align: AlignSettings = AlignSettings()
    main: CaptionTrainSettings = CaptionTrainSettings()


class SftSettings(TrainSettings):
    """Stage 3: instruction tuning on data.sft, with data.text blended in (VILA section 4)."""

    train: Parts = ("vision_tower", "projector", "llm")
    learning_rate: LearningRate = 2e-5


class SpecialistSettings(TrainSettings):
    """A specialist: trained on its task, then asked about the pretraining images (VILA^2 section 2.2)."""

    train: Parts = ("vision_tower", "projector", "llm")
    learning_rate: LearningRate = 2e-5
    data: Annotated[SomeNames, setting("task shards the specialist is trained on")]
    prompts: Annotated[SomeNames, setting("prompt ids for relabelling; one is drawn per image")]
    questions: Annotated[str, setting("question pool its answers are filed under in pretraining")]
    max_new_tokens: NewTokens = 128
    relabel_share: Annotated[
        float, setting("share of the images the specialist labels, 0 to 1", gt=0, le=1)
    ] = 1.0


class JudgeSettings(Settings):
    """Comparing caption layers pair by pair."""

    engine: EngineName = "auto"
    judges: Annotated[
        tuple[Literal["oracle", "model"], ...],
        BeforeValidator(one_is_a_list),
        setting("who judges: oracle (exact scene facts), model (a checkpoint)", min_length=1),
    ] = ("oracle", "model")
    num_samples: Annotated[PositiveInt, setting("images judged")] = 200
    max_new_tokens: NewTokens = 8
    baseline_round: Annotated[
        NonNegativeInt, setting("round whose captions are the other side; 0 is the alt-text")
    ] = 0


class EvalSettings(Settings):
    """Scoring a checkpoint on task folders."""

    tasks: Annotated[Names, setting("task folders or globs of them")] = ()
    engine: EngineName = "auto"
    batch_size: EngineBatch = 128
    max_new_tokens: NewTokens = 96
    num_bootstrap: Annotated[PositiveInt, setting("bootstrap resamples for the 95% intervals")] = 1000
    max_reject_rate: Annotated[
        float, setting("share of unusable samples above which the stage fails", decides=False, ge=0, le=1)
    ] = 0.0


class CostSettings(Settings):
    """What an hour costs, for the figures in reports."""

    dollars_per_hour: Annotated[float, setting("price of one device-hour in dollars", ge=0)] = 0.0
    device: Annotated[Literal["core-hours", "GPU-hours"], setting("what is counted")] = "core-hours"


class WorldSettings(Settings):
    """The embedded data: how many scenes of each kind are drawn."""

    seed: Annotated[int, setting("seed of the scenes")] = 0
    num_pretrain: Annotated[PositiveInt, setting("images with noisy alt-text")] = 4000
    num_interleaved: Annotated[NonNegativeInt, setting("web documents")] = 200
    num_text: Annotated[NonNegativeInt, setting("text-only conversations")] = 300
    num_sft: Annotated[PositiveInt, setting("images with instruction conversations")] = 300
    num_specialist: Annotated[PositiveInt, setting("images per specialist")] = 300
    num_dev: Annotated[PositiveInt, setting("scenes of each development task")] = 200
    num_eval: Annotated[PositiveInt, setting("scenes of each evaluation task")] = 500
    samples_per_shard: Annotated[PositiveInt, setting("samples per tar")] = 500
    alt_text_noise: Annotated[
        float, setting("share of alt-texts with a wrong fact; as many more are boilerplate", ge=0, le=0.5)
    ] = 0.15


class Recipe(Settings):
    """All settings of a run."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*$"), setting("run name")] = "run"
    seed: Annotated[NonNegativeInt, setting("seed of training order, sampling and projectors")] = 0
    rounds: Annotated[PositiveInt, setting("self-augmentation rounds after round 0")] = 3
    runs_dir: Annotated[str, setting("folder that holds the run folders", decides=False)] = "runs"
    base: BaseSettings = BaseSettings()
    data: DataSettings = DataSettings()
    recaption: RecaptionSettings = RecaptionSettings()
    pretrain: PretrainSettings = PretrainSettings()
    sft: SftSettings = SftSettings()
    specialists: dict[SpecialistName, SpecialistSettings] = {}
    judge: JudgeSettings = JudgeSettings()
    eval: EvalSettings = EvalSettings()
    cost: CostSettings = CostSettings()
    slurm: Annotated[
        dict[str, str | int | float | bool], setting("sbatch options by their long name", decides=False)
    ] = {}
    world: WorldSettings = WorldSettings()

    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)
    _path: Path | None = PrivateAttr(default=None)

    @property
    def origins(self) -> Mapping[str, Origin]:
        """Where the value of each dotted key came from."""
        return self._origins

    @property
    def path(self) -> Path | None:
        """The TOML file it was read from, None for the defaults alone."""
        return self._path

    @property
    def run_dir(self) -> Path:
        """The run folder, `runs_dir/name`."""
        return Path(self.runs_dir) / self.name


def describe(model: type[Settings] = Recipe, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """Every recipe key in order: (dotted key, type, default, one line of doc).

    `specialists.NAME.*` and `slurm.KEY` stand for keys of the user's choosing; a required key has
    the default "required".
    """
    for name, field in model.model_fields.items():
        key, kind = prefix + name, field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield from describe(kind, f"{key}.")
        elif get_origin(kind) is dict:
            value_kind = get_args(kind)[1]
            if isinstance(value_kind, type) and issubclass(value_kind, Settings):
                yield from describe(value_kind, f"{key}.NAME.")
            else:
                yield f"{key}.KEY", type_name(value_kind), "none", field.description or ""
        else:
            default = "required" if field.is_required() else field.get_default()
            yield key, type_name(kind), default, field.description or ""


def type_name(kind: Any) -> str:
    """A type as a reader of TOML would name it: `list of string`, `"auto" | "vllm" | "hf"`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_name(inner[0])
    if origin is Literal:
        return " | ".join(f'"{choice}"' for choice in inner)
    if origin in (Union, UnionType):
        return " | ".join(type_name(choice) for choice in inner)
    if origin is tuple:
        return f"list of {type_name(inner[0])}"
    names: dict[Any, str] = {str: "string", int: "integer", bool: "true | false", float: "float"}
    return names[kind]
