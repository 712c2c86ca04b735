"""Captions that are JSON by a schema: read out of an answer, checked, and written in one form."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NoReturn

from vila2cli.settings.schema import misfit
from vila2cli.text.caption_checks import CheckedCaption
from vila2cli.text.reasoning import answer_of

Defect = Literal["reasoning", "truncated", "not-json", "off-schema"]
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)


def check_json(
    text: str, schema: Mapping[str, Any], *, reached_limit: bool
) -> tuple[CheckedCaption, Defect | None]:
    """The JSON object that an answer is, in one form, and what is wrong with one that is none.

    It may stand in the only code fence of the answer or after reasoning, else with nothing around it.
    `reached_limit` tells that generation ended at max_new_tokens.
    """
    answer = answer_of(text, reached_limit=reached_limit)
    bare = answer.text.strip()
    fences = list(_FENCE.finditer(bare))
    fenced = fences[0] if len(fences) == 1 else None
    found = CheckedCaption(
        bare, was_stripped=fenced is not None or answer.has_reasoning, has_reasoning=answer.has_reasoning
    )
    if answer.is_cut:
        return replace(found, text=text.strip()), "reasoning"
    try:
        said = fenced[1] if fenced else bare
        value = json.loads(said, parse_constant=_no_number, object_pairs_hook=_without_repeats)
        written = json.dumps(value, ensure_ascii=False)
        written.encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        return found, "truncated" if reached_limit else "not-json"
    return (replace(found, text=written), None) if misfit(value, schema) is None else (found, "off-schema")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name is there twice")
    return value
