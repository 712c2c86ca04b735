"""A short answer without what chat models put around it: a code fence, JSON, emphasis, quotation marks."""

import json
import re
from typing import Any

_FENCE = re.compile(r"```(?:\w+[^\S\n]*\n)?\s*(.*?)\s*```", re.DOTALL)
_STRONG = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_OBJECT = re.compile(r"\{[^{}]*\}")
_KEYS = ("answer", "final_answer", "choice", "option", "label", "result", "mark", "score")
"""Under which name the answer stands where JSON was not asked for."""
_AROUND = (*('""', "''", "``", "**", "__", "“”", "‘’", "„“", "‚‘", "«»", "»«", "「」", "『』", "《》"),)


def bare(answer: str) -> str:
    """The answer inside the marks around it; emphasis is taken away wherever it stands."""
    text = unfenced(answer)
    if text.startswith("{") and (found := one_object(text)) is not None:
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
    for found in ([answer.strip()], _OBJECT.findall(answer)):
        try:
            (text,) = found
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    return None
