"""The tables [captions.NAME]: caption layers beside that of [recaption], written in one pass with it."""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from vila2cli.settings.asked import AskedSettings
from vila2cli.settings.kinds import Settings, setting
from vila2cli.settings.schema import checked_schema
from vila2cli.settings.writing import RecaptionSettings

RECAPTION = "recaption"
"""The name of the caption layer whose settings are those of [recaption]."""
REWRITE: Final = "rewrite"
"""The name of the layer of merged captions."""
_TAKEN = (
    "original",
    "rewrite",
    "filter",
    "judge",
    "eval",
    "relabel",
    "pretrain",
    "interleaved",
    "sft",
    "world",
    *("key", "shard", "url", "image", "image_sha256", "meta"),  # columns of exports
)
_OF_PROSE = ("language", "min_words", "max_words", "fallback")


def own_layer(name: str) -> str:
    """A name that a caption layer may have; raises ValueError for one that means something else."""
    if name in _TAKEN:
        raise ValueError(
            f"{name} is the name of a stage or of other data; call the caption layer something else"
        )
    return name


def check_layer_name(name: str) -> None:
    """Raise ValueError for what cannot be the name of a caption layer."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name):
        raise ValueError("a caption layer is named with small letters, digits, - and _, a letter first")
    own_layer(name)


def _beside_recaption(name: str) -> str:
    if name == RECAPTION:
        raise ValueError(
            "the settings of the layer recaption are those of the table [recaption]; set them there"
        )
    check_layer_name(name)
    return name


LayerName = Annotated[str, AfterValidator(_beside_recaption)]


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "schema"')  # of pydantic's own, which is deprecated

    class LayerSettings(RecaptionSettings):
        """How one caption layer is written."""

        schema: Annotated[
            dict[str, Any],
            setting(
                "JSON schema of type object that the captions keep to, as tags and attributes; {} for prose",
                if_set=True,
            ),
        ] = Field(default_factory=dict)  # type: ignore[assignment]

        @field_validator("schema")
        @classmethod
        def _is_taken(cls, value: dict[str, Any]) -> dict[str, Any]:
            return checked_schema(value) if value else value


class CaptionLayerSettings(LayerSettings):
    """One table [captions.NAME]; what is not set in it is as in [recaption]."""

    unset_is: ClassVar[str] = "that of [recaption]"
    not_own: ClassVar[frozenset[str]] = frozenset(
        (*AskedSettings.model_fields, "engine", "dtype", "batch_size")
    )

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        own = self.model_fields_set
        if shared := sorted(own & self.not_own):
            raise ValueError(
                f"{shared[0]} is that of [recaption], whose engine writes all caption layers; set it there"
            )
        if self.schema and (prose := [name for name in _OF_PROSE if name in own]):
            raise ValueError(
                f"{prose[0]} is for prose, and captions by a schema are JSON; leave one of the two out"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_set(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}

    def over(self, table: RecaptionSettings) -> LayerSettings:
        """These settings where they were set, those of [recaption] elsewhere; JSON is no prose."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        prose = {"language": "", "min_words": 0, "max_words": 0, "fallback": "none"} if self.schema else {}
        return LayerSettings.model_validate({**_plain(table), **prose, **own})


def _plain(table: Settings) -> Mapping[str, Any]:
    return {name: getattr(table, name) for name in type(table).model_fields}
