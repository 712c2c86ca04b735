"""Shards through an engine into a layer: what captioning, rewriting and relabelling have in common.

A task talks with the engine about each sample on its own: it asks, sees the answers, asks again or
writes what it makes of them. Samples of later shards are asked about while answers of earlier ones
are still out, so the engine never runs dry at a shard's end; a follow-up goes in front of what has
not been asked yet. A shard is written when its last sample is.
"""

import contextlib
import dataclasses
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from vila2cli.engine import Engine, Request, Result
from vila2cli.engine.failures import EngineFailures
from vila2cli.engine.feed import ahead
from vila2cli.engine.meter import Meter
from vila2cli.errors import DataError
from vila2cli.progress import Progress
from vila2cli.sample import Reject, Sample
from vila2cli.shards import LayerWriter, Shard, ShardWriter, Unreadable, expected_samples
from vila2cli.stopping import Stop
from vila2cli.text.compose import is_kept

NUM_DECODERS = min(8, os.cpu_count() or 1)
"""Threads that decode images."""
MAX_DECODED = 32
"""Samples decoded ahead of the engine's own window."""

Dialogue = Generator[Sequence[Request], Sequence[Result], None]
"""Yields requests to send together and is given their results in the same order; writes before it ends."""


class Task(Protocol):
    """What is done with every sample."""

    @property
    def decode(self) -> Callable[[bytes], Image.Image] | None:
        """Turns image bytes into pixels or raises DataError; None where the model is shown no image."""
        ...

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether to talk about a sample; False after telling the writer why it is left out or rejected."""
        ...

    def talk(self, out: ShardWriter, sample: Sample, images: tuple[Image.Image, ...]) -> Dialogue:
        """Ask about a sample and tell the writer what comes of it: an annotation, a reject or a skip."""
        ...


def has_one_image(out: ShardWriter, sample: Sample) -> bool:
    """Whether a sample has exactly one image; any other number is rejected."""
    if len(sample.images) == 1:
        return True
    reason = "several-images" if sample.images else "no-image"
    out.reject(Reject(out.name, sample.key, reason, f"the sample has {len(sample.images)} images, not one"))
    return False


@dataclass(slots=True)
class _OpenShard:
    """A shard with samples still talked about."""

    writer: ShardWriter
    num_talks: int = 0
    num_asked: int = 0
    num_failed: int = 0
    is_read: bool = False
    is_broken: bool = False


@dataclass(slots=True)
class _Talk:
    """One sample's dialogue: the requests of its last step and the results that are back.

    `error` is the last of the engine's, as long as it `is_unanswered`.
    """

    shard: str
    key: str
    dialogue: Dialogue
    requests: list[Request] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    error: str | None = None
    is_unanswered: bool = True


class Annotator:
    """Runs a task over shards with an engine; `run` returns when every shard is written.

    Above `max_reject_rate` of samples that the engine fails on, it stops before another is.
    """

    def __init__(
        self,
        engine: Engine,
        layer: LayerWriter,
        task: Task,
        *,
        stop: Stop,
        progress: Progress,
        max_reject_rate: float = 1.0,
    ) -> None:
        self._engine, self._layer, self._task = engine, layer, task
        self._stop, self._progress = stop, progress
        self._open: dict[str, _OpenShard] = {}
        self._talks: dict[str, _Talk] = {}
        self._ready: deque[Request] = deque()
        self._figures: Counter[str] = Counter()
        self._writes = True
        self._num_notes = 0
        self._meter = Meter(engine)
        self._unreadable = Unreadable()
        self.failures = EngineFailures(max_reject_rate)

    def run(self, shards: Sequence[Shard]) -> None:
        """Annotate the shards; raises Interrupted after a signal, DataError for damaged shards, and
        RejectBudgetError where the engine fails on too many samples.

        A shard that is damaged, or of which no sample was answered, is given up, and told of when the others
        are done. Whatever stops the work, shards written by then stay and no other leaves a trace.
        """
        with self._begun(shards) as samples:
            self._converse(samples)
        self._unreadable.check()
        self.failures.check()

    def try_out(self, shards: Sequence[Shard], num_samples: int) -> dict[str, float]:
        """Talk about the first samples and write nothing; returns figures as the stats files have them.

        One sample goes before them, on which the engine sizes its batches, and is timed only if there are
        no others. `read` counts the samples that were read, `wanted` those of them that the task wants, and
        `begun` those that the other figures are of.
        """
        self._writes = False
        with self._begun(shards) as samples:
            first = self._timed(itertools.islice(samples, 1))
            others = self._timed(itertools.islice(samples, num_samples))
        figures = others if others["begun"] else first
        return {**figures, "read": self._figures["read"], "wanted": self._figures["wanted"]}

    def _timed(self, samples: Iterator[None]) -> dict[str, float]:
        before, self._meter = self._figures.copy(), Meter(self._engine)
        self._converse(samples)
        names = ("begun", "answered", "requests", "tokens")
        counts: dict[str, float] = {name: self._figures[name] - before[name] for name in names}
        return counts | self._meter.read()

    @contextlib.contextmanager
    def _begun(self, shards: Sequence[Shard]) -> Iterator[Iterator[None]]:
        """The samples of the shards; of shards that are open in the end nothing stays."""
        self._meter = Meter(self._engine)
        self._show_notes()
        try:
            with contextlib.closing(self._samples(shards)) as samples:
                yield samples
        finally:
            for shard in self._open.values():
                shard.writer.abort()
            self._open.clear()

    def _converse(self, samples: Iterator[None]) -> None:
        for result in self._engine.generate(_Stream(self._ready, samples)):
            self._stop.check()
            self._take(result)
            self._show_notes()

    def _samples(self, shards: Sequence[Shard]) -> Generator[None, None, None]:
        """Begin to talk about one more sample at each step, with images decoded ahead of it."""
        read = self._read(shards)
        for (shard, sample), images in ahead(self._decode, read, num_workers=NUM_DECODERS, window=MAX_DECODED):
            opened = self._open[shard]
            if sample is None:
                opened.is_read = True
                self._close_if_done(shard)
                continue
            self._figures["begun"] += 1
            try:
                dialogue = self._task.talk(opened.writer, sample, images.result())
            except DataError as error:
                opened.writer.reject(Reject(shard, sample.key, "bad-image", str(error)))
                self._progress.advance()
                continue
            opened.num_talks += 1
            self._go_on(_Talk(shard, sample.key, dialogue), None)
            yield

    def _read(self, shards: Sequence[Shard]) -> Iterator[tuple[str, Sample | None]]:
        """The samples that the task wants, each with its shard's name; None at the end of a shard."""
        for shard in shards:
            self._stop.check()
            opened = self._open[shard.name] = _OpenShard(self._layer.shard(shard))
            try:
                for sample in self._stop.each(opened.writer.samples()):
                    is_wanted = self._wants(opened.writer, sample)
                    self._figures.update(read=1, wanted=int(is_wanted))
                    if is_wanted:
                        yield shard.name, sample
                    else:
                        self._progress.advance()
                self._unreadable.succeed()
            except DataError as error:
                self._progress.note(f"{error}; going on with the next shard")
                opened.is_broken = True
                self._unreadable.fail(error)
            yield shard.name, None
            if self._unreadable.are_too_many:
                return

    def _wants(self, out: ShardWriter, sample: Sample) -> bool:
        if is_kept(sample):
            return self._task.wants(out, sample)
        out.skip(sample, "filtered")
        return False

    def _decode(self, read: tuple[str, Sample | None]) -> tuple[Image.Image, ...]:
        _, sample = read
        if sample is None or self._task.decode is None:
            return ()
        return tuple(self._task.decode(image.data) for image in sample.images)

    def _go_on(self, talk: _Talk, results: list[Result] | None) -> None:
        """Hand a dialogue its results and queue what it asks next; None starts it."""
        try:
            requests = next(talk.dialogue) if results is None else talk.dialogue.send(results)
        except StopIteration:
            self._end(talk, was_asked=results is not None)
            return
        names = [f"{talk.shard}\0{talk.key}\0{index}" for index in range(len(requests))]
        talk.requests = [
            dataclasses.replace(request, id=name, group=talk.shard)
            for name, request in zip(names, requests, strict=True)
        ]
        talk.results = {}
        self._talks.update(dict.fromkeys(names, talk))
        # In front, before the rest of a sample of the next shard: a group's requests must not be interrupted.
        self._ready.extendleft(reversed(talk.requests))

    def _end(self, talk: _Talk, *, was_asked: bool) -> None:
        opened = self._open[talk.shard]
        opened.num_talks -= 1
        if was_asked:
            opened.num_asked += 1
            opened.num_failed += talk.is_unanswered
            self._count(opened.writer, answered=int(not talk.is_unanswered))
            self.failures.count(talk.error if talk.is_unanswered else None)
        self._progress.advance()
        self._close_if_done(talk.shard)

    def _take(self, result: Result) -> None:
        talk = self._talks.pop(result.id)
        talk.results[result.id] = result
        talk.error = result.error
        talk.is_unanswered &= result.error is not None
        self._count(self._open[talk.shard].writer, tokens=result.num_tokens, requests=1)
        if len(talk.results) == len(talk.requests):
            self._go_on(talk, [talk.results[request.id] for request in talk.requests])

    def _count(self, writer: ShardWriter, **figures: int) -> None:
        writer.count(**figures)
        self._figures.update(figures)

    def _close_if_done(self, name: str) -> None:
        opened = self._open[name]
        if not opened.is_read or opened.num_talks:
            return
        del self._open[name]
        if opened.is_broken or not self._writes:
            opened.writer.abort()
            return
        if self.failures.gives_up(opened.num_asked, opened.num_failed):
            self._progress.note(f"the engine failed on every sample of {name}, which is not written")
            opened.writer.abort()
            return
        opened.writer.count(**self._meter.read())
        opened.writer.close()

    def _show_notes(self) -> None:
        for note in self._engine.notes[self._num_notes :]:
            self._progress.note(note)
        self._num_notes = len(self._engine.notes)


def annotate(
    engine: Engine,
    layer: LayerWriter,
    task: Task,
    shards: Sequence[Shard],
    *,
    title: str,
    stop: Stop,
    max_reject_rate: float,
) -> None:
    """Run a task over shards, showing how far it is; raises as `Annotator.run` does."""
    total, is_exact = expected_samples(shards)
    log_path = layer.folder / "log.jsonl"
    with Progress(title, total, log_path=log_path, is_estimate=not is_exact) as progress:
        annotator = Annotator(
            engine, layer, task, stop=stop, progress=progress, max_reject_rate=max_reject_rate
        )
        annotator.run(shards)


class _Stream:
    """Requests for the engine: those that are ready, else those of one sample more.

    It may run dry while answers are out and go on when they ask for more (see `Engine`).
    """

    def __init__(self, ready: deque[Request], samples: Iterator[None]) -> None:
        self._ready, self._samples = ready, samples

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        while not self._ready:
            next(self._samples)
        return self._ready.popleft()
