"""The recipe: typed, frozen settings with unit and default, one class per table.

recipe reads TOML and `--set`; kinds is what settings are made of; base, training, captions, trainer, writing,
asking, layers, machine, soup and slurm hold the tables, and this module the recipe that joins them. Read kinds,
then training.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, NonNegativeInt, PositiveInt, PrivateAttr, model_validator

from vila2cli.settings.asked import AskedSettings, ShownSettings
from vila2cli.settings.asking import (
    ApiSettings,
    CostSettings,
    EvalSettings,
    FilterSettings,
    JudgeModelSettings,
    JudgeSettings,
)
from vila2cli.settings.base import BaseSettings, TilesSettings
from vila2cli.settings.captions import CaptionSettings
from vila2cli.settings.kinds import (
    JudgeName,
    Language,
    Origin,
    Part,
    Settings,
    SpecialistName,
    Workers,
    setting,
    spelled,
)
from vila2cli.settings.layers import RECAPTION, REWRITE, CaptionLayerSettings, LayerName
from vila2cli.settings.machine import AskingStage, MachineSettings, StageMachineSettings
from vila2cli.settings.slurm import Line, SlurmSettings
from vila2cli.settings.soup import SoupSettings
from vila2cli.settings.trainer import SourceSettings, TrainerSettings
from vila2cli.settings.training import (
    DataSettings,
    LoraSettings,
    MainSettings,
    PretrainSettings,
    SftSettings,
    SpecialistSettings,
    SpecializeSettings,
    TrainSettings,
    WorldSettings,
)
from vila2cli.settings.writing import RecaptionSettings, RewriteSettings, WritingSettings

__all__ = [
    "ApiSettings",
    "AskedSettings",
    "AskingStage",
    "BaseSettings",
    "CaptionLayerSettings",
    "CaptionSettings",
    "CostSettings",
    "EvalSettings",
    "FilterSettings",
    "JudgeModelSettings",
    "JudgeSettings",
    "Language",
    "LoraSettings",
    "MachineSettings",
    "MainSettings",
    "Origin",
    "Part",
    "RecaptionSettings",
    "Recipe",
    "Settings",
    "ShownSettings",
    "SourceSettings",
    "SpecialistSettings",
    "TilesSettings",
    "TrainSettings",
    "TrainerSettings",
    "Workers",
    "WorldSettings",
    "WritingSettings",
    "describe",
    "type_name",
]


class Recipe(Settings):
    """All settings of a run."""

    name: Annotated[
        str,
        spelled(
            r"[A-Za-z0-9][\w.-]*",
            "begin with one of a-z, A-Z, 0-9 and have only letters, digits, ., _ and -",
        ),
        setting("run name"),
    ] = "run"
    seed: Annotated[NonNegativeInt, setting("seed of training order, sampling and projectors", lt=2**63)] = 0
    rounds: Annotated[PositiveInt, setting("self-augmentation rounds after round 0")] = 3
    runs_dir: Annotated[Line, setting("folder that holds the run folders", decides=False)] = "runs"
    base: BaseSettings = BaseSettings()
    data: DataSettings = DataSettings()
    prompts: Annotated[
        dict[str, str],
        setting(
            "prompts of your own by id; {alt_text} in one stands for the alt-text, in one of a caption layer "
            "{layer:NAME} for another layer's caption and {meta:FIELD} for a field of the metadata"
        ),
    ] = Field(default_factory=dict)
    recaption: RecaptionSettings = RecaptionSettings()
    captions: dict[LayerName, CaptionLayerSettings] = Field(default_factory=dict)
    rewrite: RewriteSettings = RewriteSettings()
    pretrain: PretrainSettings = PretrainSettings()
    sft: SftSettings = SftSettings()
    specialize: SpecializeSettings = SpecializeSettings()
    specialists: dict[SpecialistName, SpecialistSettings] = Field(default_factory=dict)
    soup: SoupSettings = SoupSettings()
    filter: FilterSettings = FilterSettings()
    judge: JudgeSettings = JudgeSettings()
    judges: dict[JudgeName, JudgeModelSettings] = Field(default_factory=dict)
    eval: EvalSettings = EvalSettings()
    engine: MachineSettings = MachineSettings()
    engines: dict[AskingStage, StageMachineSettings] = Field(default_factory=dict)
    api: ApiSettings = ApiSettings()
    cost: CostSettings = CostSettings()
    slurm: SlurmSettings = SlurmSettings()
    trainer: TrainerSettings = TrainerSettings()
    world: WorldSettings = WorldSettings()

    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)
    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _trains_adapters(cls, tree: dict[str, Any]) -> dict[str, Any]:
        """`specialize.lora` is the `train` of every specialist."""
        shared, specialists = tree.get("specialize"), tree.get("specialists")
        if not (isinstance(shared, dict) and shared.get("lora") is True and isinstance(specialists, dict)):
            return tree
        own = {name: table for name, table in specialists.items() if isinstance(table, dict)}
        if odd := [name for name, table in own.items() if table.get("train", "lora") not in ("lora", ["lora"])]:
            raise ValueError(
                f"specialize.lora trains adapters alone, and specialists.{odd[0]}.train names other parts; "
                "leave one of the two out"
            )
        adapted = {name: {**table, "train": ["lora"]} for name, table in own.items()}
        return {**tree, "specialists": {**specialists, **adapted}}

    @model_validator(mode="after")
    def _names_layers_apart(self) -> "Recipe":
        if both := sorted(self.captions.keys() & self.specialists.keys()):
            raise ValueError(f"captions.{both[0]} and specialists.{both[0]} would write layers of one name")
        return self

    @property
    def caption_layers(self) -> tuple[str, ...]:
        """The caption layers that a round writes in one pass."""
        return (RECAPTION, *self.captions)

    def captions_named(self) -> frozenset[str]:
        """The captions that a training or a filter of the run takes, by name."""
        named = tuple(name for phase in self.pretrain.phases.values() for name in phase.captions)
        named += self.filter.captions if self.pretrain.filtered else ()
        return frozenset(name.partition("@")[0] for name in named)

    @property
    def rewrites(self) -> bool:
        """Whether a round merges its captions, because its training takes the merged ones."""
        return REWRITE in self.captions_named()

    def captions_of(self, layer: str) -> RecaptionSettings:
        """How a caption layer is written: as [captions.NAME] says, and as [recaption] where it does not."""
        own = self.captions.get(layer)
        return self.recaption if own is None else own.over(self.recaption)

    def engine_of(self, stage: AskingStage) -> MachineSettings:
        """The table [engine] with what [engines.STAGE] sets in its place."""
        own = self.engines.get(stage)
        return self.engine if own is None else own.over(self.engine)

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

    `specialists.NAME.*` and `slurm.options.KEY` stand for keys of the user's choosing; a required key
    has the default "required".
    """
    for name, field in model.model_fields.items():
        if name in getattr(model, "not_own", ()):
            continue
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
            default = getattr(model, "unset_is", default)
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
    names: dict[Any, str] = {
        Any: "any value",
        str: "string",
        int: "integer",
        bool: "true | false",
        float: "float",
    }
    return names.get(kind, "any value")
