"""A short answer without what chat models put around it: a code fence, JSON, emphasis, quotation marks."""

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")

_FENCE = re.compile(r"```(?:\w+[^\S\n]*\n)?\s*(.*?)\s*```", re.DOTALL)
_STRONG = re.compile(r"(?<!\w)(\*\*|__)(?=\S)(.+?)(?<=\S)\1(?!\w)", re.DOTALL)
_OBJECT = re.compile(r"\{[^{}]*\}")
_KEYS = ("answer", "final_answer", "choice", "option", "label", "result", "mark", "score")
"""Under which name the answer stands where JSON was not asked for."""
_AROUND = (*('""', "''", "``", "**", "__", "“”", "‘’", "„“", "‚‘", "«»", "»«", "「」", "『』", "《》"),)


def bare(answer: str) -> str:
    """The answer inside the marks around it; emphasis is taken away wherever it stands."""
    text = unfenced(answer)
    if (found := whole_object(text)) is not None:
        names = {name.lower(): value for name, value in found.items()}
        value = next((names[name] for name in _KEYS if name in names), None)
        if isinstance(value, bool):
            return "yes" if value else "no"
        text = str(value) if isinstance(value, str | int | float) else text
    return unquoted(_STRONG.sub(r"\2", text))


def unfenced(text: str) -> str:
    """The inside of a code fence around the whole text."""
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[1] if fenced and "```" not in fenced[1] else text.strip()


def unquoted(text: str) -> str:
    """The inside of quotation marks or emphasis around the whole text."""
    text = text.strip()
    while len(text) > 2 and f"{text[0]}{text[-1]}" in _AROUND and not set(text[1:-1]) & {text[0], text[-1]}:
        text = text[1:-1].strip()
    return text


def one_object(answer: str) -> dict[str, Any] | None:
    """The JSON object that an answer is or, of flat ones, the only one in it; None for none, or several."""
    for text in (answer.strip(), *(fence[1] for fence in _only(_FENCE.finditer(answer)))):
        if (value := whole_object(text)) is not None:
            return value
    if answer.strip().startswith("["):
        return None
    return next((whole_object(text) for text in _only(_OBJECT.findall(answer))), None)


def whole_object(text: str) -> dict[str, Any] | None:
    """The JSON object that the whole text is, None for none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _only(found: Iterable[_T]) -> list[_T]:
    several = list(found)
    return several if len(several) == 1 else []
