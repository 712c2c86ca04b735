"""Shards that are open in a pass, and the samples that wait in them for other layers' captions.

Of layers that are written in the same pass it is known when each is done with a sample; of one that has the
shard already the captions are read. A sample is handed on in the order in which it was read.
"""

import glob
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from vila2cli.ask.parts import Part
from vila2cli.errors import DataError
from vila2cli.shards import LayerWriter, Shard, ShardWriter
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.places import tar_stem
from vila2cli.shards.sample import Annotation, Sample

Held = tuple[Sample, Future[Any]]


@dataclass(slots=True)
class Waiting:
    """The samples of a layer's shard that wait for those `before` it; `known` are those on disk by layer."""

    before: Sequence["OpenShard"]
    known: Sequence[Mapping[str, Annotation]]
    held: deque[Held] = field(default_factory=deque)

    def ready(self) -> Iterator[Held]:
        """Hand on the samples that wait for nothing more, with what the other layers say of each."""
        while self.held and not any(self.held[0][0].key in one.pending for one in self.before):
            sample, made = self.held.popleft()
            found = [one.writer.kept.get(sample.key) for one in self.before]
            found += [annotations.get(sample.key) for annotations in self.known]
            new = tuple(annotation for annotation in found if annotation is not None)
            yield replace(sample, annotations=(*sample.annotations, *new)) if new else sample, made


@dataclass(slots=True, eq=False)
class OpenShard:
    """A shard of one layer with samples still talked about, whose keys are `pending`.

    `waiting` has those samples that wait for the layers `before` it.
    """

    part: Part
    shard: Shard
    writer: ShardWriter
    num_asked: int = 0
    num_failed: int = 0
    is_read: bool = False
    is_broken: bool = False
    pending: set[str] = field(default_factory=set)
    waiting: Waiting | None = None
    before: Sequence["OpenShard"] = ()

    @property
    def is_done(self) -> bool:
        """Whether nothing more will be said of it."""
        return self.is_read and not self.pending


def wait_for(opened: OpenShard, beside: Sequence[OpenShard]) -> None:
    """Have a shard wait for those beside it of the layers that its own uses; the others have it already."""
    if not opened.part.uses:
        return
    folders = [used.folder for used in opened.part.uses]
    before = [one for one in beside if one.part.layer.folder in folders]
    there = {one.part.layer.folder for one in before}
    known = _captions_on_disk([one for one in opened.part.uses if one.folder not in there], opened.shard.name)
    for one in before:
        one.writer.keeps = True
    opened.before, opened.waiting = before, Waiting(before, known)


def _captions_on_disk(layers: Sequence[LayerWriter], shard: str) -> list[dict[str, Annotation]]:
    """What layers say of a shard that each of them has; raises DataError for one that it lacks."""
    found = []
    for layer in layers:
        written = layer.folder.glob(f"{glob.escape(shard)}.tar*") if shard in layer.done() else ()
        tar = next((tar for tar in written if tar_stem(tar) == shard), None)
        if tar is None:
            raise DataError(
                f"{layer.folder} lacks the shard {shard}, whose captions another layer's prompts take"
            )
        found.append(dict(read_annotation_tar(tar)))
    return found
