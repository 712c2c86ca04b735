"""Shards through an engine into a layer: what captioning and relabelling have in common.

Samples of later shards are asked about while answers of earlier ones are still out, so the engine
never runs dry at a shard's end. A shard is written when its last answer is back.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vila2cli.engine import Engine, Request, Result
from vila2cli.progress import Progress
from vila2cli.run import Stop
from vila2cli.sample import Sample
from vila2cli.shards import LayerWriter, Shard, ShardWriter

Ask = Callable[[ShardWriter, Sample], Request | None]
"""The request for a sample, or None after telling the writer that it is rejected or skipped."""
Answer = Callable[[ShardWriter, Sample, Request, Result], None]
"""Tell the writer what a result makes of its sample: an annotation or a reject."""


@dataclass(slots=True)
class _OpenShard:
    """A shard with answers still out; samples keep their bytes until then."""

    writer: ShardWriter
    asked: dict[str, tuple[Sample, Request]] = field(default_factory=dict)
    is_read: bool = False


class Annotator:
    """Runs shards through an engine; `run` returns when every shard is written."""

    def __init__(
        self, engine: Engine, layer: LayerWriter, *, ask: Ask, answer: Answer, stop: Stop, progress: Progress
    ) -> None:
        self._engine, self._layer, self._progress = engine, layer, progress
        self._ask, self._answer, self._stop = ask, answer, stop
        self._open: dict[str, _OpenShard] = {}
        self._num_notes = 0
        self._last_close_s = 0.0

    def run(self, shards: Sequence[Shard]) -> None:
        """Annotate the shards; raises Interrupted after a signal, DataError for a damaged shard.

        Whatever stops it, shards written by then stay and no other leaves a trace.
        """
        self._last_close_s = time.perf_counter()
        self._show_notes()
        try:
            for result in self._engine.generate(self._requests(shards)):
                self._stop.check()
                self._take(result)
                self._show_notes()
        finally:
            for shard in self._open.values():
                shard.writer.abort()
            self._open.clear()

    def _requests(self, shards: Sequence[Shard]) -> Iterator[Request]:
        for shard in shards:
            self._stop.check()
            opened = self._open[shard.name] = _OpenShard(self._layer.shard(shard))
            for sample in opened.writer.samples():
                request = self._ask(opened.writer, sample)
                if request is None:
                    self._progress.advance()
                    continue
                request = dataclasses.replace(request, id=f"{shard.name}\0{sample.key}", group=shard.name)
                opened.asked[request.id] = (sample, request)
                yield request
            opened.is_read = True
            self._close_if_done(shard.name)

    def _take(self, result: Result) -> None:
        name = result.id.partition("\0")[0]
        opened = self._open[name]
        sample, request = opened.asked.pop(result.id)
        self._answer(opened.writer, sample, request, result)
        opened.writer.count(tokens=result.num_tokens, answered=1)
        self._progress.advance()
        self._close_if_done(name)

    def _close_if_done(self, name: str) -> None:
        opened = self._open[name]
        if not opened.is_read or opened.asked:
            return
        del self._open[name]
        now_s = time.perf_counter()
        seconds, self._last_close_s = now_s - self._last_close_s, now_s
        # Shards overlap, so each is charged the time since the one before it was written.
        opened.writer.count(seconds=seconds, device_seconds=seconds * self._engine.num_devices)
        opened.writer.close()

    def _show_notes(self) -> None:
        for note in self._engine.notes[self._num_notes :]:
            self._progress.note(note)
        self._num_notes = len(self._engine.notes)
