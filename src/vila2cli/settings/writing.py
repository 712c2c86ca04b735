"""Tables of a recipe about writing captions: new ones, and merged ones."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, model_serializer, model_validator

from vila2cli.settings.asked import AskedSettings
from vila2cli.settings.kinds import (
    EngineBatch,
    EngineDtype,
    EngineName,
    Language,
    MaxRejects,
    NewTokens,
    SomeNames,
    Temperature,
    one_is_a_list,
    setting,
)


class WritingSettings(AskedSettings):
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


class RewriteSettings(WritingSettings):
    """Merging alt-text and recaption with a language model, as CapsFusion does (POINTS section 3.1).

    Each round does so whose pretraining takes captions by the name of `rewrite`.
    """

    not_own: ClassVar[frozenset[str]] = frozenset(("min_pixels", "max_pixels"))
    model: Annotated[
        str,
        setting(
            "folder or hub id of the language model, empty for the model of the round before", decides=False
        ),
    ] = ""
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

    @model_validator(mode="after")
    def _shows_no_image(self) -> Self:
        if bounds := [name for name in self.not_own if getattr(self, name)]:
            raise ValueError(f"{min(bounds)} is about images, and a rewriter is shown none; leave it out")
        return self

    @model_serializer(mode="wrap")
    def _own(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name not in self.not_own}
