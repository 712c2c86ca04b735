"""Preparing samples ahead of the engine, so that it never waits for an image to be decoded.

Workers are threads: Pillow decodes and resizes outside the interpreter lock, nothing has to be
pickled, and no process is forked from one that has torch and its threads loaded.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from PIL import Image

from vila2cli.errors import Interrupted
from vila2cli.ranks import num_cores
from vila2cli.settings import Workers

MAX_AHEAD = 256
"""Samples prepared ahead of the engine's own window."""
MAX_BYTES = 128 << 20
"""Memory for what is prepared ahead, about: what is being made is guessed from what was made before."""
_FIRST_GUESS = 8 << 20
_MAX_THREADS = 16
_NICE = 10
"""Priority of threads that make pictures ready: a model of 40M parameters with a tower of 364 pixels that was
trained on the same two cores took up to 15% longer on photos than on prepared pictures without it, and as long
with it (benchmarks/photo_training.py)."""

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(slots=True)
class Waits:
    """Who waits for whom, in seconds: the engine for pictures, or pictures that are ready for the engine."""

    for_pictures: float = 0.0
    for_engine: float = 0.0
    settle: Callable[[], None] = lambda: None
    """Counts up to now, as is else done when the next picture is asked for: a model may take all at once."""


def num_threads(workers: Workers, num_side_by_side: int = 1) -> int:
    """How many threads prepare samples in one of as many processes; 0 for none but the caller's."""
    return min(_MAX_THREADS, max(1, num_cores() // num_side_by_side)) if workers == "auto" else workers


def threads_beside(num: int, name: str) -> ThreadPoolExecutor:
    """Threads that make way for those of a model that computes on the same cores.

    Each of its steps is as slow as its slowest thread, so that one which is put aside stops all of them.
    """
    return ThreadPoolExecutor(num, thread_name_prefix=name, initializer=_make_way)


def _make_way() -> None:
    if sys.platform == "linux":  # where it is of the thread alone
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def ahead(
    function: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    num_workers: int,
    window: int = MAX_AHEAD,
    max_bytes: int = MAX_BYTES,
    waits: Waits | None = None,
) -> Generator[tuple[Item, Future[Made]], None, None]:
    """Each item with `function` of it, in order, worked out up to `window` items before they are taken.

    The future is done: its `result()` gives what was made or raises what `function` raised, so an
    item that fails stops nothing but itself. `items` is read in the caller's thread, never further
    than `window` ahead, nor than what was made, and its files, take `max_bytes`. Without workers each is made
    when it is taken. Closing the generator drops what has not begun and leaves what has to its thread: a large
    picture takes longer than who stops a command means to wait.
    """
    if num_workers < 0 or window < 1:
        raise ValueError(f"num_workers {num_workers} must be at least 0 and window {window} at least 1")
    if not num_workers:
        yield from _one_by_one(function, items, waits or Waits())
        return
    pool = threads_beside(num_workers, "vila2-feed")
    waits = waits or Waits()
    line = _Line[Item, Made](min(window, num_workers + 1), window, max_bytes, waits)
    waits.settle = line.count_busy
    waits_for_all = True
    try:
        yield from line.taken(iter(items), lambda item: pool.submit(function, item))
    except (GeneratorExit, KeyboardInterrupt, Interrupted):
        waits_for_all = False
        raise
    finally:
        pool.shutdown(wait=waits_for_all, cancel_futures=True)


def _one_by_one(
    function: Callable[[Item], Made], items: Iterable[Item], waits: Waits
) -> Generator[tuple[Item, Future[Made]], None, None]:
    start_s = time.perf_counter()
    for item in items:
        future: Future[Made] = Future()
        try:
            future.set_result(function(item))
        except Exception as error:  # noqa: BLE001  (raised where the result is asked for)
            future.set_exception(error)
        waits.for_pictures += time.perf_counter() - start_s
        yield item, future
        start_s = time.perf_counter()


class _Line(Generic[Item, Made]):
    """Items that are worked on, or done, in order; between `least` and `most` of them."""

    def __init__(self, least: int, most: int, max_bytes: int, waits: Waits) -> None:
        self._least, self._most, self._max_bytes, self._waits = least, most, max_bytes, waits
        self._queued: deque[tuple[Item, Future[Made]]] = deque()
        self._recent: deque[int] = deque([_FIRST_GUESS], maxlen=32)  # bytes of what was made
        self._done_s = self._counted_s = 0.0

    def taken(
        self, source: Iterator[Item], submit: Callable[[Item], Future[Made]]
    ) -> Generator[tuple[Item, Future[Made]], None, None]:
        start_s = time.perf_counter()
        while self._fill(source, submit):
            item, future = self._queued.popleft()
            future.exception()  # waits
            self._counted_s = time.perf_counter()
            self._waits.for_pictures += self._counted_s - start_s
            yield item, future
            start_s = time.perf_counter()
            if self._queued:
                self.count_busy()

    def count_busy(self) -> None:
        """Count what the engine took while nothing was made for it."""
        now_s = time.perf_counter()
        if all(waiting.done() for _, waiting in self._queued):
            self._waits.for_engine += max(0.0, now_s - max(self._counted_s, self._done_s))
        self._counted_s = now_s

    def _fill(self, source: Iterator[Item], submit: Callable[[Item], Future[Made]]) -> bool:
        """Read as many more items as there is room for; False where none is left."""
        while self._has_room():
            try:
                item = next(source)
            except StopIteration:
                break
            future = submit(item)
            future.add_done_callback(partial(self._note, item))
            self._queued.append((item, future))
        return bool(self._queued)

    def _has_room(self) -> bool:
        num = len(self._queued)
        guess = sum(self._recent) / len(self._recent)
        return num < self._least or (num < self._most and num * guess < self._max_bytes)

    def _note(self, item: Item, future: Future[Made]) -> None:
        """Of what is done, in the thread that did it."""
        self._done_s = time.perf_counter()
        if not future.cancelled() and future.exception() is None:
            images = getattr(
                getattr(item, "sample", item), "images", ()
            )  # whose bytes stay beside what is made
            self._recent.append(sum(len(image.data) for image in images) + num_bytes(future.result()))


def num_bytes(made: Any) -> int:
    """The memory that the pictures among what was made of a sample take."""
    parts = made if isinstance(made, tuple) else (getattr(made, "image", None),)
    pictures = [one for one in parts if isinstance(one, Image.Image)]
    return sum(getattr(one, "num_bytes", 4 * one.width * one.height) for one in pictures)
