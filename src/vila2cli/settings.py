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
    ValidationInfo,
    field_validator,
)

Language = Literal[
    "", "en", "de", "fr", "es", "it", "pt", "nl", "ru", "el", "ar", "he", "hi", "th", "zh", "ja", "ko"
]
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
MaxRejects = Annotated[
    float,
    setting("share of samples with no good caption above which the stage fails", decides=False, ge=0, le=1),
]
Temperature = Annotated[float, setting("sampling temperature, 0 for greedy", ge=0)]
EngineName = Annotated[
    Literal["auto", "vllm", "hf", "api"],
    setting(
        "engine; auto is vllm where it is importable, else hf; api asks the server of [api]", decides=False
    ),
]
ImageMatch = Literal["none", "exact", "perceptual"]
EngineBatch = Annotated[
    NonNegativeInt, setting("most requests decoded together, 0 for as many as fit", decides=False)
]
EngineDtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    setting("number format the model runs in; auto is its checkpoint's own", decides=False),
]
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


class WritingSettings(Settings):
    """How captions are generated, checked and tried again, by a captioner or a rewriter."""

    engine: EngineName = "auto"
    dtype: EngineDtype = "auto"
    max_new_tokens: NewTokens = 128
    temperature: Temperature = 0.0
    top_p: Annotated[float, setting("nucleus sampling mass, 0 to 1", gt=0, le=1)] = 1.0
    retry_temperatures: Annotated[
        tuple[Temperature, ...],
        BeforeValidator(one_is_a_list),
        setting("temperatures of the tries after a caption that fails the checks, in order; [] for none"),
    ] = (0.4, 0.8)
    language: Annotated[Language, setting("language that captions must be in, empty for any")] = ""
    min_words: Annotated[NonNegativeInt, setting("fewest words of a caption, 0 for no limit")] = 0
    max_words: Annotated[NonNegativeInt, setting("most words of a caption, 0 for no limit")] = 0
    batch_size: EngineBatch = 128
    max_reject_rate: MaxRejects = 0.05


class RecaptionSettings(WritingSettings):
    """Writing new captions with the last round's model (VILA^2 section 2.1)."""

    prompts: Annotated[
        SomeNames,
        setting("prompt ids; one is drawn per image (VILA^2 section 2.1.1), one named twice twice as often"),
    ] = ("long-v1", "long-v2", "long-v3")
    share: Annotated[float, setting("share of the images that get a new caption, 0 to 1", gt=0, le=1)] = 1.0
    n: Annotated[PositiveInt, setting("captions generated per image, of which the best is kept")] = 1
    choose: Annotated[
        Literal["logprob", "judge"],
        setting("what decides between n: mean log-probability, or the model as judge in both orders"),
    ] = "logprob"
    fallback: Annotated[
        Literal["original", "none"],
        setting("caption of an image whose every try failed: the alt-text, or none (rejected)"),
    ] = "original"
    max_pixels: Annotated[
        NonNegativeInt, setting("largest image decoded, in pixels; 0 for the built-in limit")
    ] = 0


