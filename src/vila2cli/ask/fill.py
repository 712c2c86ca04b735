"""Shards through an engine into layers: what captioning, relabelling, evaluation and judging have in common.

A task talks with the engine about each sample on its own: it asks, sees the answers, asks again or
writes what it makes of them. Samples of later shards are asked about while answers of earlier ones
are still out, so the engine never runs dry at a shard's end; a follow-up goes in front of what has
not been asked yet. A shard is written when its last sample is. Several layers over the same shards can
be written in one pass, for which every image is read and decoded once.
"""

import contextlib
import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

from vila2cli.ask.failures import Budgets
from vila2cli.ask.meter import Bill, Meter
from vila2cli.engine import AnyRequest, Engine, Preparing, Result
from vila2cli.errors import DataError
from vila2cli.image import Decode
from vila2cli.run.feed import ahead, num_threads
from vila2cli.run.stopping import Stop
from vila2cli.shards import LayerWriter, Shard, ShardWriter, Unreadable, samples_of
from vila2cli.shards.sample import Reject, Sample

Made = TypeVar("Made")

Together = Callable[[Sequence[Any]], None]
"""Adds to what was prepared of up to BATCH samples of a shard at once, before they are talked about."""
BATCH = 32

Dialogue = Generator[Sequence[AnyRequest], Sequence[Result], None]
"""Yields requests to send together and is given their results in the same order; writes before it ends."""


class Task(Protocol[Made]):
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
    """A layer, the task that fills it, and those of the shards that it still lacks."""

    layer: LayerWriter
    task: Task[Any]
    shards: Sequence[Shard]


HandedOut = tuple[Shard, Sequence[Part]]
"""A shard to read, and the layers that lack it."""


def lacking_shards(parts: Sequence[Part]) -> list[HandedOut]:
    """Every shard that a layer lacks, once, with the layers that do."""
    shards: dict[Shard, list[Part]] = {}
    for part in parts:
        for shard in part.shards:
            shards.setdefault(shard, []).append(part)
    return list(shards.items())


class Shown(Protocol):
    """Where it is shown how far the work is: `run.progress.Progress`, or what hands it on to one."""

    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(slots=True, eq=False)
class _OpenShard:
    """A shard of one layer with samples still talked about."""

    part: Part
    shard: Shard
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

    opened: _OpenShard
    key: str
    dialogue: Dialogue
    requests: list[AnyRequest] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    error: str | None = None
    is_unanswered: bool = True


@dataclass(frozen=True, slots=True)
class _Read:
    """A sample and the open shards of the layers whose tasks want it; without one, shards that end there."""

    by: Sequence[_OpenShard]
    sample: Sample | None = None

    def prepare(self, decode: Decode) -> Any:
        """What the tasks need of the sample, which is the same for all of them."""
        return None if self.sample is None else self.by[0].part.task.prepare(self.sample, decode)


_Prepared = tuple[_Read, Future[Any]]


