"""The record that crosses stages: a sample, its turns, and the annotations that layers add to it."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vila2cli.errors import DataError

Role = Literal["system", "user", "assistant"]
ORIGINAL = "original"
"""The name by which the alt-text goes among the captions of a sample; others are names of layers."""

FILTER = "filter"
"""The name of the layers that say which samples are worth training on."""

IMAGE_PLACEHOLDER = "<image>"
"""Where an image stands in a turn's text, as LLaVA writes it; images without one come first."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    text: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Turn":
        """Read `{"role": ..., "content": ...}`; raises DataError when either is missing or odd."""
        role, content = value.get("role"), value.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise DataError(f"a turn needs a role and a text content, got {value!r}")
        return cls(role, content)

    def to_json(self) -> dict[str, str]:
        return {"role": self.role, "content": self.text}


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What one stage says about one sample, with everything needed to say where it came from.

    `kind` tells which field carries it: `caption` and `prediction` use `text`, `turns` uses
    `turns`, `score` and `verdict` use `scores`. `logprob_mean` is in nats per generated token.
    `decision` says how a caption came to be the one kept: where it comes from (`source`), how it
    was chosen, and every attempt with its sampling and what was wrong with it. `fields` is what a caption
    says that is JSON by a schema, whose `text` is that JSON.
    """

    layer: str
    kind: Literal["caption", "turns", "score", "verdict", "prediction"]
    text: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)
    decision: Mapping[str, Any] = field(default_factory=dict)
    round: int | None = None
    model: str | None = None
    model_sha256: str | None = None
    prompt_id: str | None = None
    prompt_sha256: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    num_tokens: int | None = None
    finish_reason: str | None = None
    logprob_mean: float | None = None
    image_sha256: str = ""
    tool_version: str = ""

    def to_json(self) -> dict[str, Any]:
        value = dict(vars(self))
        value["turns"] = [turn.to_json() for turn in self.turns]
        for name in ("scores", "decision", "sampling", "fields"):
            value[name] = dict(value[name])
        if not value["fields"]:
            del value["fields"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], entry: Mapping[str, Any] | None = None) -> "Annotation":
        """Read what `to_json` wrote; raises DataError naming the first field that does not fit.

        What `value` does not say is as in `entry`, which has every field; without one as by default.
        """
        fields = {**(FIELD_DEFAULTS if entry is None else entry), **value}
        if len(fields) != len(FIELD_DEFAULTS) or (entry is None and not ("layer" in value and "kind" in value)):
            unknown = sorted(fields.keys() - FIELD_DEFAULTS.keys())
            what = f"unknown field {unknown[0]!r}" if unknown else "no 'layer' or 'kind'"
            raise DataError(f"an annotation has {what}; was this layer written by a newer vila2?")
        turns = fields["turns"]
        fields["turns"] = tuple(map(Turn.from_json, turns)) if turns else ()
        read = cls.__new__(cls)
        object.__setattr__(read, "__dict__", fields)  # __init__ sets each of 18 frozen fields by a call
        return read


_NOT_WRITTEN = {ORIGINAL: "alt-text", "recaption": "recaption"}
"""Sources of a caption that its layer took as they were, and what they are called."""


def source_of(annotation: Annotation) -> str | None:
    """Where a caption comes from, as `decision` says: "model", "merged", ORIGINAL where that was kept, ..."""
    source = annotation.decision.get("source")
    return source if isinstance(source, str) else None


def kept_instead(source: str | None) -> str:
    """What a layer kept in place of a caption by its model, in words as "kept alt-text"; "" for all else."""
    names = (source or "").removeprefix("only-").split("+")
    is_kept_text = all(name in _NOT_WRITTEN for name in names)
    return f"kept {' and '.join(_NOT_WRITTEN[name] for name in names)}" if is_kept_text else ""


FIELD_DEFAULTS: Mapping[str, Any] = dict(vars(Annotation(layer="", kind="caption")))
"""What an annotation says of a field that its JSON does not hold."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it lies in the shard: its bytes and the extension that names their format."""

    data: bytes
    extension: str


def image_sha256(images: Sequence[EncodedImage]) -> str:
    """SHA-256 of the bytes of all images in order, "" without images."""
    if not images:
        return ""
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One key of a base shard with all annotations that the opened layers hold for it.

    `text` is the alt-text; `meta` the parsed KEY.json. `annotations` come in the order in which
    the layers were given, oldest first. `members` are the bytes of what was read, by extension.
    """

    key: str
    images: tuple[EncodedImage, ...] = ()
    text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()
    members: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def image_sha256(self) -> str:
        """SHA-256 of the image bytes (of all images in order when there are several), "" without images."""
        return image_sha256(self.images)

    @property
    def lacks_images(self) -> bool:
        """Whether it is a caption without its picture, and no conversation or document either."""
        return not (self.images or self.meta.get("messages") or self.meta.get("interleaved"))

    def annotation(self, layer: str, round: int | None = None) -> Annotation | None:
        """The newest annotation of a layer name, of a round where one is given; None where there is none."""
        named = (a for a in reversed(self.annotations) if a.layer == layer)
        return next((a for a in named if round is None or a.round == round), None)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation in `meta["messages"]`, empty when there is none."""
        return tuple(Turn.from_json(turn) for turn in self.meta.get("messages", ()))


def field_text(meta: Mapping[str, Any], name: str) -> str | None:
    """A field of the metadata as text: words and numbers as they are, a list of them with commas, else JSON.

    `a.b` is also `b` in the table `a`. None where there is none, or nothing in it.
    """
    value: Any = meta
    if name in meta:
        value = meta[name]
    else:
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list) and not any(isinstance(one, list | dict) for one in value):
        value = ", ".join(text for one in value if (text := _plain_text(one)))
    return (_plain_text(value) or "").strip() or None


def _plain_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def is_source(name: str, known: Collection[str]) -> bool:
    """Whether a name is one of the `known` sources of captions, or `NAME@ROUND` of one."""
    layer, of_round, number = name.partition("@")
    return layer in known and (not of_round or (number.isdecimal() and layer != ORIGINAL))


def caption_of(sample: Sample, name: str) -> str | None:
    """The sample's caption by name: "original" is the alt-text, any other a caption layer; None if absent.

    Of layers of one name the newest counts; `NAME@ROUND` is that of a round.
    """
    if name == ORIGINAL:
        text = sample.text
    else:
        layer, of_round, number = name.partition("@")
        is_there = number.isdecimal() or not of_round
        annotation = sample.annotation(layer, int(number) if of_round else None) if is_there else None
        text = annotation.text if annotation else None
    text = text.strip() if text else None
    return text or None


def is_kept(sample: Sample) -> bool:
    """False when the newest `filter` annotation says that the sample is not worth training on."""
    annotation = sample.annotation(FILTER)
    return annotation is None or annotation.scores.get("keep") is not False


@dataclass(frozen=True, slots=True)
class Reject:
    """A sample that a stage could not use: where it is, why in one word, and the full error."""

    shard: str
    key: str
    reason: str
    error: str

    def to_json(self) -> dict[str, str]:
        return dataclasses.asdict(self)
