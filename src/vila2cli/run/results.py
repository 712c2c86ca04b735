"""What a stage returns: a frozen record, its JSON as in the stage's summary file, and its lines for people."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

REST = "*"
"""The key of a field whose content stands among the other keys."""


def key(name: str) -> Any:
    """A field by another name in JSON, "" for one that is not in it."""
    return dataclasses.field(metadata={"key": name})


class StageResult:
    """Of a frozen dataclass that a stage returns.

    Its fields are the keys of its JSON, but for a trailing underscore (`in_`) and those declared with `key`. A
    field that has its default is left out there; one without a default always stands in it.
    """

    def to_json(self) -> dict[str, Any]:
        """What the stage's summary file holds, and `--json` prints."""
        assert dataclasses.is_dataclass(self)
        values = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]
        keyed = {_key_of(field): plain(value) for field, value in values if not _is_default(field, value)}
        keyed.pop("", None)
        rest = keyed.pop(REST, {})
        return {**keyed, **rest}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The result whose JSON this is; what is absent there has its default, else it is None."""
        assert dataclasses.is_dataclass(cls)
        fields = {_key_of(field): field for field in dataclasses.fields(cls)}
        known = {
            field.name: values.get(name) for name, field in fields.items() if _is_given(name, field, values)
        }
        if REST in fields:
            known[fields[REST].name] = {name: value for name, value in values.items() if name not in fields}
        return cls(**known)

    def lines(self) -> Iterable[str]:
        """The same for the terminal."""
        return summary_lines(self.to_json())


@dataclass(frozen=True, slots=True)
class Texts(StageResult):
    """Samples as text."""

    samples: Sequence[str]

    def lines(self) -> list[str]:
        return "\n\n".join(self.samples).split("\n")


def _key_of(field: "dataclasses.Field[Any]") -> str:
    return str(field.metadata.get("key", field.name.removesuffix("_")))


def _is_given(name: str, field: "dataclasses.Field[Any]", values: Mapping[str, Any]) -> bool:
    has_default = {field.default, field.default_factory} != {dataclasses.MISSING}
    return name != REST and (name in values or not has_default)


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and value == field.default


def plain(value: Any) -> Any:
    """A value of a result as JSON has it."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def summary_lines(values: Mapping[str, Any]) -> list[str]:
    """The figures of a summary as `name: value` lines; what is long or deeply nested stays in its file."""
    lines = []
    for name, value in values.items():
        rows = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(row, Mapping) for row in rows):
            texts = [_figures(row) for row in rows if 0 < len(row) <= 16]
        else:
            texts = [_figure(value)] if isinstance(value, str | int | float) else []
        lines += [f"{name}: {text}" for text in texts if text]
    return lines


def _figures(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {_figure(v)}" for k, v in row.items() if isinstance(v, str | int | float))


def _figure(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
