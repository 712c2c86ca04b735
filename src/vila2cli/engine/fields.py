"""Which fields of a request a server takes: some that OpenAI's protocol lacks, and not all that it has.

A server that refuses a field it can do without is asked again without it, and not sent it any more. vLLM and
SGLang take all of them, `transformers serve` and Mistral's API refuse what they do not know, OpenAI's reasoning
models take no log-probabilities, and Ollama and llama.cpp's Python server heed `max_tokens` alone.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vila2cli.errors import ModelError

_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""What `vllm serve` takes from the checkpoint's generation_config where a request does not say it."""
_LIMIT, _OLD_LIMIT = "max_completion_tokens", "max_tokens"
_WITHOUT: Mapping[str, str] = {
    **dict.fromkeys(_NEUTRAL, "where it has defaults for them, those hold"),
    "logprobs": "answers carry no log-probabilities",
    "seed": "what is drawn cannot be drawn again",
    **dict.fromkeys(("response_format", "structured_outputs"), "JSON is asked for in words alone"),
    _OLD_LIMIT: "",
    _LIMIT: "",
}
"""Fields that may be left out, and what follows from it; nothing does where another field says the same."""


class Fields:
    """The fields of requests to a server; `beyond` are those that the settings ask for beyond the protocol."""

    def __init__(self, beyond: Mapping[str, Any], *, is_openai: bool) -> None:
        self._beyond, self._is_openai = beyond, is_openai
        self._untaken: frozenset[str] = frozenset()
        self._takes_limit = False

    def of(self, body: Mapping[str, Any], untaken: Collection[str] = ()) -> dict[str, Any]:
        """A request with all that the server has not refused so far."""
        more = {} if self._is_openai else {**_NEUTRAL, _OLD_LIMIT: body[_LIMIT], **self._beyond}
        return {
            name: value
            for name, value in {**body, **more}.items()
            if name not in self._untaken and name not in untaken
        }

    def refused(self, sent: Mapping[str, Any], words: str, *, has_answered: bool) -> frozenset[str]:
        """Those among the fields sent that a refusal names and that may be left out.

        Where it names none, as LiteLLM's do, and the server has answered nothing so far, all that is beyond the
        protocol may be what it refuses. Raises ModelError where it names what the settings ask for.
        """
        could_be = set(sent) & {*_WITHOUT, *self._beyond}
        named = {name for name in could_be if re.search(rf"(?<!\w){name}(?!\w)", words)}
        if asked := [name for name in self._beyond if name in named]:
            raise ModelError(f"does not take {', '.join(asked)} as set")
        if not named and not has_answered:
            named = ({*_NEUTRAL, "logprobs"} - set(self._beyond)) & set(sent) or {_OLD_LIMIT}
        elif named & set(_NEUTRAL):
            named |= set(_NEUTRAL)
        if _OLD_LIMIT in named or _OLD_LIMIT not in sent:
            named.discard(_LIMIT)  # a limit there has to be, and "use the other one" names both
        if self._takes_limit:
            named -= {_LIMIT, _OLD_LIMIT}  # it is the number that is refused, of a prompt that is too long
        return frozenset(named & set(_WITHOUT) & set(sent))

    def learn(
        self, sent: Mapping[str, Any], untaken: Collection[str], tell: Callable[[str, str], None]
    ) -> None:
        """Leave out fields from now on, as an answer came with those `sent` alone; `tell(kind, text)` of it."""
        for follows in dict.fromkeys(map(_WITHOUT.get, _WITHOUT)):
            names = [name for name in _WITHOUT if name in untaken and _WITHOUT[name] == follows]
            if names and follows:
                tell(follows, f" takes no {', '.join(names)}; {follows}")
        self._takes_limit |= {_LIMIT, _OLD_LIMIT} <= set(sent)
        self._untaken |= frozenset(untaken)
