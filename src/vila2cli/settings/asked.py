"""Settings that every table about asking a model has: what it is shown besides, how answers are drawn.

Names and meaning are those of transformers and vLLM. None of them is set by default, and what is not set
leaves no trace in a manifest.
"""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, StringConstraints, model_validator

from vila2cli.settings.kinds import Settings, one_is_a_list, setting
from vila2cli.shards.sample import IMAGE_PLACEHOLDER

_OURS = frozenset(
    {
        *("messages", "conversation", "chat_template", "tokenize", "tools", "documents"),
        *("add_generation_prompt", "continue_final_message", "return_dict", "return_tensors"),
        *("return_assistant_tokens_mask", "padding", "truncation", "max_length", "load_audio_from_video"),
        *("processor_kwargs", "tokenizer_kwargs"),
    }
)
"""What goes to a chat template otherwise."""


def _free(name: str) -> str:
    if name in _OURS:
        raise ValueError(f"{name} is no argument of a chat template that can be set here")
    return name


def _plain(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("should be true, false, a number or a string")
    return value


TemplateArguments = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$"), AfterValidator(_free)],
        Annotated[bool | int | float | str, BeforeValidator(_plain)],
    ],
    setting("arguments of the model's chat template by name, such as enable_thinking = false", if_set=True),
]


class ShownSettings(Settings):
    """What a model is shown beside the prompt and the images."""

    chat_template: TemplateArguments = Field(default_factory=dict)
    system: Annotated[str, setting("system prompt before every question, empty for none", if_set=True)] = ""
    min_pixels: Annotated[
        NonNegativeInt,
        setting(
            "models of native resolution: smaller images are scaled up to this; 0 for the model's", if_set=True
        ),
    ] = 0
    max_pixels: Annotated[
        NonNegativeInt,
        setting(
            "models of native resolution: larger images are scaled down to this; 0 for the model's", if_set=True
        ),
    ] = 0

    @model_validator(mode="after")
    def _can_be_shown(self) -> Self:
        if self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        if IMAGE_PLACEHOLDER in self.system:
            raise ValueError(
                f"system has {IMAGE_PLACEHOLDER}, the place of an image; a system prompt shows none"
            )
        return self

    def asked(self) -> "AskedSettings":
        """These alone, apart from the table they stand in."""
        shared = {name: getattr(self, name) for name in AskedSettings.model_fields if hasattr(self, name)}
        return AskedSettings(**shared)


class AskedSettings(ShownSettings):
    """What a model is shown, and how its answers are drawn and ended."""

    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(one_is_a_list),
        setting("texts that end an answer and are not part of it", if_set=True),
    ] = ()
    top_k: Annotated[
        NonNegativeInt,
        setting("sampling from the so many likeliest tokens, 0 for all; greedy answers have none", if_set=True),
    ] = 0
    min_p: Annotated[
        float,
        setting("sampling from tokens at least this share as likely as the likeliest", if_set=True, ge=0, le=1),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        setting("logits of tokens in prompt or answer are divided by this, 1 for none", if_set=True, gt=0),
    ] = 1.0

    def inputs(self) -> dict[str, Any]:
        """What of them is set, for a manifest or an annotation's sampling."""
        return self.asked().deciding()
