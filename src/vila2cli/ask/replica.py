"""A replica: a process with an engine of its own that fills the shards it is handed, until its parent ends.

`python -m vila2cli.ask.replica FD` is what `replicas` starts; FD is its end of a socket pair. A thread reads
what the parent says. When the parent is gone, however it went, the thread ends this process and all that it
started, so that nothing goes on writing.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from vila2cli.ask.fill import HandedOut, Part, Together
    from vila2cli.engine import Engine
    from vila2cli.run.stopping import Stop
    from vila2cli.run.workers import Worker


class Opener(Protocol):
    """Opens the engine of a replica, the `worker`-th of as many; what it holds open goes into `held`."""

    def __call__(self, worker: "Worker", stop: "Stop", held: ExitStack) -> "Engine": ...


@dataclass(frozen=True, slots=True)
class Pass:
    """Layers to fill: what is common to all shards that are handed out."""

    parts: "Sequence[Part]"
    together: "Together | None"
    max_reject_rate: float


class Channel:
    """The replica's end: messages are (name, values...) to the parent; what it says waits in a queue."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._said: SimpleQueue[bytes] = SimpleQueue()
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="vila2-parent").start()

    def _listen(self) -> None:
        while True:
            try:
                self._said.put(self._connection.recv_bytes())
            except (EOFError, OSError):
                os.killpg(os.getpgrp(), signal.SIGKILL)

    def send(self, name: str, *values: Any) -> None:
        with self._sending:
            self._connection.send((name, *values))

    def take(self, stop: "Stop") -> Any:
        """What the parent says next."""
        with stop.at_once():
            # Not in the thread: it imports torch, and an end of the parent has to be seen meanwhile.
            return ForkingPickler.loads(self._said.get())


def main() -> None:
    """Open an engine and fill passes until the parent says that there are none."""
    channel = Channel(Connection(int(sys.argv[1])))
    from vila2cli.errors import Interrupted, Vila2Error
    from vila2cli.run.child import COLLECT_AFTER, end_at_once
    from vila2cli.run.stopping import interruptible

    gc.set_threshold(*COLLECT_AFTER)
    code = 0
    try:
        with _warnings_to(channel), interruptible() as stop, ExitStack() as held:
            opener, worker = channel.take(stop)
            engine = opener(worker, stop, held)
            channel.send("ready", engine.name)
            while (given := channel.take(stop)) is not None:
                _fill(engine, given, worker.count, channel, stop)
                channel.send("filled")
    except Interrupted as error:
        code = error.exit_code
    except Vila2Error as error:
        channel.send("error", type(error), str(error))
    except BrokenPipeError:  # the parent is gone, and the thread that reads will end this process
        signal.pause()
    except Exception:  # noqa: BLE001  (a defect: its traceback belongs to the parent)
        channel.send("defect", traceback.format_exc())
    end_at_once(code)  # while the interpreter frees its memory no thread would see that the parent is gone


def _fill(engine: "Engine", given: Pass, num_side_by_side: int, channel: Channel, stop: "Stop") -> None:
    from vila2cli.ask.fill import Annotator

    reports = _Reports(channel, given)
    stop.on_beat = reports.beat

    def next_shard(*, ahead: bool) -> "HandedOut | None":
        """A shard, those of the pass's layers that lack it, and the layers that were given up meanwhile."""
        channel.send("ask", ahead)
        if (handed := channel.take(stop)) is None:
            return None
        shard, lacking, reports.budgets.given_up = handed
        return shard, [given.parts[index] for index in lacking]

    while (first := next_shard(ahead=False)) is not None:
        annotator = Annotator(
            engine,
            given.parts,
            stop=stop,
            progress=reports,
            together=given.together,
            budgets=reports.budgets,
            unreadable=reports.unreadable,
            num_side_by_side=num_side_by_side,
        )
        # As long as there are many left for everybody those after it, too, so that nothing runs dry.
        annotator.fill(chain([first], iter(partial(next_shard, ahead=True), None)))


class _Reports:
    """What the loop counts and says, told to the parent, which sums it up over the replicas."""

    def __init__(self, channel: Channel, given: Pass) -> None:
        from vila2cli.ask.failures import Budgets, EngineFailures
        from vila2cli.errors import DataError
        from vila2cli.shards import Unreadable

        class ReportedBudgets(Budgets):
            given_up: frozenset[str] = frozenset()

            def gives_up(self, layer: str, num_asked: int, num_failed: int) -> bool:
                is_lost = EngineFailures(given.max_reject_rate).gives_up(num_asked, num_failed)
                if is_lost:
                    channel.send("lost", layer)
                return is_lost

            def is_spent(self, layer: str) -> bool:
                return layer in self.given_up

            def count(self, layer: str, error: str | None) -> str | None:
                channel.send("asked", layer, error)
                return None

        class ReportedUnreadable(Unreadable):
            def succeed(self) -> None:
                super().succeed()
                channel.send("read", None)

            def fail(self, error: DataError) -> None:
                super().fail(error)
                channel.send("read", str(error))

        self._channel, self._last_beat_s = channel, 0.0
        self.budgets = ReportedBudgets({}, given.max_reject_rate)
        self.unreadable = ReportedUnreadable()

    def advance(self, n: int = 1) -> None:
        self._channel.send("advance", n)

    def note(self, text: str) -> None:
        self._channel.send("note", text)

    def beat(self, doing: str) -> None:
        """Tell what is going on where there is no result for long, once in a second."""
        if time.monotonic() - self._last_beat_s >= 1.0:
            self._last_beat_s = time.monotonic()
            self._channel.send("beat", doing)


@contextlib.contextmanager
def _warnings_to(channel: Channel) -> Iterator[None]:
    """Hand warnings about data to the parent, which shows them as its own."""
    from vila2cli.errors import DataWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, DataWarning):
                channel.send("warning", str(message))
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


if __name__ == "__main__":
    # Under its own name, which is how its classes are known on both sides.
    from vila2cli.ask.replica import main as run_replica

    run_replica()
