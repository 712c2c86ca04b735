"""Tables of a recipe about models, data and training."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

from vila2cli.files import BOMB_PIXELS, DEFAULT_DRAFT, DEFAULT_MAX_PIXELS
from vila2cli.settings.asked import AskedSettings, TemplateArguments
from vila2cli.settings.captions import CaptionSettings
from vila2cli.settings.kinds import (
    Check,
    LearningRate,
    MaxUnusable,
    Names,
    NewTokens,
    Part,
    Parts,
    Settings,
    SomeNames,
    one_is_a_list,
    setting,
)
from vila2cli.settings.trainer import SourceSettings


class DataSettings(Settings):
    """Shard specs: globs, {000..010} ranges, folders or layer folders."""

    pretrain: Annotated[Names, setting("image-caption shards, the ones that are recaptioned")] = ()
    interleaved: Annotated[Names, setting("web documents with images, never recaptioned")] = ()
    text: Annotated[Names, setting("text-only instruction shards blended into SFT")] = ()
    sft: Annotated[Names, setting("visual instruction shards")] = ()
    max_pixels: Annotated[
        PositiveInt,
        setting("images of more pixels are scaled down to this, in every stage alike", le=BOMB_PIXELS),
    ] = DEFAULT_MAX_PIXELS
    draft: Annotated[
        float,
        setting(
            "JPEGs are decoded at a half, a quarter or an eighth of their size where that is at least so many "
            "times what the model's image processor makes of them, and scaled by PyTorch, which rounds one "
            "level of 100 otherwise than Pillow; 0 for neither",
            ge=0,
        ),
    ] = DEFAULT_DRAFT
    compress_layers: Annotated[
        bool,
        setting(
            "write layers as .tar.gz, what annotations have in common said once; false: .tar, each in full",
            decides=False,
        ),
    ] = True

    _begun_with: float | None = PrivateAttr(None)

    @property
    def drafts_by_default(self) -> bool:
        """Whether `draft` is nobody's choice."""
        return self.draft in (DEFAULT_DRAFT, self._begun_with)

    @property
    def drafts_as_begun(self) -> bool:
        """Whether `draft` is another version's default, which a folder was begun with."""
        return self.draft == self._begun_with != DEFAULT_DRAFT

    def as_begun(self, draft: float) -> Self:
        """These settings with another version's default of `draft`, of which manifests say nothing either."""
        made = self.model_copy(update={"draft": draft})
        made._begun_with = draft
        return made

    def limits(self) -> dict[str, float]:
        """What a manifest says of how images are decoded: nothing of the defaults."""
        return {
            **({} if self.max_pixels == DEFAULT_MAX_PIXELS else {"max_pixels": self.max_pixels}),
            **({} if self.drafts_by_default else {"draft": self.draft}),
        }


class LoraSettings(Settings):
    """Low-rank adapters on the LLM, for stages that train the part "lora" (VILA table 9: rank 64)."""

    rank: Annotated[PositiveInt, setting("rank of the adapters")] = 64
    alpha: Annotated[float, setting("scale of the adapters, alpha / rank (not in the paper)", gt=0)] = 128.0
    targets: Annotated[
        SomeNames, setting("linear layers of the LLM that get one, by the end of their name")
    ] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


