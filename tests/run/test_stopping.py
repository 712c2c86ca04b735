import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from vila2cli.errors import DataError, Interrupted
from vila2cli.run.stopping import interruptible, raising_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_at_the_next_check(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=number.name) as error:
            stop.check()
    assert error.value.exit_code == 75
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_outside_of_a_stage_a_signal_stops_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def try_an_import() -> None:
        with raising_on_signals():
            with interruptible():
                os.kill(os.getpid(), number)
            with contextlib.suppress(Exception):  # as libraries do
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=number.name):
        try_an_import()
    assert signal.getsignal(number) is before


def test_a_signal_in_the_moment_a_block_is_left_is_an_interruption() -> None:
    def leave() -> None:
        with interruptible() as stop:
            stop._raises = True  # as when the handler runs between a block's last line and its end
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"):
        leave()


def test_a_second_ctrl_c_stops_at_once() -> None:
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_is_answered_while_what_is_begun_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    with interruptible() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        end_s, said = time.monotonic() + 10, ""
        while not said and time.monotonic() < end_s:
            time.sleep(0.05)
            said = capfd.readouterr().err
        assert said == "vila2: stopping after what is being done now; Ctrl-C again stops at once\n"
        with pytest.raises(Interrupted):
            stop.check()
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.8)
    assert capfd.readouterr().err == ""


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    def use() -> None:
        with interruptible() as stop:
            stop.check()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(use).result()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_a_wait_that_stops_at_once(number: signal.Signals) -> None:
    stalled = threading.Event()
    waker = threading.Timer(0.1, os.kill, (os.getpid(), number))
    with interruptible() as stop:
        waker.start()
        with pytest.raises(Interrupted, match=number.name), stop.at_once():
            stalled.wait(60)
        assert stop.reason == number.name
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("the signal came before the wait")
    waker.join()


def test_a_source_that_stalls_is_given_up_and_its_user_is_not_interrupted() -> None:
    def source() -> Iterator[int]:
        yield 1
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with interruptible() as stop:
        numbers = stop.each(source())
        assert next(numbers) == 1
        with pytest.raises(Interrupted):
            next(numbers)
    with interruptible() as stop:
        numbers = stop.each([1, 2])
        assert next(numbers) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            next(numbers)


def test_what_a_signal_broke_is_an_interruption() -> None:
    def fail(after: signal.Signals | None) -> None:
        with interruptible():
            if after:
                os.kill(os.getpid(), after)
            raise DataError("the command was killed")

    with pytest.raises(Interrupted, match="SIGTERM"):
        fail(signal.SIGTERM)
    with pytest.raises(DataError):
        fail(None)
