"""Preparing samples ahead of the engine, so that it never waits for an image to be decoded.

Workers are threads: Pillow decodes and resizes outside the interpreter lock, nothing has to be
pickled, and no process is forked from one that has torch and its threads loaded. Of the same
decoding, worker processes did a third to nine tenths as much (JPEGs of 64 to 1600 pixels).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(
    function: Callable[[Item], Made], items: Iterable[Item], *, num_workers: int, window: int
) -> Generator[tuple[Item, Future[Made]], None, None]:
    """Each item with `function` of it, in order, worked out up to `window` items before they are taken.

    The future is done: its `result()` gives what was made or raises what `function` raised, so an
    item that fails stops nothing but itself. `items` is read in the caller's thread, never further
    than `window` ahead. Closing the generator drops what has not begun and waits for what has.
    """
    if num_workers < 1 or window < 1:
        raise ValueError(f"num_workers {num_workers} and window {window} must be at least 1")
    source = iter(items)
    queued: deque[tuple[Item, Future[Made]]] = deque()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="vila2-feed")
    try:
        while True:
            while len(queued) < window:
                try:
                    item = next(source)
                except StopIteration:
                    break
                queued.append((item, pool.submit(function, item)))
            if not queued:
                return
            item, future = queued.popleft()
            future.exception()  # waits
            yield item, future
    finally:
        pool.shutdown(cancel_futures=True)
