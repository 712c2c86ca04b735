"""Parsing what a chat server sent. Nothing in it is trusted: neither its types nor its numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2cli.engine import FinishReason

MAX_TOKENS = 10**9
"""No prompt or answer is longer; a server that says so cannot count."""

_ENDED: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


class Malformed(Exception):
    """An answer came with status 200, and what it says cannot be."""


class Withheld(Exception):
    """A reply came without an answer: the model refused, or a filter ended it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that a request took."""

    num_read: int
    num_written: int


NOTHING = Usage(0, 0)


@dataclass(frozen=True, slots=True)
class Completion:
    """The text of one choice; `logprob_mean` in nats per token where the server sent them."""

    text: str
    finish_reason: FinishReason
    num_logprobs: int
    logprob_mean: float | None


def problem_of(body: object) -> str:
    """Why what came with status 200 is no answer, empty when it may be one."""
    if isinstance(body, str):
        return f"it sent no JSON but {body!r}"
    if not isinstance(body, Mapping):
        return f"it sent no JSON object but {body}"
    error = body.get("error")
    if error and not body.get("choices"):
        text = error.get("message") if isinstance(error, Mapping) else error
        return f"it sent an error: {text}"
    return ""


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """The tokens read and written; None from a server that does not say, Malformed for what cannot be."""
    usage = body.get("usage")
    if usage is None:
        return None
    if not isinstance(usage, Mapping):
        raise Malformed(f"its usage is {usage!r}")
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return Usage(*(_count(count, f"its usage has {name} = {count!r}") for name, count in counts.items()))


def _count(value: object, what: str) -> int:
    """A number of tokens; raises Malformed, saying what there is, for what is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
        return value
    raise Malformed(what)


def answer_of(body: Mapping[str, Any]) -> Completion:
    """The first choice; raises Withheld where it holds no answer, Malformed where it cannot be read."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    choice = choice if isinstance(choice, Mapping) else {}
    message, ended = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, Mapping) or not isinstance(ended, str) or ended not in _ENDED:
        raise Withheld(f"the server ended the answer with {ended}")
    if refusal := message.get("refusal"):
        raise Withheld(f"the model refused: {refusal}")
    logprobs = _logprobs(choice.get("logprobs"))
    mean = math.fsum(logprobs) / len(logprobs) if logprobs else None
    return Completion(_text(message.get("content")), _ENDED[ended], len(logprobs), mean)


def _text(content: object) -> str:
    """The text of a message; of one in parts, as some servers send reasoning and answer, its texts alone."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    named = [part if isinstance(part, Mapping) else {} for part in parts]
    texts = [part.get("text") for part in named if part.get("type", "text") in ("text", "output_text")]
    if not all(isinstance(text, str) for text in texts):
        raise Malformed(f"its content is {content!r}")
    return "".join(map(str, texts))


def _logprobs(value: object) -> list[float]:
    if value is None:
        return []
    tokens = value.get("content") if isinstance(value, Mapping) else value
    if tokens is None:
        return []
    if not isinstance(tokens, list):
        raise Malformed(f"its logprobs are {value!r}")
    return [_logprob(token) for token in tokens]


def _logprob(token: object) -> float:
    value = token.get("logprob") if isinstance(token, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(f"a token has the log-probability {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise Malformed("a token has a log-probability that is not a number") from None


def prompt_logprobs_of(body: Mapping[str, Any], num_tokens: int) -> tuple[float, ...] | None:
    """Those of the last tokens of the prompt as vLLM's server gives them, None where a server gives none."""
    logprobs = body.get("prompt_logprobs")
    if not logprobs:
        return None
    if not isinstance(logprobs, Sequence) or isinstance(logprobs, str) or len(logprobs) < num_tokens:
        raise Malformed("its prompt_logprobs are not one for each token")
    return tuple(
        _logprob(next(iter(token.values()), None)) if isinstance(token, Mapping) else _logprob(token)
        for token in logprobs[-num_tokens:]
    )


def token_count_of(body: object) -> int:
    """What /tokenize answers."""
    count = body.get("count") if isinstance(body, Mapping) else None
    return _count(count, f"its /tokenize counts {count!r} tokens")
