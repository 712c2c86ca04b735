"""Who holds up a step, told from how far each process has come."""

import io
import threading
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from vila2cli.train.watch import Watch, held_up_by


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({0: 3, 2: 3}, "process 1 does not answer"),
        ({0: 3, 1: 3, 2: 2}, "process 2 has not come as far as the others"),
        ({0: 1, 1: 2, 2: 1}, "process 0, 2 has not come as far as the others"),
        ({0: 2, 1: 2, 2: 2}, "all processes have come as far"),
    ],
)
def test_who_holds_up_a_step(marks: dict[int, int], said: str) -> None:
    assert held_up_by(marks, 3).startswith(said)


def test_one_process_speaks_and_names_the_other() -> None:
    store = HashStore()
    store.set_timeout(timedelta(seconds=5))
    streams = [io.StringIO(), io.StringIO()]
    ended = threading.Event()

    def work(index: int, parts: int) -> None:
        watch = Watch(index, 2, 0.2, store, streams[index])
        with watch.over("step 7"):
            for _ in range(parts):
                watch.advance()
            ended.wait(10)

    threads = [threading.Thread(target=work, args=(index, parts)) for index, parts in enumerate((4, 3))]
    for thread in threads:
        thread.start()
    while not any(stream.getvalue() for stream in streams) and threads[0].is_alive():
        threads[0].join(0.1)
    ended.set()
    for thread in threads:
        thread.join()
    assert streams[0].getvalue() == "step 7: process 1 has not come as far as the others (after 0.2 seconds)\n"
    assert streams[1].getvalue() == ""


def test_a_step_that_ends_in_time_is_not_spoken_of() -> None:
    store, stream = HashStore(), io.StringIO()
    watch = Watch(0, 1, 10.0, store, stream)
    for number in range(3):
        with watch.over(f"step {number}"):
            watch.advance()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert stream.getvalue() == ""