class Annotator:
    """Fills layers over the same base shards with an engine; `run` returns when every shard is written.

    A layer of whose samples the engine fails on more than `max_reject_rate` is asked about no further. Without
    an engine no task may ask anything. `budgets` and `unreadable` are those of a replica, which reports what
    is held against them, and `num_side_by_side` is how many replicas work at the same time.
    """

    def __init__(
        self,
        engine: Engine | None,
        parts: Sequence[Part],
        *,
        stop: Stop,
        progress: Shown,
        max_reject_rate: float = 1.0,
        together: Together | None = None,
        budgets: Budgets | None = None,
        unreadable: Unreadable | None = None,
        num_side_by_side: int = 1,
    ) -> None:
        self._engine, self._parts, self._together = engine, parts, together
        self._stop, self._progress = stop, progress
        self._open: list[_OpenShard] = []
        self._talks: dict[str, _Talk] = {}
        self._ready: deque[AnyRequest] = deque()
        self._figures: Counter[str] = Counter()
        self._feed: Iterator[_Prepared] = iter(())
        self._num_left = math.inf
        self._writes = True
        self._num_notes = 0
        self._num_side_by_side = num_side_by_side
        self._bill = Bill(Meter(engine, num_side_by_side))
        self._unreadable = unreadable or Unreadable()
        self.failures = budgets or Budgets((part.layer.layer for part in parts), max_reject_rate)

    def run(self) -> None:
        """Write what the layers lack; raises Interrupted after a signal, DataError for damaged shards, and
        RejectBudgetError where the engine fails on too many samples.

        A shard that is damaged, or of which no sample was answered, is given up, and told of when the others
        are done; so is a layer that fails beside others. Whatever stops the work, shards written by then stay
        and no other leaves a trace.
        """
        self.fill(lacking_shards(self._parts))
        self._unreadable.check()
        self.failures.check()

    def fill(self, handed_out: Iterable[HandedOut]) -> None:
        """Write these shards, which are asked for as they are needed; nothing is raised for those given up."""
        with self._begun(handed_out):
            self._converse()

    def try_out(self, num_samples: int) -> dict[str, float]:
        """Talk about the first samples and write nothing; returns figures as the stats files have them.

        One sample goes before them, on which the engine sizes its batches, and is timed only if there are
        no others. `read` counts the samples that were read, `wanted` those of them that the task wants, and
        `begun` those that the other figures are of.
        """
        self._writes = False
        with self._begun(lacking_shards(self._parts)):
            first = self._timed(1)
            others = self._timed(num_samples)
        figures = others if others["begun"] else first
        return {**figures, "read": self._figures["read"], "wanted": self._figures["wanted"]}

    def _timed(self, num_samples: int) -> dict[str, float]:
        before, meter = self._figures.copy(), Meter(self._engine, waits=self._bill.waits)
        self._num_left = num_samples
        self._converse()
        names = ("begun", "answered", "requests", "tokens")
        counts: dict[str, float] = {name: self._figures[name] - before[name] for name in names}
        return counts | meter.read()

    @contextlib.contextmanager
    def _begun(self, handed_out: Iterable[HandedOut]) -> Iterator[None]:
        """Read the shards and prepare their samples; of shards that are open in the end nothing stays."""
        self._bill = Bill(Meter(self._engine, self._num_side_by_side))
        self._show_notes()
        preparing = self._engine.preparing if self._engine else Preparing()
        prepared = ahead(
            lambda read: read.prepare(preparing.decode),
            self._read(handed_out),
            num_workers=num_threads(preparing.workers, self._num_side_by_side),
            waits=self._bill.waits,
        )
        try:
            with contextlib.closing(prepared):
                self._feed = _in_batches(prepared, self._together) if self._together else prepared
                yield
        finally:
            for opened in self._open:
                opened.writer.abort()
            self._open.clear()

    def _converse(self) -> None:
        for result in self._engine.generate(self) if self._engine else map(_unasked, self):
            self._stop.check()
            self._take(result)
            self._show_notes()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AnyRequest:
        """A request that is ready, else the first of one sample more.

        It may run dry while answers are out and go on when they ask for more (see `Engine`); no generator can.
        """
        while not self._ready:
            if self._num_left <= 0:
                raise StopIteration
            read, made = next(self._feed)
            for opened in read.by:
                if read.sample is None:
                    opened.is_read = True
                    self._close_if_done(opened)
                else:
                    self._begin(opened, read.sample, made)
        return self._ready.popleft()

    def _begin(self, opened: _OpenShard, sample: Sample, made: Future[Any]) -> None:
        """Begin a talk about a sample, unless it cannot be prepared, or its layer was given up."""
        if self._has_failed(opened.part):
            self._progress.advance()
            return
        self._figures["begun"] += 1
        try:
            dialogue = opened.part.task.talk(opened.writer, sample, made.result())
        except DataError as error:
            opened.writer.reject(Reject(opened.writer.name, sample.key, "bad-image", str(error)))
            self._progress.advance()
            return
        self._num_left -= 1
        opened.num_talks += 1
        self._go_on(_Talk(opened, sample.key, dialogue), None)

    def _read(self, handed_out: Iterable[HandedOut]) -> Iterator[_Read]:
        """The samples that a task wants, and the ends of the shards."""
        for shard, parts in handed_out:
            self._stop.check()
            lacking = [part for part in parts if not self._has_failed(part)]
            if not lacking:
                continue
            opened = [_OpenShard(part, shard, part.layer.shard(shard)) for part in lacking]
            self._open += opened
            try:
                for sample in self._stop.each(samples_of([one.writer for one in opened])):
                    wanting = [one for one in opened if one.part.task.wants(one.writer, sample)]
                    self._figures.update(read=1, wanted=int(bool(wanting)))
                    if wanting:
                        yield _Read(wanting, sample)
                    if len(wanting) < len(opened):
                        self._progress.advance(len(opened) - len(wanting))
                self._unreadable.succeed()
            except DataError as error:
                self._progress.note(f"{error}; going on with the next shard")
                for one in opened:
                    one.is_broken = True
                self._unreadable.fail(error)
            yield _Read(opened)
            if self._unreadable.are_too_many:
                return

    def _go_on(self, talk: _Talk, results: list[Result] | None) -> None:
        """Hand a dialogue its results and queue what it asks next; None starts it."""
        try:
            requests = next(talk.dialogue) if results is None else talk.dialogue.send(results)
        except StopIteration:
            self._end(talk, was_asked=results is not None)
            return
        shard, layer = talk.opened.shard, talk.opened.part.layer.folder
        names = [f"{layer}\0{shard.name}\0{talk.key}\0{index}" for index in range(len(requests))]
        talk.requests = [
            dataclasses.replace(request, id=name, group=shard.url)
            for name, request in zip(names, requests, strict=True)
        ]
        talk.results = {}
        self._talks.update(dict.fromkeys(names, talk))
        # In front, before the rest of a sample of the next shard: a group's requests must not be interrupted.
        self._ready.extendleft(reversed(talk.requests))

    def _end(self, talk: _Talk, *, was_asked: bool) -> None:
        opened = talk.opened
        opened.num_talks -= 1
        if was_asked:
            opened.num_asked += 1
            opened.num_failed += talk.is_unanswered
            self._count(opened, answered=int(not talk.is_unanswered))
            self._weigh(opened.part, talk.error if talk.is_unanswered else None)
        self._progress.advance()
        self._close_if_done(opened)

    def _weigh(self, part: Part, error: str | None) -> None:
        """Hold what came of a sample against its layer's budget, and write no more of a layer that spent it."""
        if self._has_failed(part) or (why := self.failures.count(part.layer.layer, error)) is None:
            return
        self._progress.note(f"{part.layer.layer}: {why}; going on with the others")
        for opened in self._open:
            opened.is_broken |= opened.part is part

    def _has_failed(self, part: Part) -> bool:
        return self.failures.is_spent(part.layer.layer)

    def _take(self, result: Result) -> None:
        talk = self._talks.pop(result.id)
        talk.results[result.id] = result
        talk.error = result.error
        talk.is_unanswered &= result.error is not None
        self._count(talk.opened, tokens=result.num_tokens, requests=1)
        self._bill.work(talk.opened.part.layer.layer, result.num_tokens)
        if len(talk.results) == len(talk.requests):
            self._go_on(talk, [talk.results[request.id] for request in talk.requests])

    def _count(self, opened: _OpenShard, **figures: int) -> None:
        opened.writer.count(**figures)
        self._figures.update(figures)

    def _close_if_done(self, opened: _OpenShard) -> None:
        if not opened.is_read or opened.num_talks:
            return
        writer, layer = opened.writer, opened.part.layer.layer
        self._open.remove(opened)
        if opened.is_broken or not self._writes:
            writer.abort()
            return
        if self.failures[layer].gives_up(opened.num_asked, opened.num_failed):
            self._progress.note(f"the engine failed on every sample of {writer.name}, which is not written")
            writer.abort()
            return
        writer.count(**self._bill.charge(layer))
        writer.close()

    def _show_notes(self) -> None:
        notes = self._engine.notes if self._engine else []
        for note in notes[self._num_notes :]:
            self._progress.note(note)
        self._num_notes = len(notes)


def _in_batches(feed: Iterator[_Prepared], together: Together) -> Iterator[_Prepared]:
    """The same samples, after what was prepared of them went through `together` in batches of one shard."""
    batch: list[_Prepared] = []
    for prepared in feed:
        batch.append(prepared)
        if prepared[0].sample is None or len(batch) == BATCH:
            together([made.result() for read, made in batch if read.sample is not None])
            yield from batch
            batch = []


def _unasked(request: AnyRequest) -> Result:
    raise AssertionError(f"{request.id!r} needs an engine, and none was opened")
