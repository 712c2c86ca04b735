"""A sample as a row: what it is called, its captions by name, who wrote them, and its metadata."""

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vila2cli.files import naming
from vila2cli.shards.members import Unusable
from vila2cli.shards.sample import ORIGINAL, EncodedImage, Sample, caption_of, source_of

ColumnKind = Literal["text", "number", "whole", "turns", "image", "json"]
QUESTION = "Describe the image."
PICTURES = "images"
"""The folder in an export that holds pictures as files, by shard and key."""
_OF_THE_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Content:
    """What of the samples is exported: captions by name, answers of specialists by layer, and pictures or not.

    `question` is what a caption answers in a conversation, `root` the folder that all base shards are below,
    `origins` whether rows say what the file of a picture was called before it was in a shard, and whether a
    caption is the model's.
    """

    captions: Sequence[str]
    answers: Sequence[str] = ()
    with_pictures: bool = False
    question: str = QUESTION
    root: str = ""
    origins: bool = True

    def columns(self) -> Mapping[str, ColumnKind]:
        """The columns of a row, in order."""
        columns: dict[str, ColumnKind] = {"key": "text", "shard": "text", "url": "text"}
        if self.origins:
            columns["file_name"] = "text"
        if self.with_pictures:
            columns["image"] = "image"
        columns["image_sha256"] = "text"
        for name in self.captions:
            columns[name] = "text"
            if name != ORIGINAL:
                parts = (*(("source",) if self.origins else ()), "model", "model_sha256", "prompt")
                columns |= {f"{name}_{part}": "text" for part in parts}
                columns |= {f"{name}_round": "whole", f"{name}_logprob": "number", f"{name}_fields": "json"}
        columns |= dict.fromkeys(self.answers, "turns")
        return columns | {"meta": "json"}


class Writer(Protocol):
    """Writes one shard; what it writes appears when it is closed."""

    def add(self, sample: Sample) -> None:
        """Raises Unusable."""
        ...

    def close(self) -> None: ...

    def abort(self) -> None:
        """Leave nothing behind; does nothing after `close`."""
        ...


def row_of(sample: Sample, shard: str, content: Content) -> dict[str, Any]:
    """The row of a sample, without its picture; raises Unusable for one that has none of the captions."""
    row: dict[str, Any] = {
        "key": sample.key,
        "shard": shard,
        "url": _text(sample.meta.get("url")),
        "file_name": _text(sample.meta.get("file_name")),
        "image_sha256": sample.image_sha256 or None,
    }
    for name in content.captions:
        row[name] = caption_of(sample, name)
        layer, _, of_round = name.partition("@")
        wrote = None if name == ORIGINAL else sample.annotation(layer, int(of_round) if of_round else None)
        if wrote is not None:
            row |= {f"{name}_source": source_of(wrote)}
            row |= {f"{name}_model": wrote.model, f"{name}_model_sha256": wrote.model_sha256}
            row |= {f"{name}_prompt": wrote.prompt_id, f"{name}_round": wrote.round}
            row |= {f"{name}_logprob": wrote.logprob_mean, f"{name}_fields": dict(wrote.fields) or None}
    for name in content.answers:
        answer = sample.annotation(name)
        row[name] = [turn.to_json() for turn in answer.turns] if answer is not None else None
    if not any(row[name] for name in (*content.captions, *content.answers)) and not sample.turns:
        raise Unusable("no-caption", f"it has none of {', '.join((*content.captions, *content.answers))}")
    row["meta"] = dict(sample.meta)
    return {name: row.get(name) for name in content.columns() if name != "image"}


def the_picture(sample: Sample) -> EncodedImage:
    """The one picture of a sample; raises Unusable where it has none or several."""
    if len(sample.images) == 1:
        return sample.images[0]
    if not sample.images:
        raise Unusable("no-image", "it has no picture")
    raise Unusable("several-images", f"it has {len(sample.images)} pictures, and a row holds one")


def picture_files(sample: Sample, shard: str) -> dict[str, bytes]:
    """Where in an export the pictures of a sample lie as files, and their bytes."""
    several = len(sample.images) > 1
    return {
        f"{PICTURES}/{shard}/{sample.key}{f'.{number}' if several else ''}.{image.extension}": image.data
        for number, image in enumerate(sample.images)
    }


def write_pictures(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write pictures as files; returns their names. A key with folders in it stays below ours.

    Raises Unusable for a key that no file can be called by: too long, or a file where a folder should be.
    """
    for name, data in files.items():
        path = folder / name
        assert ".." not in path.parts, f"{name} leads out of the export"
        try:
            with naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        except OSError as error:
            if error.errno not in _OF_THE_NAME:
                raise
            raise Unusable("no-file-name", f"no file can be called by its key: {error.strerror}") from None
    return list(files)


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
