"""What a checkpoint allows, read the same way by every engine that loads one."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from vila2cli.engine import AnyRequest, Failure, Request, Result, ScoreRequest
from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.model.chat import Chat
from vila2cli.model.checkpoint import read_config
from vila2cli.model.layers import layers_of
from vila2cli.model.loading import LOAD_ERRORS
from vila2cli.model.saving import with_ends
from vila2cli.settings import AskedSettings

_OF_GREEDY: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "watermarking_config": None,
    "stop_strings": None,
    "num_beams": 1,
}
"""What of a generation config changes greedy answers, and under which value it does not."""
MAX_LINE = 240
"""Characters of what an engine says of one request."""


def eos_token_ids(known: Any, chat: Chat) -> list[int]:
    """Every token that ends an answer: of the checkpoint's generation config, template and tokenizer."""
    stated = [] if known is None else known if isinstance(known, list) else [known]
    if odd := [one for one in stated if isinstance(one, bool) or not isinstance(one, int)]:
        raise ModelError(f"the checkpoint's end token {odd[0]!r} is no id; correct its generation_config.json")
    ids = with_ends(stated, chat.end_ids)
    if not ids:
        raise ModelError("the checkpoint names no end token; set eos_token_id in its generation_config.json")
    return sorted(ids)


def stated_ends(folder: Path, config: Any) -> Any:
    """What a checkpoint states of end tokens, apart from its tokenizer; raises ModelError."""
    try:
        if not (folder / "generation_config.json").is_file():
            return GenerationConfig.from_model_config(config).eos_token_id  # be it beside those of its LLM
        return GenerationConfig.from_pretrained(folder).eos_token_id
    except LOAD_ERRORS as error:
        raise ModelError(f"generation_config.json of {folder} cannot be read: {one_line(error)}") from None


def unheeded(folder: Path, asked: AskedSettings) -> str:
    """What a checkpoint's generation config says of greedy answers that is not heeded, "" for nothing."""
    path = folder / "generation_config.json"
    stated = read_config(path) if path.is_file() else {}
    names = [name for name, none in _OF_GREEDY.items() if stated.get(name) not in (none, None, [], {})]
    if asked.repetition_penalty != 1:
        names = [name for name in names if name != "repetition_penalty"]
    if not names:
        return ""
    can = "; repetition_penalty can be set in the stage's table" if "repetition_penalty" in names else ""
    what = f"not heeded of generation_config.json, as the recipe says how answers are drawn: {', '.join(names)}"
    return what + can


def cache_bytes_per_token(config: Any, itemsize: int) -> int:
    """Keys and values that a checkpoint's language model keeps for one token, in bytes."""
    return 2 * itemsize * sum(layer.kv_heads * layer.head_dim for layer in layers_of(config))


def in_fewer_tiles(chat: Chat, request: AnyRequest, context: int, notes: list[str]) -> tuple[AnyRequest, bool]:
    """A request with its pictures in so few tiles that its prompt fits the context; and whether it is another.

    With room for the whole answer if there can be, else for a part of it; what cannot fit stays as it is. An
    engine's `notes` tell of it, once.
    """
    if not request.images or not chat.pictures.limits:
        return request, False
    if isinstance(request, ScoreRequest):
        num_tokens, num_new = len(chat.scored_ids(request.messages, request.images, request.text)[0]), 1
    else:
        num_tokens, num_new = len(chat.prompt_ids(request.messages, request.images)), request.max_new_tokens
    if num_tokens < context or chat.whole:
        return request, False
    excess = num_tokens - context
    find = chat.pictures.in_fewer_tiles
    shown = find(request.images, excess + num_new) or find(request.images, excess + 1)
    if shown is None:
        return request, False
    note = f"prompts of more than {context:,} tokens, the context, have their pictures shown in fewer tiles"
    if note not in notes:
        notes.append(note)
    return replace(request, images=tuple(shown)), True


def room_for_answer(context: int, num_prompt: int, num_images: int) -> int:
    """Tokens that a prompt leaves for its answer; raises DataError where that is none."""
    if num_prompt < context:
        return context - num_prompt
    if num_images < 2:
        raise DataError(f"prompt of {num_prompt} tokens does not fit the context of {context}")
    raise DataError(
        f"prompt of {num_prompt} tokens with {num_images} images does not fit the context of {context}; take "
        "fewer shots (eval.num_shots), smaller images, or a model with a longer context"
    )


def scored_ids(
    chat: Chat, request: ScoreRequest, context: int, *, expand: bool = True
) -> tuple[list[int], int]:
    """The ids of prompt and text, and how many of them are the text's.

    `expand` is that of `Chat.prompt_ids`; the length is checked on expanded ids either way, with
    room for one end token. Raises DataError for a text without tokens, or one that does not fit.
    """
    ids, num_text = chat.scored_ids(request.messages, request.images, request.text)
    if len(ids) >= context:
        raise DataError(f"prompt and text of {len(ids)} tokens do not fit the context of {context}")
    if not expand:
        ids, _ = chat.scored_ids(request.messages, request.images, request.text, expand=False)
    return ids, num_text


def answered(request: Request, **figures: Any) -> Result:
    """A result, or a failed one where the model's numbers overflowed: its text is noise then."""
    logprob = figures.get("logprob_mean")
    if logprob is not None and not math.isfinite(logprob):
        return failed(request, f"the model gives log-probabilities that are no numbers ({logprob})")
    return Result(id=request.id, **figures)


def failed(request: AnyRequest, error: str, failure: Failure = "request") -> Result:
    """The result of a request that the model cannot take, or that was not answered for another reason."""
    return Result(id=request.id, finish_reason="error", error=error, failure=failure)
