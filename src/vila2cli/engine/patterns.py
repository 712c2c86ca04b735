"""A JSON schema as a pattern of JSON without white space.

A server that holds answers to a schema lets white space stand anywhere in them, and a model may write nothing
else then until it is cut. vLLM has a setting against that for a server that is started, none for a request.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from vila2cli.errors import DataError

_CHARACTER = r'([^"\\\x00-\x1f]|\\["\\/bfnrt])'
_PLAIN = {"boolean": "(true|false)", "integer": "-?(0|[1-9][0-9]*)", "number": r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"}


def schema_fields(schema: Mapping[str, Any] | None, structured: str) -> dict[str, Any]:
    """How a server is told of a schema in a request, by `api.structured`; {} where it is not."""
    if schema is None or structured == "none":
        return {}
    if structured == "vllm":  # in its own words, without white space
        return {"structured_outputs": {"regex": compact_pattern(schema)}}
    if structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": "answer", "strict": True, "schema": dict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def compact_pattern(schema: Mapping[str, Any]) -> str:
    """The regular expression of a schema made of objects, lists, choices, texts, numbers, true and false.

    Bounds of numbers are not in it. Raises DataError for what else a schema may say.
    """
    if "enum" in schema:
        return "(" + "|".join(_literal(value) for value in schema["enum"]) + ")"
    if schema.get("type") == "object" and list(schema.get("required", ())) == list(schema["properties"]):
        members = (f"{_literal(name)}:{compact_pattern(value)}" for name, value in schema["properties"].items())
        return r"\{" + ",".join(members) + r"\}"
    if schema.get("type") == "array":
        return rf"\[{_several(compact_pattern(schema['items']), schema)}\]"
    if schema.get("type") == "string":
        return f'"{_CHARACTER}{{{schema.get("minLength", 0)},{schema.get("maxLength", "")}}}"'
    if schema.get("type") in _PLAIN:
        return _PLAIN[schema["type"]]
    raise DataError(f"no pattern is known for {dict(schema)}")


def _several(item: str, schema: Mapping[str, Any]) -> str:
    """As many items with commas as a list may have."""
    least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
    if most == 0:
        return ""
    if most == least:
        return ",".join([item] * least)
    further = f"(,{item}){{{max(0, least - 1)},{'' if most is None else int(most) - 1}}}"
    return f"{item}{further}" if least else f"({item}{further})?"


def _literal(value: Any) -> str:
    return re.sub(r"([^\w\s\"-])", r"\\\1", json.dumps(value))
