"""JSON schemas of captions: the part of JSON Schema that is taken, and whether a value keeps to one.

Objects, lists, texts, numbers, true and false, with choices and bounds: what every engine can be held to. Of an
object all properties are required unless `required` says otherwise, and no others are allowed.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_SIZES = {"array": ("minItems", "maxItems"), "string": ("minLength", "maxLength")}
_BOUNDS = {"integer": ("minimum", "maximum"), "number": ("minimum", "maximum"), **_SIZES}
_OF_TYPE = {"object": ("properties", "required", "additionalProperties"), "array": ("items",)}
_OF_ANY = ("type", "enum", "title", "description")
_MAX_DEPTH = 8


def checked_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with all that is meant said; raises ValueError for what is not taken."""
    if schema.get("type") != "object":
        raise ValueError('the schema of a caption should be of type = "object", with a table `properties`')
    return _checked(schema, "schema", 0)


def _checked(schema: Any, where: str, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where} should be a table with a `type`")
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{where}.type should be one of {', '.join(_TYPES)}")
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where} lies deeper than {_MAX_DEPTH} levels")
    known = (*_OF_ANY, *_OF_TYPE.get(kind, ()), *_BOUNDS.get(kind, ()))
    if unknown := [name for name in schema if name not in known]:
        raise ValueError(f"{where}.{unknown[0]} is not taken; of type {kind!r} are {', '.join(known)}")
    _check_choices(schema, kind, where)
    made = dict(schema)
    if kind == "array":
        made["items"] = _checked(schema.get("items"), f"{where}.items", depth + 1)
    if kind == "object":
        made |= _object(schema, where, depth)
    return made


def _check_choices(schema: Mapping[str, Any], kind: str, where: str) -> None:
    for name in ("title", "description"):
        if not isinstance(schema.get(name, ""), str):
            raise ValueError(f"{where}.{name} should be a text")
    if "enum" in schema:
        choices = schema["enum"]
        if (
            kind in _OF_TYPE
            or not isinstance(choices, list)
            or not choices
            or not all(map(_TYPES[kind], choices))
        ):
            raise ValueError(f"{where}.enum should list values of type {kind!r}")
    low, high = (schema.get(name) for name in _BOUNDS.get(kind, ("", "")))
    for bound in (low, high):
        is_size = kind in _SIZES and bound is not None and (not _TYPES["integer"](bound) or bound < 0)
        if bound is not None and (is_size or not _TYPES["number"](bound) or not math.isfinite(bound)):
            raise ValueError(f"{where}: {' and '.join(_BOUNDS[kind])} should be numbers from 0 on")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{where}: {_BOUNDS[kind][0]} is above {_BOUNDS[kind][1]}")


def _object(schema: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise ValueError(f"{where}.properties should name at least one property")
    if odd := [name for name in properties if not name or "." in name or not name.isprintable()]:
        raise ValueError(f"{where}.properties: {odd[0]!r} cannot be the name of a property")
    required = schema.get("required", list(properties))
    if not isinstance(required, list) or not set(map(str, required)) <= set(properties):
        raise ValueError(f"{where}.required should list names of its properties")
    if schema.get("additionalProperties", False) is not False:
        raise ValueError(f"{where}.additionalProperties can only be false: captions have the properties named")
    inner = {name: _checked(one, f"{where}.properties.{name}", depth + 1) for name, one in properties.items()}
    return {"properties": inner, "required": required, "additionalProperties": False}


def misfit(value: Any, schema: Mapping[str, Any], where: str = "the answer") -> str | None:
    """In what a JSON value does not keep to a schema that was `checked_schema`; None where it does."""
    kind = str(schema["type"])
    if not _TYPES[kind](value) or (isinstance(value, float) and not math.isfinite(value)):
        return f"{where} is no {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is none of its choices"
    size = len(value) if kind in _SIZES else value
    low, high = (schema.get(name) for name in _BOUNDS.get(kind, ("", "")))
    if (low is not None and size < low) or (high is not None and size > high):
        return f"{where} is out of its bounds"
    if kind == "array":
        found = (misfit(one, schema["items"], f"{where}[{number}]") for number, one in enumerate(value))
        return next((problem for problem in found if problem), None)
    return _misfit_of_object(value, schema, where) if kind == "object" else None


def _misfit_of_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> str | None:
    properties = schema["properties"]
    if lacking := [name for name in schema["required"] if name not in value]:
        return f"{where} lacks {lacking[0]}"
    if len(value.keys() - properties.keys()):
        return f"{where} has other properties than {', '.join(properties)}"
    found = (misfit(one, properties[name], f"{where}.{name}") for name, one in value.items())
    return next((problem for problem in found if problem), None)
