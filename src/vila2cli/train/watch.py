"""Says which process holds up a step, while the others wait for it inside a collective.

A GPU waits for the others in silence, and when its group's time is up NCCL's watchdog ends the process with
the name of a collective. So a thread speaks before: each process leaves how far it has come in the store
that they met at. A process that leaves nothing is dead or frozen; one that is behind is where it stopped.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

ANSWER_S = 5.0
"""How long the processes may take to say how far they are: they begin a step together."""
_POLL_S = 0.1


class Watch:
    """How far this process has come in a step, and a thread for the time when it takes too long.

    `store` is one of torch.distributed, None with a single process, which is never watched.
    """

    def __init__(
        self, index: int, count: int, timeout_s: float, store: Any = None, stream: TextIO | None = None
    ) -> None:
        self._index, self._count, self._timeout_s = index, count, timeout_s
        self._store, self._stream = store, stream or sys.stderr
        self._mark = 0
        self._steps = 0

    def advance(self) -> None:
        """Note that another part of the step is done, as the others note it of theirs."""
        self._mark += 1

    @contextlib.contextmanager
    def over(self, where: str) -> Iterator[None]:
        """Watch a step, which all processes begin together; `where` says which."""
        self._mark, self._steps = 0, self._steps + 1
        if self._store is None:
            yield
            return
        timer = threading.Timer(self._timeout_s, self._tell, (where, self._steps))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def missing(self) -> str:
        """Which processes do not answer, in words; "" where that cannot be told, as the store went with one."""
        names = [f"vila2/here/{index}" for index in range(self._count)]
        with contextlib.suppress(RuntimeError):
            self._store.set(names[self._index], "0")
            marks = self._wait_for(names)
            if len(marks) < self._count:
                return held_up_by(marks, self._count)
        return f"process {1 - self._index} does not answer" if self._count == 2 else ""

    def _tell(self, where: str, step: int) -> None:
        names = [f"vila2/watch/{step}/{index}" for index in range(self._count)]
        with contextlib.suppress(RuntimeError):  # the process that keeps the store may be the one that is gone
            self._store.set(names[self._index], str(self._mark))
            marks = self._wait_for(names)
            if self._index == min(marks):
                said = held_up_by(marks, self._count)
                self._stream.write(f"{where}: {said} (after {self._timeout_s:g} seconds)\n")
                self._stream.flush()

    def _wait_for(self, names: list[str]) -> Mapping[int, int]:
        """The marks of the processes that left one in time."""
        end_s = time.monotonic() + ANSWER_S
        while not (is_whole := self._store.check(names)) and time.monotonic() < end_s:
            time.sleep(_POLL_S)
        found = [(i, name) for i, name in enumerate(names) if is_whole or self._store.check([name])]
        return {i: int(self._store.get(name)) for i, name in found}


def held_up_by(marks: Mapping[int, int], count: int) -> str:
    """Who holds up a step, in words, by how far each process that answers has come."""
    if missing := [str(index) for index in range(count) if index not in marks]:
        return f"process {', '.join(missing)} does not answer"
    behind = [str(index) for index, mark in marks.items() if mark < max(marks.values())]
    if behind:
        return f"process {', '.join(behind)} has not come as far as the others"
    return "all processes have come as far, and wait for each other's devices or network"
