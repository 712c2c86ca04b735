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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from vila2cli.ask.failures import Budgets
from vila2cli.ask.meter import Bill, Meter
from vila2cli.ask.parts import Dialogue as Dialogue
from vila2cli.ask.parts import HandedOut as HandedOut
from vila2cli.ask.parts import Part as Part
from vila2cli.ask.parts import SampleTask as SampleTask
from vila2cli.ask.parts import Together as Together
from vila2cli.ask.parts import lacking_shards as lacking_shards
from vila2cli.ask.parts import tables_of
from vila2cli.ask.waiting import OpenShard, wait_for
from vila2cli.engine import AnyRequest, Engine, Preparing, Result
from vila2cli.errors import DataError
from vila2cli.image import Decode
from vila2cli.run.feed import ahead, num_threads
from vila2cli.run.stopping import Stop
from vila2cli.shards import Unreadable, samples_of
from vila2cli.shards.sample import Reject, Sample

BATCH = 32
"""Samples that are handed to a `Together` at once."""


class Shown(Protocol):
    """Where it is shown how far the work is: `run.progress.Progress`, or what hands it on to one."""

    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(slots=True)
class _Talk:
    """One sample's dialogue: the requests of its last step and the results that are back.

    `error` is the last of the engine's, as long as it `is_unanswered`.
    """

    opened: OpenShard
    key: str
    dialogue: Dialogue
    requests: list[AnyRequest] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    error: str | None = None
    is_unanswered: bool = True


