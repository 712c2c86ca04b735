"""Replicas: as many engines as a machine holds, a process each, that are handed shards as they ask for them.

The parent has the locks, the display, the log and the budgets, and hands out shards, largest first, so that
none is left for the end. A replica that dies is started again, and what it held is handed out once more. What
is written is what one engine writes, for a batch never crosses a shard on the hf engine.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vila2cli.ask.failures import Budgets
from vila2cli.ask.fill import Part, Together, lacking_shards
from vila2cli.ask.parts import tables_of
from vila2cli.ask.replica import Opener, Pass
from vila2cli.devices import shown_to
from vila2cli.errors import DataError, DataWarning, ModelError
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.run.workers import Worker
from vila2cli.shards import Shard, ShardStats, Unreadable
from vila2cli.shards.places import is_remote, local_path

if TYPE_CHECKING:  # it brings transformers, which takes seconds
    from vila2cli.engine.placing import EnginePlan

MAX_DEATHS = 3
"""Times that a replica may die over the same shard, or before it was handed one."""
_AHEAD = 4
"""A replica is handed a shard ahead while there are so many left for each."""
_GRACE_S = 2.0
"""Seconds that replicas get to end by themselves; they write whole shards or nothing, and may be killed."""


@dataclass(slots=True, eq=False)
class _Work:
    """A shard of the pass: who lacks it, and how often a replica died over it."""

    shard: Shard
    lacking: tuple[int, ...]
    num_deaths: int = 0


@dataclass(slots=True, eq=False)
class _Process:
    """A replica as the parent sees it: `held` was handed to it since it last had nothing in flight."""

    index: int
    process: "subprocess.Popen[bytes]"
    connection: Connection
    held: list[_Work] = field(default_factory=list)
    num_advanced: int = 0
    has_answered: bool = False
    is_filling: bool = False

    def send(self, value: Any) -> None:
        with contextlib.suppress(OSError):  # of one that died its end of the line says so in a moment
            self.connection.send(value)


class Replicas:
    """Several engines of one kind, started when they are needed; use it as a context manager."""

    def __init__(self, opener: Opener, plan: "EnginePlan", worker: Worker, stop: Stop) -> None:
        self._opener, self._plan, self._worker, self._stop = opener, plan, worker, stop
        self._processes: list[_Process] = []
        self._name: str | None = None
        self._pass: Pass | None = None
        self._todo: deque[_Work] = deque()
        self._progress: Progress | None = None
        self._budgets = Budgets({}, 1.0)
        self._unreadable = Unreadable()
        self._noted: set[str] = set()
        self._num_early_deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for one in self._processes:
            one.send(None)
            if kind is not None:
                _signal(one, signal.SIGTERM)
        end_s = time.monotonic() + _GRACE_S
        for one in self._processes:
            _end(one, end_s)
        self._processes.clear()

    @property
    def name(self) -> str:
        """The engine's name; waits until one is loaded."""
        self._start()
        while self._name is None:
            self._listen()
        return self._name

    def fill(
        self,
        parts: Sequence[Part],
        *,
        progress: Progress,
        max_reject_rate: float = 1.0,
        together: Together | None = None,
    ) -> None:
        """Write what the layers lack; raises as `Annotator.run` does, and ModelError if replicas keep dying."""
        index = {id(part): number for number, part in enumerate(parts)}
        work = [
            _Work(shard, tuple(index[id(part)] for part in lacking)) for shard, lacking in lacking_shards(parts)
        ]
        self._todo = deque(sorted(work, key=lambda one: _size(one.shard), reverse=True))
        self._pass, self._progress = Pass(parts, together, max_reject_rate), progress
        self._budgets = Budgets(tables_of(parts), max_reject_rate)
        self._unreadable = Unreadable()
        self._start()
        for one in self._processes:
            self._begin_pass(one)
        while any(one.is_filling for one in self._processes) or self._todo:
            self._listen()
            if not any(one.is_filling for one in self._processes):
                if not self._may_hand_out():
                    break
                for one in self._processes:  # what one that died had held, and the others were done
                    self._begin_pass(one)
        self._pass = self._progress = None
        self._unreadable.check()
        self._budgets.check()

    def _start(self) -> None:
        if not self._processes:
            self._processes = [self._start_one(index) for index in range(self._plan.replicas)]

    def _start_one(self, index: int) -> _Process:
        here, there = socket.socketpair()
        with here, there:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "vila2cli.ask.replica", str(there.fileno())],
                env={**os.environ, **self._environment(index)},
                stdin=subprocess.DEVNULL,
                stdout=2,  # what is asked for is printed by this process alone
                pass_fds=[there.fileno()],
                process_group=0,
            )
            one = _Process(index, process, Connection(here.detach()))
        num = self._plan.replicas
        one.send((self._opener, Worker(self._worker.index * num + index, self._worker.count * num)))
        return one

    def _environment(self, index: int) -> dict[str, str]:
        """What a replica may use: its GPUs, or as many threads as it has cores."""
        num = self._plan.per_replica
        paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        if self._plan.device == "core":
            return paths | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(num))
        return paths | shown_to(self._plan.gpus[index * num : (index + 1) * num])

    def _begin_pass(self, one: _Process) -> None:
        if self._pass is not None:
            one.is_filling = True
            one.send(self._pass)

    def _listen(self) -> None:
        """Take in what replicas say until there was something; raises Interrupted after a signal."""
        by_connection = {one.connection: one for one in self._processes}
        with self._stop.at_once():
            said = wait(list(by_connection))
        for connection in said:
            assert isinstance(connection, Connection)
            one = by_connection[connection]
            try:
                name, *values = connection.recv()
            except (EOFError, OSError):
                self._bury(one)
            else:
                getattr(self, f"_on_{name}")(one, *values)

    def _on_ready(self, one: _Process, name: str) -> None:
        self._name = name

    def _on_ask(self, one: _Process, ahead: bool) -> None:
        if not ahead:
            one.held.clear()
            one.num_advanced = 0
        enough = not ahead or len(self._todo) > _AHEAD * len(self._processes)
        if not (enough and self._may_hand_out()):
            one.send(None)
            return
        work = self._todo.popleft()
        one.held.append(work)
        assert self._pass is not None, "shards are asked for in a pass"
        layers = {part.layer.layer for part in self._pass.parts}
        one.send((work.shard, work.lacking, frozenset(filter(self._budgets.is_spent, layers))))

    def _may_hand_out(self) -> bool:
        return bool(self._todo) and not self._unreadable.are_too_many

    def _on_filled(self, one: _Process) -> None:
        one.held.clear()
        one.is_filling = False

    def _on_advance(self, one: _Process, num: int) -> None:
        one.num_advanced += num
        if self._progress is not None:
            self._progress.advance(num)

    def _on_note(self, one: _Process, text: str) -> None:
        """Show a note; what every replica says of itself is shown once."""
        if text not in self._noted and self._progress is not None:
            self._noted.add(text)
            self._progress.note(text)

    def _on_beat(self, one: _Process, doing: str) -> None:
        if self._progress is not None:
            self._progress.beat(doing)

    def _on_warning(self, one: _Process, text: str) -> None:
        warnings.warn(text, DataWarning, stacklevel=2)

    def _on_read(self, one: _Process, error: str | None) -> None:
        if error is None:
            self._unreadable.succeed()
        else:
            self._unreadable.fail(DataError(error))

    def _on_asked(self, one: _Process, layer: str, error: str | None) -> None:
        one.has_answered = True
        if self._budgets.is_spent(layer):
            return
        why = self._budgets.count(layer, error)
        if why is not None and self._progress is not None:
            self._progress.note(f"{layer}: {why}; going on with the others")

    def _on_lost(self, one: _Process, layer: str) -> None:
        self._budgets.gives_up(layer, 1, 1)

    def _on_error(self, one: _Process, kind: type[Exception], text: str) -> None:
        """A replica ended with an error: of one that had answered, the engine may have died."""
        if kind is not ModelError or not one.has_answered:
            raise kind(text)
        self._bury(one, text)

    def _on_defect(self, one: _Process, trace: str) -> None:
        raise RuntimeError(f"a replica failed:\n{trace}")

    def _bury(self, one: _Process, why: str = "") -> None:
        """Start another one in place of one that died, and hand out again what it held and has not written."""
        _end(one, time.monotonic())
        code = one.process.returncode
        why = why or (f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}")
        # One that dies while it loads, before there is a pass, has held and written nothing.
        num_lost = max(0, one.num_advanced - self._num_written(one.held)) if one.held else 0
        again = [work for work in one.held if self._is_lacking(work)]
        for work in again:
            work.num_deaths += 1
        self._todo.extendleft(reversed(again))
        self._num_early_deaths += not one.held
        most = max([work.num_deaths for work in again], default=0)
        if max(most, self._num_early_deaths) >= MAX_DEATHS:
            where = f" over shard {again[0].shard.name}" if most >= MAX_DEATHS else ""
            raise ModelError(
                f"a replica ended {MAX_DEATHS} times{where}, the last time {why}; shards finished before stay: "
                "run the same command again, with a smaller batch_size or engine.replicas if memory ran out"
            )
        if self._progress is not None:
            self._progress.note(f"replica {one.index} ended {why} and is started again")
            self._progress.num_done -= num_lost
        fresh = self._start_one(one.index)
        self._processes[self._processes.index(one)] = fresh
        self._begin_pass(fresh)

    def _is_lacking(self, work: _Work) -> bool:
        """Whether a layer still lacks a shard; of those that have it by now no more is written."""
        assert self._pass is not None, "shards are held in a pass"
        parts = self._pass.parts
        work.lacking = tuple(i for i in work.lacking if work.shard.name not in parts[i].layer.done())
        return bool(work.lacking)

    def _num_written(self, held: Sequence[_Work]) -> int:
        """Samples in those of the shards that were written before their replica died."""
        assert self._pass is not None, "shards are held in a pass"
        num_written = 0
        for work in held:
            for index in work.lacking:
                part = self._pass.parts[index]
                path = part.layer.folder / f"{work.shard.name}.stats.json"
                if path.is_file():
                    counted = None if part.counted is None else part.counted.get(work.shard.name, ())
                    num_written += ShardStats.read(path).num_in if counted is None else len(counted)
        return num_written


def _size(shard: Shard) -> int:
    """Bytes of a shard on this machine, 0 elsewhere."""
    if is_remote(shard.url):
        return 0
    path = Path(local_path(shard.url))
    return path.stat().st_size if path.is_file() else 0


def _signal(one: _Process, number: signal.Signals) -> None:
    """Signal a replica and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(one.process.pid, number)


def _end(one: _Process, end_s: float) -> None:
    """Wait for a replica until a time, then kill it and what it started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        one.process.wait(max(0.0, end_s - time.monotonic()))
    _signal(one, signal.SIGKILL)
    one.process.wait()
    one.connection.close()
