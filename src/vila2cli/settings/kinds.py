"""What settings are made of: types with their one line of doc, and the table they stand in."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
)

Language = Literal[
    "", "en", "de", "fr", "es", "it", "pt", "nl", "ru", "el", "ar", "he", "hi", "th", "zh", "ja", "ko"
]
Origin = Literal["default", "recipe", "--set"]
Part = Literal["vision_tower", "projector", "llm", "lora"]
Check = Literal["boxes", "some-box", "text"]
"""Of a specialist's answers: every box inside the image and whole, at least one, plausible text."""


def setting(doc: str, *, decides: bool = True, if_set: bool = False, **limits: Any) -> Any:
    """A field with its one line of doc; `decides=False` marks what changes speed or limits, not output.

    One that decides `if_set` is named in a manifest only where it differs from its default.
    """
    return Field(description=doc, json_schema_extra={"decides": decides, "if_set": if_set}, **limits)


def spelled(pattern: str, says: str) -> AfterValidator:
    """Holds a text to a pattern, which an error says in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should {says}")
        return text

    return AfterValidator(check)


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
    setting("what is trained: vision_tower, projector, llm or lora; the rest is frozen", min_length=1),
]
LearningRate = Annotated[float, setting("peak learning rate, reached after warm-up", gt=0)]
NewTokens = Annotated[PositiveInt, setting("longest generated text, in tokens")]
MaxRejects = Annotated[
    float,
    setting(
        "share of samples with no good caption above which the stage fails; one alone fails it only at 0",
        decides=False,
        ge=0,
        le=1,
    ),
]
MaxUnusable = Annotated[
    float,
    setting(
        "share of unusable samples above which the stage fails; one alone fails it only at 0",
        decides=False,
        ge=0,
        le=1,
    ),
]
Temperature = Annotated[float, setting("sampling temperature, 0 for greedy", ge=0)]


def number_or(word: str, least: int = 1) -> BeforeValidator:
    """Holds a setting to a word or a whole number."""

    def check(value: Any) -> Any:
        if value == word or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
            return value
        raise ValueError(f'should be "{word}" or a number from {least} on')

    return BeforeValidator(check)


Workers = Annotated[
    Literal["auto"] | NonNegativeInt,
    number_or("auto", least=0),
    setting(
        "threads of each process that make pictures ready ahead of the model, 0 for none; auto: one for each "
        "core, shared with the processes that were started beside it",
        decides=False,
    ),
]
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
LOWER_NAME = spelled(r"[a-z][a-z0-9-]*", "begin with a small letter and have only those, digits and -")
JudgeName = Annotated[str, LOWER_NAME]
_TAKEN = ("relabel", "pretrain", "interleaved", "sft", "eval")


def _own_name(name: str) -> str:
    if name in _TAKEN or name.endswith("-relabel"):
        raise ValueError(f"{name} is the name of a stage or of other data; call the specialist something else")
    return name


SpecialistName = Annotated[str, LOWER_NAME, AfterValidator(_own_name)]


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or any(letter.isspace() or not letter.isprintable() for letter in url):
        raise ValueError("should be a web address, such as http://127.0.0.1:8000/v1")
    return url


WebAddress = Annotated[str, AfterValidator(_web_address)]


def _variable(name: str) -> str:
    if name and not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError("should be the name of an environment variable; the key is put into that")
    return name


VariableName = Annotated[str, AfterValidator(_variable)]


class Settings(BaseModel):
    """One table of a recipe: frozen, and strict about types and unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the output, as JSON values: what belongs in a manifest."""
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra, value = field.json_schema_extra, getattr(self, name)
            if isinstance(extra, dict) and (
                extra.get("decides") is False
                or (extra.get("if_set") and value == field.get_default(call_default_factory=True))
            ):
                values.pop(name, None)
            elif isinstance(value, Settings):
                values[name] = value.deciding()
        return values
