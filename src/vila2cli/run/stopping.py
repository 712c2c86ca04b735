"""How a stage stops: signals become an error where it is safe, and exit code 75."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from vila2cli.errors import Interrupted, Vila2Error

T = TypeVar("T")
_ANSWER_S = 0.5
"""After which Ctrl-C is answered by a line where it has not stopped the stage yet."""


class _Now(BaseException):
    """What a signal raises where it may be raised: no library that tries an import or a file swallows it."""


@dataclass(slots=True)
class Stop:
    """Whether a signal asked to stop; `check` is called where it is safe to.

    `on_beat` is told what is going on, many times a second, by work that gives no result for long.
    """

    reason: str | None = None
    on_beat: Callable[[str], None] | None = None
    _raises: bool = False
    _answer: threading.Timer | None = None

    def check(self) -> None:
        """Raise Interrupted when a signal has come."""
        if self.reason is not None:
            raise Interrupted(f"stopped by {self.reason}; run the same command again to go on")

    def beat(self, doing: str) -> None:
        """`check`, and tell what is going on."""
        self.check()
        if self.on_beat is not None:
            self.on_beat(doing)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "SIGINT":
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        if self._raises:
            raise _Now
        if number == signal.SIGINT:
            self._answer = threading.Timer(_ANSWER_S, _say_that_it_stops)
            self._answer.daemon = True
            self._answer.start()

    def end(self) -> None:
        """Nobody waits for an answer any more."""
        if self._answer is not None:
            self._answer.cancel()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise Interrupted the moment a signal comes, in a block that may wait and can be left anywhere."""
        was, self._raises = self._raises, True
        try:
            self.check()
            yield
            self.check()
        except _Now:
            self.check()
        finally:
            self._raises = was

    def each(self, source: Iterable[T]) -> Iterator[T]:
        """What a source gives, `at_once` while it is waited for."""
        iterator = iter(source)
        while True:
            with self.at_once():
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield value


@contextlib.contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn SIGTERM, SIGUSR1 and the first SIGINT into a flag that `Stop.check` raises on.

    An error that follows from the signal, or only comes after it, is raised as Interrupted. A second SIGINT
    raises KeyboardInterrupt at once. Only the main thread can be asked to stop.
    """
    stop = Stop()
    with _handling((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT), stop.handle):
        try:
            yield stop
        except (Vila2Error, _Now):  # the latter where a signal came as a block was being left
            stop.check()
            raise
        finally:
            stop.end()


def _say_that_it_stops() -> None:
    """Answer Ctrl-C where what is begun has to be finished first, as a step of a training."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("vila2: stopping after what is being done now; Ctrl-C again stops at once\n")
        sys.stderr.flush()


@contextlib.contextmanager
def raising_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGUSR1 into Interrupted where they come, outside of blocks that are `interruptible`.

    What an import that was interrupted makes of it, a ModuleNotFoundError say, is raised as Interrupted, too.
    """
    stop = Stop(_raises=True)
    with _handling((signal.SIGTERM, signal.SIGUSR1), stop.handle):
        try:
            yield
        except (Exception, _Now):
            stop.check()
            raise


@contextlib.contextmanager
def _handling(
    signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handle signals, and put back what handled them before."""
    old: dict[signal.Signals, Any] = {}
    try:
        for caught in signals:
            with contextlib.suppress(ValueError):  # not in the main thread
                old[caught] = signal.signal(caught, handler)
        yield
    finally:
        for caught, before in old.items():
            signal.signal(caught, before)
