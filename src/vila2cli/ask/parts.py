"""What is written in a pass over shards: layers with the tasks that fill them, and how a task talks."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vila2cli.engine import AnyRequest, Result
from vila2cli.image import Decode
from vila2cli.shards import LayerWriter, Shard, ShardWriter
from vila2cli.shards.sample import Sample

Made = TypeVar("Made")

Together = Callable[[Sequence[Any]], None]
"""Adds to what was prepared of a batch of samples of a shard at once, before they are talked about."""

Dialogue = Generator[Sequence[AnyRequest], Sequence[Result], None]
"""Yields requests to send together and is given their results in the same order; writes before it ends."""


class SampleTask(Protocol[Made]):
    """What is done with every sample. `wants` and `talk` are called in one thread, `prepare` in others."""

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether to talk about a sample; False after telling the writer what becomes of it instead."""
        ...

    def prepare(self, sample: Sample, decode: Decode) -> Made:
        """What a talk about a sample needs, above all the images; raises DataError for bad ones.

        `decode` makes those that are shown to the model.
        """
        ...

    def talk(self, out: ShardWriter, sample: Sample, made: Made) -> Dialogue:
        """Ask about a sample and tell the writer what comes of it: an annotation, a reject or a skip."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A layer, the task that fills it, those of the shards that it still lacks, and the layers that it `uses`.

    Those are of the same pass and come before it, or have its shards already. Where a task takes few samples
    of many, `counted` are their keys by shard: the others are passed over in silence. `table` is that of the
    recipe which says how many rejects are too many.
    """

    layer: LayerWriter
    task: SampleTask[Any]
    shards: Sequence[Shard]
    uses: Sequence[LayerWriter] = ()
    counted: Mapping[str, Collection[str]] | None = None
    table: str = ""

    def counts(self, shard: Shard, key: str) -> bool:
        """Whether a sample is one of those of which it is shown how many are done."""
        return self.counted is None or key in self.counted.get(shard.name, ())


HandedOut = tuple[Shard, Sequence[Part]]
"""A shard to read, and the layers that lack it."""


def tables_of(parts: Sequence[Part]) -> dict[str, str]:
    """The tables of the recipe that set the reject budgets, by layer."""
    return {part.layer.layer: part.table for part in parts}


def lacking_shards(parts: Sequence[Part]) -> list[HandedOut]:
    """Every shard that a layer lacks, once, with the layers that do."""
    shards: dict[Shard, list[Part]] = {}
    for part in parts:
        for shard in part.shards:
            shards.setdefault(shard, []).append(part)
    return list(shards.items())