class TrainSettings(Settings):
    """One training stage on one source: what is trained, on how much, how fast."""

    train: Parts = ("projector", "llm")
    learning_rate: LearningRate = 5e-5
    part_learning_rates: Annotated[
        dict[Part, LearningRate], setting("peak learning rates of single parts that differ from learning_rate")
    ] = Field(default_factory=dict)
    lora: LoraSettings = LoraSettings()
    epochs: Annotated[float, setting("passes over the data; 0.5 is half of it", gt=0, le=1e6)] = 1.0
    batch_size: Annotated[PositiveInt, setting("samples per optimizer step, over all processes")] = 64
    micro_batch_size: Annotated[
        NonNegativeInt,
        setting("samples, or packed sequences, per forward pass; 0 for the whole batch", decides=False),
    ] = 0
    packing: Annotated[
        bool,
        setting("join the samples of a step into few full sequences that do not see each other", decides=False),
    ] = False
    pack_length: Annotated[
        NonNegativeInt, setting("tokens of a packed sequence, 0 for max_length", decides=False)
    ] = 0
    pack_images: Annotated[
        NonNegativeInt,
        setting("images of a packed sequence, each tile of one counted; 0 for any number", decides=False),
    ] = 0
    max_samples: Annotated[NonNegativeInt, setting("the first so many samples of each source, 0 for all")] = 0
    max_length: Annotated[PositiveInt, setting("longest sequence in tokens, images included")] = 2048
    warmup_ratio: Annotated[float, setting("share of the steps spent warming up", ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, setting("AdamW weight decay", ge=0)] = 0.0
    max_grad_norm: Annotated[float, setting("gradient norm above which it is clipped", gt=0)] = 1.0
    max_reject_rate: MaxUnusable = 0.05
    chat_template: TemplateArguments = Field(default_factory=dict)
    cache_features: Annotated[
        bool, setting("keep the frozen vision tower's features in memory between epochs", decides=False)
    ] = False

    @field_validator("train")
    @classmethod
    def _trains_the_llm_once(cls, value: tuple[Part, ...]) -> tuple[Part, ...]:
        if {"llm", "lora"} <= set(value):
            raise ValueError("lora trains adapters in place of the llm; name one of the two")
        return value

    def blend(self) -> tuple[Mapping[str, SourceSettings], float]:
        """What is set of single sources, and the share of text; nothing where there is one source."""
        return {}, 0.0


class BlendSettings(TrainSettings):
    """A training stage on several sources together."""

    mixture: Annotated[dict[str, SourceSettings], setting("by source")] = Field(default_factory=dict)
    text_share: Annotated[
        float, setting("share of a pass's tokens from sources without images, 0 for as it comes", ge=0, lt=1)
    ] = 0.0

    def blend(self) -> tuple[Mapping[str, SourceSettings], float]:
        return self.mixture, self.text_share


class AlignSettings(CaptionSettings, TrainSettings):
    """Stage 1: the fresh projector alone."""

    train: Parts = ("projector",)
    learning_rate: LearningRate = 1e-3


class MainSettings(CaptionSettings, BlendSettings):
    """Stage 2: projector and LLM."""

    answers: Annotated[
        Literal["appended", "apart"],
        setting("specialists' answers as turns after the caption, or each as a training text of its own"),
    ] = "appended"


class PretrainSettings(Settings):
    """Stages 1 and 2, from the base vision tower and LLM with a fresh projector, or from a `model`."""

    model: Annotated[
        str,
        setting(
            "folder or hub id of a vision-language checkpoint from which every round continues pretraining, "
            "empty to start from the bases with a new projector",
            if_set=True,
        ),
    ] = ""
    realign: Annotated[
        bool, setting("train stage 1 also where pretraining continues from a model", if_set=True)
    ] = False

    # What decides is not this, but the layer that is then among the data.
    filtered: Annotated[
        bool, setting("from round 1 on train on what vila2 filter --round N keeps", decides=False)
    ] = False
    align: AlignSettings = AlignSettings()
    main: MainSettings = MainSettings()

    @model_validator(mode="after")
    def _realigns_a_model(self) -> "PretrainSettings":
        if self.realign and not self.model:
            raise ValueError(
                "realign is for a pretraining that continues from a model; name one, or leave it out"
            )
        return self

    @property
    def phases(self) -> Mapping[str, "AlignSettings | MainSettings"]:
        """The stages that are trained, by name: a projector that a model brings along is aligned already."""
        is_aligned = self.model and not self.realign
        return {**({} if is_aligned else {"align": self.align}), "main": self.main}

    def deciding(self) -> dict[str, Any]:
        values = super().deciding()
        return {name: value for name, value in values.items() if name != "align" or name in self.phases}


class SftSettings(BlendSettings):
    """Stage 3: instruction tuning on data.sft, with data.text blended in (VILA section 4)."""

    train: Parts = ("vision_tower", "projector", "llm")
    learning_rate: LearningRate = 2e-5


class SpecialistSettings(AskedSettings, TrainSettings):
    """A specialist: trained on its task, then asked about the pretraining images (VILA^2 section 2.2)."""

    train: Parts = ("vision_tower", "projector", "llm")
    learning_rate: LearningRate = 2e-5
    data: Annotated[SomeNames, setting("task shards the specialist is trained on")]
    prompts: Annotated[SomeNames, setting("prompt ids for relabelling; one is drawn per image")]
    questions: Annotated[str, setting("question pool its answers are filed under in pretraining")]
    max_new_tokens: NewTokens = 128
    checks: Annotated[
        tuple[Check, ...],
        BeforeValidator(one_is_a_list),
        setting("rules an answer keeps or is left out by: boxes in the image, some-box at all, plausible text"),
    ] = ("boxes", "text")
    relabel_share: Annotated[
        float, setting("share of the images the specialist labels, 0 to 1", gt=0, le=1)
    ] = 1.0


class SpecializeSettings(Settings):
    """What holds for all specialists."""

    lora: Annotated[
        bool,
        setting("train specialists as LoRA adapters of one model, which are asked in one pass", decides=False),
    ] = False


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
