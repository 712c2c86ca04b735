"""Every caption of a run by image: what the list that can be searched shows, and drift is counted on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.report.caption_layers import CaptionLayer, read_annotations
from vila2cli.report.captions import usable_scene
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.wording import visible
from vila2cli.shards import layer_tar, open_source
from vila2cli.shards.reader import check_layers
from vila2cli.shards.tarfiles import read_members, split_name

MAX_IMAGES = 10_000
"""Images listed; the page holds their captions, and draws 25 of them at a time."""
ALT = 0
"""The round that the alt-text stands for."""


@dataclass(slots=True)
class ImageCaptions:
    """One image: captions by round (the alt-text is round 0), why a round has none, scene and digest."""

    key: str
    texts: dict[int, str] = field(default_factory=dict)
    rejects: dict[int, str] = field(default_factory=dict)
    scene: Mapping[str, Any] | None = None
    image_sha256: str = ""


@dataclass(frozen=True, slots=True)
class CaptionList:
    """What the page's script is given: column titles; of each image key, captions and why some are missing."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], str], ...]
    note: str


def read_all_captions(layers: Sequence[CaptionLayer], reader: JsonReader) -> list[ImageCaptions]:
    """The images of the first shards, up to MAX_IMAGES; what cannot be read is noted and left out."""
    captioned: list[ImageCaptions] = []
    for name in sorted({name for layer in layers for name in layer.shards}):
        images: dict[str, ImageCaptions] = {}
        tars = []
        for layer in layers:
            if name in layer.shards:
                tars.append(layer_tar(layer.folder, name))
                _read_layer(layer, name, images, reader)
        _read_base(tars, images)
        captioned += [images[key] for key in sorted(images)]
        if len(captioned) >= MAX_IMAGES:
            break
    return captioned[:MAX_IMAGES]


def _read_layer(layer: CaptionLayer, name: str, images: dict[str, ImageCaptions], reader: JsonReader) -> None:
    for key, annotation in read_annotations(layer, name, reader).items():
        image = images.setdefault(key, ImageCaptions(key))
        image.texts[layer.round] = str(annotation.get("text") or "")
        image.image_sha256 = str(annotation.get("image_sha256") or image.image_sha256)
    for reject in reader.lines(layer.folder / f"{name}.rejects.jsonl"):
        if "key" in reject and "reason" in reject:
            image = images.setdefault(str(reject["key"]), ImageCaptions(str(reject["key"])))
            image.rejects[layer.round] = f"{reject['reason']}: {reject.get('error', '')}"


def _read_base(tars: Sequence[Path], images: Mapping[str, ImageCaptions]) -> None:
    """Alt-texts and scenes, without reading a picture; where the base is gone there are none."""
    try:
        for shard in open_source(tars).shards:
            check_layers(shard)
            for name, data in read_members(shard.url, lambda name: name.endswith((".txt", ".json"))):
                split = split_name(name)
                image = images.get(split[0]) if split else None
                if image is None or data is None:
                    continue
                if name.endswith(".txt"):
                    image.texts[ALT] = data.decode("utf-8", "replace")
                else:
                    meta = json.loads(data)
                    image.scene = usable_scene(meta.get("scene")) if isinstance(meta, dict) else None
    except (DataError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return  # the drawn captions above say what is wrong


def caption_list(images: Sequence[ImageCaptions], rounds: Sequence[int]) -> CaptionList | None:
    """The list for the page, None where nothing was captioned; text is made harmless and cut as elsewhere."""
    if not images:
        return None
    columns = (ALT, *rounds)
    rows = tuple(
        (
            visible(image.key, 80),
            tuple(visible(image.texts.get(number, "")) for number in columns),
            "; ".join(f"round {number}: {visible(why, 160)}" for number, why in sorted(image.rejects.items())),
        )
        for image in images
    )
    first = "the first " if len(images) >= MAX_IMAGES else ""
    note = (
        f"The captions of {first}{len(images):,} images, words marked that the caption before does not have. "
        "The search looks for all of its words in keys, captions and reasons."
    )
    titles = ("alt-text", *(f"round {number}" for number in rounds))
    return CaptionList(titles, rows, note)
