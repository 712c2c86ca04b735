"""The annotations of a layer tar as JSON: each in full, or what it has in common with others said once per tar.

A packed tar begins with the member `__shared__`, a JSON list. Each entry holds what many annotations of the
tar have in common, such as model, prompt and sampling; an annotation names its entry by number as `shared`, and
what it says itself goes before what the entry says. Programs that read WebDataset shards pass over a member of
that name.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import parse_annotation_json, to_json_bytes
from vila2cli.shards.places import PACKED, PLAIN
from vila2cli.shards.sample import FIELD_DEFAULTS, Annotation
from vila2cli.shards.tarfiles import SHARED_MEMBER
from vila2cli.shards.tarwriter import TarWriter

_SHARED = "shared"
_ALIKE = ("layer", "kind", "round", "model", "model_sha256", "prompt_id", "tool_version")
"""What all annotations of one entry have in common."""
_OFTEN_ALIKE = ("prompt_sha256", "sampling", "decision", "finish_reason")
"""What an entry says where more than half of its annotations say it."""
_ORIGIN = (*_ALIKE, *_OFTEN_ALIKE)
_NO_ANNOTATION = (DataError, ValueError, TypeError, AttributeError, RecursionError)
_DEFAULTS = {name: [] if value == () else value for name, value in FIELD_DEFAULTS.items()}
_OF_SAMPLE = tuple(name for name in _DEFAULTS if name not in _ORIGIN)


def pack(annotations: Mapping[str, Mapping[str, Any]]) -> tuple[bytes, list[bytes]]:
    """The shared member for annotations by key, given as `Annotation.to_json` has them, and what each keeps."""
    origins = {key: to_json_bytes([fields[name] for name in _ORIGIN]) for key, fields in annotations.items()}
    times = Counter(origins.values())
    first = {origin: annotations[key] for key, origin in reversed(origins.items())}
    groups: dict[bytes, list[bytes]] = defaultdict(list)
    for origin in times:
        groups[to_json_bytes([first[origin][name] for name in _ALIKE])].append(origin)
    entries, kept = [], {}
    for number, group in enumerate(groups.values()):
        entry = _entry([(first[origin], times[origin]) for origin in group])
        entries.append(entry)
        said = {**_DEFAULTS, **entry}
        for origin in group:
            kept[origin] = {**_differing(first[origin], said, _ORIGIN), _SHARED: number}
    own = [
        to_json_bytes({**_differing(fields, _DEFAULTS, _OF_SAMPLE), **kept[origins[key]]})
        for key, fields in annotations.items()
    ]
    return to_json_bytes(entries) if entries else b"", own


def _entry(origins: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, Any]:
    """What origins that are `_ALIKE` have in common, each with the number of its annotations."""
    entry = {name: origins[0][0][name] for name in _ALIKE}
    total = sum(number for _, number in origins)
    for name in _OFTEN_ALIKE:
        times: Counter[bytes] = Counter()
        for fields, number in origins:
            times[to_json_bytes(fields[name])] += number
        ((most, number),) = times.most_common(1)
        if number > total // 2:
            entry[name] = next(fields[name] for fields, _ in origins if to_json_bytes(fields[name]) == most)
    return {"layer": entry["layer"], "kind": entry["kind"], **_differing(entry, _DEFAULTS, entry)}


def _differing(fields: Mapping[str, Any], said: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the fields named that are not as `said`; one that is not there is as by default."""
    return {name: fields[name] for name in names if name in fields and not _is_same(fields[name], said[name])}


def _is_same(value: Any, other: Any) -> bool:
    """Whether two values are the same JSON; of numbers 1, 1.0 and true are equal otherwise."""
    if value != other:
        return False
    return (type(value) is type(other) and not value) or to_json_bytes(value) == to_json_bytes(other)


def write_annotations(
    folder: Path,
    name: str,
    annotations: Mapping[str, Mapping[str, Any]],
    stats: dict[str, Any],
    *,
    is_packed: bool,
) -> None:
    """Write one shard of a layer, sorted by key, in the form that its folder has."""
    in_order = {key: annotations[key] for key in sorted(annotations)}
    shared, records = pack(in_order) if is_packed else (b"", map(to_json_bytes, in_order.values()))
    with TarWriter(folder / f"{name}{PACKED if is_packed else PLAIN}") as tar:
        tar.stats = stats
        if shared:
            tar.write_shared(shared)
        for key, record in zip(in_order, records, strict=True):
            tar.write_sample(key, {"json": record})


@dataclass(frozen=True, slots=True)
class Records:
    """The annotations of one layer tar as JSON bytes by key, parsed when they are asked for."""

    place: str | Path
    by_key: Mapping[str, bytes]
    shared: Sequence[Mapping[str, Any]] = ()
    """The entries of the shared member, with the defaults of what they do not say."""

    def annotation(self, key: str) -> Annotation:
        """The annotation of a key; raises DataError naming tar and key for what no annotation can be."""
        try:
            return Annotation.from_json(*self._parsed(key))
        except _NO_ANNOTATION as error:
            raise self._problem(key, error) from None

    def fields(self, key: str) -> dict[str, Any]:
        """What the annotation of a key says, as JSON that may be of another version; raises DataError."""
        try:
            value, entry = self._parsed(key)
        except _NO_ANNOTATION as error:
            raise self._problem(key, error) from None
        return {**(entry or {}), **value}

    def annotations(self) -> Iterator[tuple[str, Annotation]]:
        """Keys and annotations in key order."""
        for key in sorted(self.by_key):
            yield key, self.annotation(key)

    def _problem(self, key: str, error: Exception) -> DataError:
        return DataError(f"{self.place} holds no valid annotation for {key!r}: {error}")

    def _parsed(self, key: str) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
        """What an annotation says itself, and the entry that it names."""
        value = parse_annotation_json(self.by_key[key])
        number = value.pop(_SHARED, None)
        if number is None:
            return value, None
        if type(number) is not int or not 0 <= number < len(self.shared):
            raise DataError(f"entry {number!r} of {SHARED_MEMBER}, which holds {len(self.shared)}, is none")
        return value, self.shared[number]


def parse_shared(data: bytes, place: str | Path) -> list[dict[str, Any]]:
    """The entries of a shared member; raises DataError naming the tar for anything else in it."""
    try:
        entries = parse_annotation_json(data)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("it should be a list of objects")
        for entry in entries:
            if not {"layer", "kind"} <= entry.keys() <= FIELD_DEFAULTS.keys():
                unknown = ", ".join(sorted(entry.keys() - FIELD_DEFAULTS.keys()))
                what = f"unknown fields: {unknown}" if unknown else "an entry has no 'layer' or 'kind'"
                raise ValueError(f"{what}; was this layer written by a newer vila2?")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{SHARED_MEMBER} in {place} cannot be read: {error}") from None
    return [{**FIELD_DEFAULTS, **entry} for entry in entries]
