"""The chat template of a model that is built from an LLM, whose own may have no place for images."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError

from vila2cli.errors import DataWarning
from vila2cli.model.templates import CHATML, LLAMA3, VICUNA

_FAMILIES = {"<|start_header_id|>": ("Llama 3", LLAMA3), "<|im_start|>": ("ChatML", CHATML)}
_ASKED = {"role": "user", "content": "A question."}
_TALK = [_ASKED, {"role": "assistant", "content": "An answer."}, _ASKED]
_OTHERS_SYSTEM = "Some rules."
_DATE = "26 Jul 2024"
"""What Llama 3's templates write where nobody tells them the day, so that two builds are alike."""


def image_template(tokenizer: Any, llm: str = "", image: str = "<image>") -> str:
    """The tokenizer's own template if it renders image parts as `image`, else the one of its family.

    That begins with the system prompt that the tokenizer's own writes where a conversation has none. Warns
    that `llm` has no template, or that it is replaced, and whether texts look otherwise for it.
    """
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if isinstance(own, str) and "'image'" in own and image in own:
        return own
    vocabulary = tokenizer.get_vocab()
    known = (found for token, found in _FAMILIES.items() if token in vocabulary)
    family, template = next(known, ("Vicuna", VICUNA))
    template = template.replace("<image>", image)
    if not isinstance(own, str):
        text = f"base.llm {llm}: it has no chat template, so that of {family} is written with the checkpoint"
        warnings.warn(text, DataWarning, stacklevel=2)
        return template
    wanted = _rendered(tokenizer, own, _TALK)
    for one in _with_system(tokenizer, template, wanted):
        if _rendered(tokenizer, one, _TALK) == wanted:
            template = one
    is_same = wanted is not None and _rendered(tokenizer, template, _TALK) == wanted
    warnings.warn(
        f"base.llm {llm}: its chat template has no place for images, so that of {family} is used in its stead"
        + ("" if is_same else "; turns look otherwise in it than the LLM has learned them"),
        DataWarning,
        stacklevel=2,
    )
    return template


def _with_system(tokenizer: Any, template: str, wanted: str | None) -> Iterator[str]:
    """A template that first writes the system prompt with which `wanted` begins, if there is one."""
    others = _rendered(tokenizer, template, [{"role": "system", "content": _OTHERS_SYSTEM}, *_TALK])
    plain = _rendered(tokenizer, template, _TALK)
    if not (wanted and others and plain):
        return
    begin = tokenizer.bos_token if template.startswith("{{ bos_token }}") else ""
    before, _, after = others.partition(_OTHERS_SYSTEM)
    ending = after.removesuffix(plain.removeprefix(begin))
    if wanted.startswith(before) and ending and ending in wanted[len(before) :]:
        system = wanted[len(before) :].partition(ending)[0]
        written = json.dumps(f"{before.removeprefix(begin)}{system}{ending}")
        first = f"{{% if messages[0]['role'] != 'system' %}}{{{{ {written} }}}}{{% endif %}}"
        head = "{{ bos_token }}" if begin else ""
        yield head + first + template.removeprefix(head)


def _rendered(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> str | None:
    """A conversation in a template, up to the next answer; None where it refuses it."""
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True, date_string=_DATE
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None
    return str(text)
