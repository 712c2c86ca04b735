"""Progress on a terminal, in a log, and as figures."""

import io
import json
from pathlib import Path

import pytest

from vila2cli.run.progress import Progress


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(tmp_path: Path) -> None:
    stream, clock, log = io.StringIO(), Clock(), tmp_path / "log.jsonl"
    with Progress("recaption", 400, log_path=log, stream=stream, clock=clock) as progress:
        for _ in range(40):
            clock.now += 0.5
            progress.advance(5, loss=0.12345)
        progress.note("engine [hf]")
    lines = stream.getvalue().splitlines()
    assert lines == [
        "recaption: 100/400 images, 25%, 10 images/s, 0:30 left, loss 0.1235",
        "recaption: 200/400 images, 50%, 10 images/s, 0:20 left, loss 0.1235",
        "recaption: engine [hf]",
        "recaption: 200/400 images, 50%, 10 images/s, 0:20 left, loss 0.1235",
    ]
    written = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("done") for line in written] == [100, 200, None, 200]
    assert written[0]["recent_rate"] == 10
    assert written[0]["loss"] == 0.12345
    assert written[2]["note"] == "engine [hf]"


def test_a_note_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    Progress("x", stream=stream).note("\x1b[2Jstderr of a command")
    assert stream.getvalue() == "x: \\x1b[2Jstderr of a command\n"


def test_a_note_of_a_page_is_cut() -> None:
    stream = io.StringIO()
    Progress("x", stream=stream).note("y" * 100_000)
    assert stream.getvalue().endswith("y … (96,000 more characters)\n")


def test_without_a_total_there_is_no_time_left() -> None:
    clock = Clock()
    progress = Progress("x", stream=io.StringIO(), clock=clock)
    assert progress.line() == "x: 0 images, 0 images/s, 0:00"
    clock.now += 3700
    progress.advance(7400000)
    assert progress.line() == "x: 7,400,000 images, 2,000 images/s, 1:01:40"


def test_no_time_is_told_from_the_first_batch_which_waited_for_the_model() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("recaption", 1000, stream=stream, clock=clock) as progress:
        clock.now += 13  # a model begins
        for _ in range(8):
            clock.now += 0.01
            progress.advance()
        assert progress.line() == "recaption: 8/1,000 images, 0%, 0.612 images/s, 0:13"
        clock.now += 6
        assert progress.line().endswith("0:19")
        clock.now += 2
        progress.advance(32)
        assert progress.seconds_left == pytest.approx(960 * 8 / 32, rel=0.01)
        assert progress.line().endswith("4:00 left")


def test_an_estimate_that_was_too_small_is_dropped() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("x", 100, is_estimate=True, stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.advance(60)
        clock.now += 10
        progress.advance(39)
        assert progress.line() == "x: 99/~100 images, 99%, 4.95 images/s, 0:00 left"
        progress.advance(20)
        assert progress.line() == "x: 119 images, 5.95 images/s, 0:20"
    assert "%" not in stream.getvalue().splitlines()[-1]


def test_a_terminal_never_shows_more_than_all() -> None:
    stream = Terminal()
    with Progress("x", 2, is_estimate=True, stream=stream) as progress:
        for _ in range(3):
            progress.advance()
    assert "3/2" not in stream.getvalue()
    assert "3/3" not in stream.getvalue()


def test_a_terminal_gets_a_bar_that_takes_no_text_as_markup() -> None:
    stream = Terminal()
    with Progress("sft", 10, "steps", stream=stream) as progress:
        progress.note("[bold]kept as it is[/] :smile:")
        progress.advance(10, path="[red]x\x9b2J")
    text = stream.getvalue()
    assert "[bold]kept as it is[/] :smile:" in text
    assert "[red]x\\x9b2J" in text
    assert "10/10 steps, 100%" in text


def test_figures_do_not_clash_with_the_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with Progress("x", 2, log_path=log, stream=io.StringIO(), clock=Clock()) as progress:
        progress.advance(2, seconds=99, done="no")
    assert json.loads(log.read_text())["done"] == 2


def test_an_error_ends_the_bar_and_goes_on() -> None:
    stream = Terminal()
    try:
        with Progress("x", 2, stream=stream) as progress:
            progress.advance()
            raise ValueError("stop")
    except ValueError:
        pass
    assert "1/2 images" in stream.getvalue()


def test_what_gives_no_result_for_long_shows_that_it_goes_on(tmp_path: Path) -> None:
    clock, stream, log = Clock(), io.StringIO(), tmp_path / "log.jsonl"
    with Progress("x", 4, log_path=log, stream=stream, clock=clock) as progress:
        progress.beat("token 1")
        clock.now += 11
        progress.beat("token \x1b[2J2")
        progress.beat("token 3")
        assert stream.getvalue() == "x: 0/4 images, 0%, 0 images/s, 0:11, token \\x1b[2J2\n"
    assert len(log.read_text().splitlines()) == 2
