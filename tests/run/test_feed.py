import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.run.feed import Waits, ahead
from vila2cli.shards.sample import EncodedImage, Sample

_MOST = 19
"""The lowest priority that there is."""
_LONG_S = 600
"""Longer than this process may be stopped for: only a defect is waited for so long."""


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vila2-feed")]


def num_feed_threads() -> int:
    return len(feed_threads())


def test_results_come_in_order_whatever_finishes_first() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 3 else 0)
        return number * number

    made = [
        (item, future.result()) for item, future in ahead(slow_at_first, range(20), num_workers=4, window=8)
    ]
    assert made == [(number, number * number) for number in range(20)]
    assert num_feed_threads() == 0


def test_a_failure_belongs_to_its_item() -> None:
    def odd_only(number: int) -> int:
        if number % 2 == 0:
            raise DataError(f"{number} is even")
        return number

    kept, failed = [], []
    for item, future in ahead(odd_only, range(10), num_workers=2, window=4):
        try:
            kept.append(future.result())
        except DataError as error:
            failed.append((item, str(error)))
    assert kept == [1, 3, 5, 7, 9]
    assert failed == [(number, f"{number} is even") for number in (0, 2, 4, 6, 8)]


def test_never_more_than_the_window_is_read_ahead() -> None:
    num_read, num_taken = 0, 0

    def source() -> Iterator[int]:
        nonlocal num_read
        for number in range(100):
            num_read += 1
            assert num_read - num_taken <= 7
            yield number

    for _ in ahead(lambda number: number, source(), num_workers=3, window=7):
        num_taken += 1
    assert num_taken == num_read == 100


def test_items_are_worked_on_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=_LONG_S)  # passes only when three are in it at once
    made = ahead(lambda _: together.wait(), range(9), num_workers=3, window=9)
    assert sorted(future.result() for _, future in made) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_stopping_early_leaves_no_thread_and_begins_nothing_more() -> None:
    begun: list[int] = []
    goes_on = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number:
            goes_on.wait(_LONG_S)

    made = ahead(work, range(1000), num_workers=2, window=50)
    next(made)
    made.close()  # type: ignore[attr-defined]
    goes_on.set()
    for thread in feed_threads():
        thread.join(_LONG_S)
    assert num_feed_threads() == 0
    assert set(begun) <= {0, 1, 2}


def test_stopping_does_not_wait_for_what_was_begun() -> None:
    goes_on = threading.Event()
    made = ahead(lambda number: number and goes_on.wait(_LONG_S), range(9), num_workers=2, window=9)
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert num_feed_threads() > 0
    goes_on.set()
    for thread in feed_threads():  # the next test counts them
        thread.join()


def test_an_error_of_the_source_is_raised_as_it_is() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise DataError("the shard is cut off")

    with pytest.raises(DataError, match="cut off"):
        list(ahead(lambda number: number, source(), num_workers=1, window=4))
    assert num_feed_threads() == 0


def test_without_workers_each_is_made_when_it_is_taken() -> None:
    begun: list[int] = []
    made = ahead(lambda number: begun.append(number) or number, range(3), num_workers=0)
    for number, future in made:
        assert begun[-1] == number == future.result()
        assert num_feed_threads() == 0


def test_large_pictures_are_made_less_far_ahead() -> None:
    num_made, num_taken, most = 0, 0, 0

    def large(number: int) -> tuple[Image.Image, ...]:
        nonlocal num_made
        num_made += 1
        return (Image.new("RGB", (500, 500)),)  # a megabyte

    for _ in ahead(large, range(200), num_workers=1, window=100, max_bytes=10_000_000):
        num_taken += 1
        if num_taken > 40:  # by then what they take is known
            most = max(most, num_made - num_taken)
            time.sleep(0.001)
    assert num_taken == num_made == 200
    assert 1 <= most <= 11


def test_who_waits_for_whom_is_counted() -> None:
    slow_made, slow_taken = Waits(), Waits()
    is_asked_for = [threading.Event() for _ in range(10)]

    def source() -> Iterator[int]:
        for number in range(10):
            yield number
            is_asked_for[number].set()  # as the next one is read

    def make(number: int) -> None:
        is_asked_for[number].wait(_LONG_S)
        time.sleep(0.01)

    for _ in ahead(make, source(), num_workers=1, window=2, waits=slow_made):
        pass
    for _ in ahead(str, range(10), num_workers=1, window=2, waits=slow_taken):
        time.sleep(0.02)
    assert (slow_made.for_pictures >= 0.1, slow_made.for_engine) == (True, 0)
    assert slow_taken.for_engine >= 0.02


def test_an_engine_that_takes_all_at_once_is_waited_for_until_it_is_settled() -> None:
    waits = Waits()
    made = ahead(str, range(4), num_workers=1, window=8, waits=waits)
    assert len([next(made) for _ in range(4)]) == 4
    time.sleep(0.1)
    waits.settle()
    after_first = waits.for_engine
    assert after_first >= 0.1
    assert next(made, None) is None
    time.sleep(0.1)
    waits.settle()
    assert waits.for_engine >= after_first + 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_workers_make_way_for_what_computes_beside_them() -> None:
    def priority(_: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    made = {future.result() for _, future in ahead(priority, range(4), num_workers=2)}
    assert min(made) > priority(0) or priority(0) == _MOST


def test_the_files_of_what_is_prepared_are_counted_with_it() -> None:
    """A photo that is made small may be of many bytes."""
    num_read = num_taken = most = 0

    def source() -> Iterator[Sample]:
        nonlocal num_read
        for number in range(200):
            num_read += 1
            yield Sample(key=str(number), images=(EncodedImage(bytes(1000), "jpg"),))

    for _ in ahead(lambda _: (), source(), num_workers=1, window=100, max_bytes=10_000):
        num_taken += 1
        if num_taken > 40:  # by then what they take is known
            most = max(most, num_read - num_taken)
    assert num_taken == num_read == 200
    assert 1 <= most <= 11