@dataclass(frozen=True, slots=True)
class _Read:
    """A sample and the open shards of the layers whose tasks want it; without one, shards that end there."""

    by: Sequence[OpenShard]
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
        self._open: list[OpenShard] = []
        self._talks: dict[str, _Talk] = {}
        self._ready: deque[AnyRequest] = deque()
        self._after: deque[AnyRequest] = deque()
        self._figures: Counter[str] = Counter()
        self._feed: Iterator[_Prepared] = iter(())
        self._num_left = math.inf
        self._writes, self._is_warming_up = True, False
        self._num_notes = 0
        self._num_side_by_side = num_side_by_side
        self._bill = Bill(Meter(engine, num_side_by_side))
        self._unreadable = unreadable or Unreadable()
        self.failures = budgets or Budgets(tables_of(parts), max_reject_rate)

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

        One sample goes before them, on which the engine sizes its batches, and is counted only if there are
        no others; a server needs none. `read` counts the samples that were read, `wanted` what the tasks want
        of them, and `begun` what of that the other figures are of.
        """
        self._writes = False
        with self._begun(lacking_shards(self._parts)):
            self._is_warming_up = self._engine is not None and self._engine.name != "api"
            first = self._timed(1) if self._is_warming_up else {}
            self._is_warming_up = False
            others = self._timed(num_samples)
        figures = others if others["begun"] or not first else first
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
        while not (self._ready or self._after):
            if self._num_left <= 0:
                raise StopIteration
            read, made = next(self._feed)
            for opened in read.by:
                if read.sample is None:
                    opened.is_read = True
                    self._close_if_done(opened)
                else:
                    self._begin(opened, read.sample, made)
        # What waited goes first, for it is of a shard that is asked about.
        return (self._after or self._ready).popleft()

    def _begin(self, opened: OpenShard, sample: Sample, made: Future[Any]) -> None:
        """Begin a talk about a sample, or let it wait for the layers before its own."""
        opened.pending.add(sample.key)
        if opened.waiting is None:
            self._start(opened, sample, made)
        else:
            opened.waiting.held.append((sample, made))
            self._go_on_with(opened)

    def _go_on_with(self, opened: OpenShard) -> None:
        """Begin the talks of a layer that wait for nothing more."""
        if opened.waiting is not None:
            for sample, made in opened.waiting.ready():
                self._start(opened, sample, made)

    def _start(self, opened: OpenShard, sample: Sample, made: Future[Any]) -> None:
        """Begin a talk about a sample, unless it cannot be prepared, or its layer was given up."""
        if self._has_failed(opened.part):
            self._settle(opened, sample.key)
            return
        self._figures["begun"] += 1
        try:
            dialogue = opened.part.task.talk(opened.writer, sample, made.result())
        except DataError as error:
            opened.writer.reject(Reject(opened.writer.name, sample.key, "bad-image", str(error)))
            self._settle(opened, sample.key)
            return
        self._num_left -= 1
        self._go_on(_Talk(opened, sample.key, dialogue), None)

    def _read(self, handed_out: Iterable[HandedOut]) -> Iterator[_Read]:
        """The samples that a task wants, and the ends of the shards."""
        for shard, parts in handed_out:
            self._stop.check()
            lacking = [part for part in parts if not self._has_failed(part)]
            if not lacking:
                continue
            opened = [OpenShard(part, shard, part.layer.shard(shard)) for part in lacking]
            self._open += opened
            try:
                for one in opened:
                    wait_for(one, opened)
                for sample in self._stop.each(samples_of([one.writer for one in opened])):
                    wanting = [one for one in opened if one.part.task.wants(one.writer, sample)]
                    self._figures.update(read=1, wanted=len(wanting))
                    if wanting:
                        yield _Read(wanting, sample)
                    passed = [one for one in opened if one not in wanting]
                    if num := sum(one.part.counts(shard, sample.key) for one in passed):
                        self._progress.advance(num)
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
            dataclasses.replace(request, id=name, group=shard.url, part=talk.opened.part.layer.layer)
            for name, request in zip(names, requests, strict=True)
        ]
        talk.results = {}
        self._talks.update(dict.fromkeys(names, talk))
        if results is None and talk.opened.waiting is not None:
            self._after.extend(talk.requests)  # in the order of the samples, as a pass of its own has them
            return
        # In front, before the rest of a sample of the next shard: a group's requests must not be interrupted.
        self._ready.extendleft(reversed(talk.requests))

    def _end(self, talk: _Talk, *, was_asked: bool) -> None:
        opened = talk.opened
        if was_asked:
            opened.num_asked += 1
            opened.num_failed += talk.is_unanswered
            self._count(opened, answered=int(not talk.is_unanswered))
            self._weigh(opened.part, talk.error if talk.is_unanswered else None)
        self._settle(opened, talk.key)

    def _settle(self, opened: OpenShard, key: str) -> None:
        """Note that nothing more will be said of a sample in a layer, and go on with what waited for that."""
        opened.pending.remove(key)
        if not self._is_warming_up:
            self._progress.advance()
        for other in self._after_it(opened):
            self._go_on_with(other)
        self._close_if_done(opened)

    def _after_it(self, opened: OpenShard) -> list[OpenShard]:
        return [one for one in self._open if opened in one.before]

    def _weigh(self, part: Part, error: str | None) -> None:
        """Hold what came of a sample against its layer's budget, and write no more of a layer that spent it."""
        if self._has_failed(part) or (why := self.failures.count(part.layer.layer, error)) is None:
            return
        self._progress.note(f"{part.layer.layer}: {why}; going on with the others")
        for opened in self._open:
            opened.is_broken |= opened.part is part

    def _has_failed(self, part: Part) -> bool:
        """Whether a layer is written no further, or one that it uses is not."""
        return any(self.failures.is_spent(one.layer) for one in (part.layer, *part.uses))

    def _take(self, result: Result) -> None:
        talk = self._talks.pop(result.id)
        talk.results[result.id] = result
        talk.error = result.error
        talk.is_unanswered &= result.error is not None
        self._count(talk.opened, tokens=result.num_tokens, requests=1)
        self._bill.work(talk.opened.part.layer.layer, result.num_tokens)
        if len(talk.results) == len(talk.requests):
            self._go_on(talk, [talk.results[request.id] for request in talk.requests])

    def _count(self, opened: OpenShard, **figures: int) -> None:
        opened.writer.count(**figures)
        self._figures.update(figures)

    def _close_if_done(self, opened: OpenShard) -> None:
        """Write or give up a shard of which nothing is left, and then those of layers that waited for it."""
        if not opened.is_done or opened not in self._open or any(one in self._open for one in opened.before):
            return
        self._open.remove(opened)
        opened.is_broken |= any(one.is_broken for one in opened.before)
        self._close(opened)
        for other in self._after_it(opened):
            self._close_if_done(other)

    def _close(self, opened: OpenShard) -> None:
        writer, layer = opened.writer, opened.part.layer.layer
        if not opened.is_broken and self._writes:
            if not self.failures.gives_up(layer, opened.num_asked, opened.num_failed):
                writer.count(**self._bill.charge(layer))
                writer.close()
                return
            self._progress.note(f"the engine failed on every sample of {writer.name}, which is not written")
            opened.is_broken = True
        writer.abort()

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