class RewriteSettings(WritingSettings):
    """Merging alt-text and recaption with a language model, as CapsFusion does (POINTS section 3.1)."""

    prompt: Annotated[str, setting("prompt id; {original} and {recaption} stand for the two captions")] = (
        "merge-v1"
    )
    max_new_tokens: NewTokens = 256
    max_new_words: Annotated[
        NonNegativeInt, setting("words a merged caption may add; numbers, names and facts it never may")
    ] = 0
    fallback: Annotated[
        SomeNames, setting("captions joined in this order where every merge failed: original, recaption")
    ] = ("original", "recaption")
    max_reject_rate: MaxRejects = 0.5


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
    separator: Annotated[str, setting("text between two captions")] = "\n"
    shuffle_captions: Annotated[bool, setting("draw the order of the captions per image")] = False
    caption_dropout: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1)]],
        setting("by caption source, the share of images it is left out of where there is another"),
    ] = {}
    draw_candidate: Annotated[
        bool, setting("train on one drawn of a recaption's n candidates instead of the best")
    ] = False
    answers: Annotated[
        Literal["appended", "apart"],
        setting("specialists' answers as turns after the caption, or each as a training text of its own"),
    ] = "appended"

    @field_validator("caption_dropout")
    @classmethod
    def _names_captions(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        captions = info.data.get("captions", value)
        if unknown := [name for name in value if name not in captions]:
            raise ValueError(f"{unknown[0]} is none of the captions {', '.join(captions)}")
        return value


class AlignSettings(CaptionTrainSettings):
    """Stage 1: the fresh projector alone."""

    train: Parts = ("projector",)
    learning_rate: LearningRate = 1e-3


class PretrainSettings(Settings):
    """Stages 1 and 2, from the base vision tower and LLM with a fresh projector."""

    # What decides is not this, but the layer that is then among the data.
    filtered: Annotated[
        bool, setting("from round 1 on train on what vila2 filter --round N keeps", decides=False)
    ] = False
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
    dtype: EngineDtype = "auto"
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


class FilterSettings(Settings):
    """Which captions and images are worth training on: what is scored, and where the lines are drawn."""

    engine: EngineName = "auto"
    dtype: EngineDtype = "auto"
    batch_size: EngineBatch = 128
    scores: Annotated[
        tuple[Literal["perplexity", "text-perplexity", "similarity"], ...],
        BeforeValidator(one_is_a_list),
        setting(
            "what is computed per caption; text-perplexity is without the image, similarity by CLIP/SigLIP"
        ),
    ] = ("perplexity",)
    captions: Annotated[SomeNames, setting("caption sources joined in this order and scored as one text")] = (
        "original",
        "recaption",
    )
    prompt: Annotated[str, setting("prompt id that the caption answers (POINTS section 3.2)")] = "points-v1"
    similarity_model: Annotated[str, setting("folder or hub id of a CLIP or SigLIP model")] = ""
    language: Annotated[Language, setting("language that captions must be in, empty for any")] = ""
    max_pixels: Annotated[
        NonNegativeInt, setting("largest image decoded, in pixels; 0 for the built-in limit")
    ] = 0
    text_defects: Annotated[
        tuple[Literal["repetition", "refusal", "boilerplate", "wrong-language"], ...],
        BeforeValidator(one_is_a_list),
        setting("what makes a caption not worth training on"),
    ] = ("repetition", "refusal", "boilerplate", "wrong-language")
    min_words: Annotated[NonNegativeInt, setting("fewest words of a caption, 0 for no limit")] = 0
    max_words: Annotated[NonNegativeInt, setting("most words of a caption, 0 for no limit")] = 0
    min_similarity: Annotated[
        float, setting("lowest mean cosine of sentences and image, -1 for any", ge=-1, le=1)
    ] = -1.0
    min_sentence_similarity: Annotated[
        float, setting("lowest cosine of any one sentence and the image, -1 for any", ge=-1, le=1)
    ] = -1.0
    overlap: Annotated[
        ImageMatch, setting("how images of eval.tasks are found and dropped: as exact copies, or by their look")
    ] = "perceptual"
    duplicates: Annotated[
        ImageMatch,
        setting("how copies of an image are found; the best by rank_by is kept, of equals the first"),
    ] = "perceptual"
    max_distance: Annotated[
        NonNegativeInt, setting("signs of 195 in which the hashes of look-alikes may differ", le=15)
    ] = 7
    rank_by: Annotated[
        Literal["perplexity", "text-perplexity", "image-gain", "similarity"],
        setting("what the kept share is chosen by; image-gain is what the image takes off the text-perplexity"),
    ] = "perplexity"
    keep_share: Annotated[
        float, setting("share kept of what the other rules left (POINTS section 4.2: 0.2)", gt=0, le=1)
    ] = 0.2
    length_buckets: Annotated[
        tuple[PositiveInt, ...],
        BeforeValidator(one_is_a_list),
        setting("caption lengths in tokens at which a new bucket begins; the share is kept in each"),
    ] = ()
    max_reject_rate: Annotated[
        float, setting("share of unusable samples above which the stage fails", decides=False, ge=0, le=1)
    ] = 0.05

    @property
    def needs_model(self) -> bool:
        """Whether a vision-language model is asked for any of the scores."""
        return bool({"perplexity", "text-perplexity"} & set(self.scores))

    def scoring(self) -> dict[str, Any]:
        """The settings that decide the scores, beside the models; the others only decide what is kept."""
        names = ("scores", "captions", "max_pixels", *(("prompt",) if self.needs_model else ()))
        return {name: value for name, value in self.deciding().items() if name in names}


class EvalSettings(Settings):
    """Scoring a checkpoint on task folders."""

    tasks: Annotated[Names, setting("task folders or globs of them")] = ()
    engine: EngineName = "auto"
    dtype: EngineDtype = "auto"
    batch_size: EngineBatch = 128
    max_new_tokens: NewTokens = 96
    num_bootstrap: Annotated[PositiveInt, setting("bootstrap resamples for the 95% intervals")] = 1000
    max_reject_rate: Annotated[
        float, setting("share of unusable samples above which the stage fails", decides=False, ge=0, le=1)
    ] = 0.0


class ApiSettings(Settings):
    """The server behind engine = "api": any that speaks OpenAI's chat completions."""

    base_url: Annotated[str, setting("where it answers, up to /v1", decides=False)] = "http://127.0.0.1:8000/v1"
    model: Annotated[str, setting("the model's name at the server, empty for that of --model")] = ""
    key_env: Annotated[
        str, setting("environment variable that holds the key; servers without one ignore it", decides=False)
    ] = "OPENAI_API_KEY"
    max_in_flight: Annotated[PositiveInt, setting("requests sent and not answered yet", decides=False)] = 64
    requests_per_minute: Annotated[
        NonNegativeInt, setting("most requests sent in a minute, 0 for no limit", decides=False)
    ] = 0
    timeout_s: Annotated[float, setting("seconds to wait for one answer", decides=False, gt=0)] = 300.0
    retries: Annotated[
        NonNegativeInt,
        setting("tries after a failed one, 1 to 30 s apart; 12 outlast four minutes", decides=False),
    ] = 12
    max_tokens_total: Annotated[
        NonNegativeInt,
        setting("tokens read and written after which a command stops, 0 for no limit", decides=False),
    ] = 0
    max_dollars: Annotated[
        float, setting("price after which a command stops, 0 for no limit", decides=False, ge=0)
    ] = 0.0
    dollars_per_million_read: Annotated[
        float, setting("price of a million prompt tokens in dollars", decides=False, ge=0)
    ] = 0.0
    dollars_per_million_written: Annotated[
        float, setting("price of a million generated tokens in dollars", decides=False, ge=0)
    ] = 0.0
    logprobs: Annotated[bool, setting("ask for log-probabilities; some servers refuse", decides=False)] = True
    image_format: Annotated[
        Literal["png", "jpeg"], setting("how images are sent: png is exact, jpeg (quality 95) smaller")
    ] = "png"


class CostSettings(Settings):
    """What an hour costs, for the figures in reports."""

    dollars_per_hour: Annotated[float, setting("price of one device-hour in dollars", ge=0)] = 0.0
    device: Annotated[
        Literal["core-hours", "GPU-hours"],
        setting("unit of hours in reports, and of layers that do not say it"),
    ] = "core-hours"


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
    prompts: Annotated[
        dict[str, str], setting("prompts of your own by id; {alt_text} in one stands for the alt-text")
    ] = {}
    recaption: RecaptionSettings = RecaptionSettings()
    rewrite: RewriteSettings = RewriteSettings()
    pretrain: PretrainSettings = PretrainSettings()
    sft: SftSettings = SftSettings()
    specialists: dict[SpecialistName, SpecialistSettings] = {}
    filter: FilterSettings = FilterSettings()
    judge: JudgeSettings = JudgeSettings()
    eval: EvalSettings = EvalSettings()
    api: ApiSettings = ApiSettings()
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
