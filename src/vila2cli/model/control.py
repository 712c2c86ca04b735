"""The tokens that steer a model, and text that cannot spell one.

A caption, an alt-text, an answer or a document is data: whatever is written in it, its ids hold none of
the tokens that begin and end turns, stand for images, or are special in another way.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MARKER = re.compile(r"<\|[^<>|]{1,60}\|>|<</?[A-Z]{2,12}>>|\[/?[A-Z][A-Z_]{1,24}\]|</?[A-Za-z_][\w-]{0,40}>")
"""What templates mark turns with where it is not a token of its own, as Llama-2's [INST]."""

PUBLISHED = re.compile(
    r"<\|/?[^\W\d][\w▁ ]{0,40}\|>"  # ChatML, Llama-3, Qwen, Phi, GLM
    r"|<\|(?:turn|channel|think|image|audio|video|tool\w*)>"  # Gemma 4
    r"|<(?:turn|channel|image|audio|video|tool\w*)\|>"
    r"|<｜[^<>｜]{1,40}｜>"  # DeepSeek
    r"|</?(?:start|end)_of_(?:turn|image|audio)>|<image_soft_token>"  # Gemma
    r"|\[/?(?:INST|IMG|IMG_BREAK|IMG_END|SYSTEM_PROMPT|MODEL_SETTINGS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
    r"|TOOL_CONTENT|ARGS|CALL_ID|THINK|AUDIO|BEGIN_AUDIO)\]|<</?SYS>>"  # Mistral, Llama-2
    r"|\]~!?b[\[\]]|\[e~\[|\[\|[A-Za-z]{2,20}\|\]|</?role>|\[gMASK\]|<[se]op>"  # MiniMax, EXAONE, Ling, GLM
    r"|<seed:[a-z_]{2,20}>|<[BE]OS_TOKEN>|\[UNUSED_TOKEN_\d{1,3}\]"  # Seed, Cohere, InternLM
    r"|</?s>|<(?:bos|eos|pad|unk)>|<end_of_utterance>|<fake_token_around_image>|<global-img>|<row_\d{1,2}_col_\d{1,2}>"
    r"|</?(?:img|image|video|IMG_CONTEXT)>|<(?:im_start|im_end|im_patch)>"
)
"""What steers the models that servers run; there their tokenizers are out of reach."""

_BRACKET = re.compile(r"[<>\[\]|｜]")
"""Tells a mark from white space and words that a vocabulary was extended by."""

_OF_PROCESSORS = ("_token", "_tag")
"""Ends of the names of a processor's attributes that name what it expands."""
_TRIES = 8


class Controls:
    """The control tokens of a tokenizer, its processor and the `rendered` text of a chat template."""

    def __init__(self, processor: Any, tokenizer: Any, rendered: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        added = {int(id): token for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        names = {str(token) for token in added.values() if getattr(token, "special", False)}
        names |= {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
        names |= set(_expanded_names(processor))
        ids = {id for id, token in added.items() if str(token) in names} | set(tokenizer.all_special_ids)
        ids |= {id for name in names if (id := _id_of(tokenizer, name)) is not None}
        for text in rendered:  # marks that a template writes steer, whether they are called special or not
            written = {id for id in _ids(tokenizer, text) if id in added and _BRACKET.search(str(added[id]))}
            ids |= written
            names |= {str(added[id]) for id in written} | set(MARKER.findall(text))
        self.ids = frozenset(ids - _for_the_unknown(tokenizer))
        spelled = sorted((name for name in names if len(name.strip()) > 1), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, spelled))) if spelled else None

    def inert(self, text: str) -> str:
        """Text that spells no control token: a space stands after the first character of each."""
        return _broken(text, self._spelled) if self._spelled else text

    def at(self, text: str, start: int) -> str:
        """The control token that is spelled at a place of a text, "" for none."""
        found = self._spelled.match(text, start) if self._spelled else None
        return found[0] if found else ""

    def firm(self, text: str) -> str:
        """Text whose own ids hold no control token, also after the tokenizer has normalised it.

        Where that cannot be had, what comes nearest.
        """
        text = self.inert(text)
        for attempt in range(_TRIES):
            spans = self._spans(text)
            # tokenizers say too much of a place behind Chinese characters, where its start is not the token's
            open_up = _opened if attempt < _TRIES // 2 else " ".join
            for start, stop in reversed(spans):
                text = f"{text[:start]}{open_up(text[start:stop])}{text[stop:]}"
            if not spans:
                break
        return text

    def among(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The control ids among others, in order."""
        return tuple(id for id in ids if id in self.ids)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where in a text its control ids come from."""
        if not getattr(self._tokenizer, "is_fast", False):
            normal = unicodedata.normalize("NFKC", text)
            is_steering = bool(self.among(_ids(self._tokenizer, text)))
            spans = [match.span() for match in self._spelled.finditer(normal)] if self._spelled else []
            return spans if is_steering and len(normal) == len(text) else []
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return sorted({(start, stop) for id, (start, stop) in pairs if id in self.ids and stop > start})


def visibly_inert(text: str) -> str:
    """Text for a server, in which what is published of control tokens is spelled with a space inside."""
    return _broken(text, PUBLISHED)


def _broken(text: str, pattern: re.Pattern[str]) -> str:
    for _ in range(_TRIES):  # breaking one may leave another
        broken = pattern.sub(lambda match: _opened(match[0]), text)
        if broken == text:
            break
        text = broken
    return text


def _opened(token: str) -> str:
    """A token with a space after its first character; nothing but a space for one of a single character."""
    bare = token.lstrip()
    if len(bare.rstrip()) < 2:
        return " "
    return f"{token[: len(token) - len(bare)]}{bare[0]} {bare[1:]}"


def _expanded_names(processor: Any) -> Iterable[str]:
    """What a processor puts images in place of, or puts around them."""
    for name, value in getattr(processor, "__dict__", {}).items():
        if name.endswith(_OF_PROCESSORS) and value is not None and len(str(value).strip()) > 2:
            yield str(value)


def _id_of(tokenizer: Any, name: str) -> int | None:
    """The id of a token, None where the vocabulary has none of that name."""
    id = tokenizer.convert_tokens_to_ids(name)
    return id if isinstance(id, int) and tokenizer.convert_ids_to_tokens(id) == name else None


def _for_the_unknown(tokenizer: Any) -> set[int]:
    """The id of what the vocabulary does not have, which any text may hold, unless it means more."""
    unknown = tokenizer.unk_token_id
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return set() if unknown is None or unknown in others else {unknown}


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
