"""How the captions of a sample become one training text."""

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from vila2cli.settings.kinds import Settings, SomeNames, setting
from vila2cli.settings.shares import checked_shares


class CaptionSettings(Settings):
    """How the captions of a sample become one training text."""

    captions: Annotated[
        SomeNames, setting("caption sources joined in this order: original, or a layer's name")
    ] = ("original", "recaption")
    choose: Annotated[
        dict[str, float],
        setting(
            "in place of captions: by caption source, the share of the images that are trained on it alone, "
            "drawn anew in each epoch; a source that an image lacks leaves its share to the others",
            if_set=True,
        ),
    ] = Field(default_factory=dict)
    separator: Annotated[str, setting("text between two captions")] = "\n"
    shuffle_captions: Annotated[bool, setting("draw the order of the captions per image")] = False
    caption_dropout: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1)]],
        setting("by caption source, the share of images it is left out of where there is another"),
    ] = Field(default_factory=dict)
    draw_candidate: Annotated[
        bool, setting("train on one drawn of a recaption's n candidates instead of the best")
    ] = False

    @model_validator(mode="before")
    @classmethod
    def _one_of_the_two(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or not isinstance(tree.get("choose"), dict) or not tree["choose"]:
            return tree
        for name, what in (("captions", "joins"), ("shuffle_captions", "orders"), ("caption_dropout", "drops")):
            if tree.get(name):
                raise ValueError(
                    f"choose draws one caption of an image, and {name} {what} several; leave one of the two out"
                )
        return {**tree, "captions": tuple(map(str, tree["choose"]))}

    @field_validator("choose")
    @classmethod
    def _are_shares(cls, value: dict[str, float]) -> dict[str, float]:
        return checked_shares(value) if value else value

    @model_serializer(mode="wrap")
    def _as_read(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """What is read again as it is: with `choose` its sources are not the captions that are joined."""
        return {name: value for name, value in dump(self).items() if not self.choose or name != "captions"}

    @field_validator("caption_dropout")
    @classmethod
    def _names_captions(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        captions = info.data.get("captions", value)
        if unknown := [name for name in value if name not in captions]:
            raise ValueError(f"{unknown[0]} is none of the captions {', '.join(captions)}")
        return value
