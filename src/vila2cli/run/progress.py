"""Showing how far a stage is: a bar on a terminal, a line now and then in a log, figures in log.jsonl."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from vila2cli.run.cost import three_digits
from vila2cli.run.folder import append_log
from vila2cli.text.printable import printable, printable_line

LINE_EVERY_SECONDS = 10.0
_FIRST_SECONDS = 1.0
"""What comes within so long of the first unit came with it, as a batch does."""
_TIMED_SECONDS = 5.0
"""After so long since then the time that is left can be told."""


class Progress:
    """Counts `unit`s of a stage; use it as a context manager.

    On a terminal it draws a bar with rate and time left, elsewhere it writes a line every ten
    seconds. The same figures go to `log_path`, a log.jsonl, or to several. `total` is None when unknown, and
    shown with a ~ when it `is_estimate`.
    """

    def __init__(
        self,
        stage: str,
        total: int | None = None,
        unit: str = "images",
        log_path: Path | Sequence[Path] = (),
        *,
        is_estimate: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.total, self.unit = printable(stage), total, unit
        self._about = "~" if is_estimate else ""
        self.num_done = self._num_before = 0
        self._log_paths = [log_path] if isinstance(log_path, Path) else log_path
        self._clock = clock
        self._stream = sys.stderr if stream is None else stream
        self._figures: dict[str, Any] = {}
        self._start = self._last_line = clock()
        self._last_num = 0
        self._first: float | None = None
        self._timed_from = (0.0, 0)
        self._bar: _Bar | None = None

    def __enter__(self) -> Self:
        self._start = self._last_line = self._clock()
        if self._stream.isatty():
            unit = f"{self.unit} (total estimated)" if self._about else self.unit
            self._bar = _Bar(self.stage, self.total, unit, self._stream)
            self._show_bar()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._report(closing=True)

    @property
    def seconds(self) -> float:
        """Seconds since the block was entered."""
        return self._clock() - self._start

    @property
    def rate(self) -> float:
        """Units per second since the block was entered."""
        return (self.num_done - self._num_before) / self.seconds if self.seconds > 0 else 0.0

    def go_on(self, num_done: int) -> None:
        """Start from what an earlier process did, which is no part of the rate."""
        self.num_done = self._num_before = self._last_num = num_done

    def advance(self, n: int = 1, **figures: Any) -> None:
        """Count `n` more units; `figures` (loss, tokens per second) are shown with the count."""
        self.num_done += n
        self._figures.update(figures)
        self._time_first(self._clock())
        if self._bar is not None:
            self._show_bar()
        if self._clock() - self._last_line >= LINE_EVERY_SECONDS:
            self._report()

    def _time_first(self, now: float) -> None:
        """Take the time from where units come on: what a model takes to begin would count as theirs."""
        if self._first is None:
            self._first = now
        if now - self._first < _FIRST_SECONDS:
            self._timed_from = (now, self.num_done)

    @property
    def seconds_left(self) -> float | None:
        """About how long the rest will take; None where nobody knows how much it is, or how fast it goes."""
        now = self._clock()
        since, num_first = self._timed_from
        if not self._knows_total or self.num_done == self.total or self._first is None:
            return None
        if self.num_done <= num_first or now - since < _TIMED_SECONDS:
            return None
        return ((self.total or 0) - self.num_done) * (now - since) / (self.num_done - num_first)

    @property
    def _knows_total(self) -> bool:
        """Whether there is a total, and not more already: it may have been an estimate."""
        return bool(self.total) and self.num_done <= (self.total or 0)

    def beat(self, doing: str) -> None:
        """Show the count again where it was not for long, with what is being done in the meantime."""
        if self._clock() - self._last_line >= LINE_EVERY_SECONDS:
            self._report(doing=printable_line(doing))

    def note(self, text: str) -> None:
        """Show one line of text between the counts."""
        text = printable_line(text)
        if self._bar is not None:
            self._bar.note(f"{self.stage}: {text}")
        else:
            self._write(f"{self.stage}: {text}")
        for path in self._log_paths:
            append_log(path, stage=self.stage, note=text)

    def line(self) -> str:
        """The count as text: `recaption: 1,200/4,000 images, 30%, 61.2 images/s, 0:46 left`."""
        parts = [f"{self._count()} {self.unit}"]
        if self.total and self._knows_total:
            parts.append(f"{100 * self.num_done // self.total}%")
        parts += [f"{three_digits(self.rate)} {self.unit}/s", self._time()]
        return f"{self.stage}: " + ", ".join([*parts, *filter(None, [self._figures_text()])])

    def _count(self) -> str:
        return f"{self.num_done:,}" + (f"/{self._about}{self.total:,}" if self._knows_total else "")

    def _time(self) -> str:
        """The time that is left, or where that cannot be told yet the time that was taken."""
        left = self.seconds_left
        return minutes(self.seconds) if left is None else f"{minutes(left)} left"

    def _show_bar(self, doing: str = "") -> None:
        assert self._bar is not None
        rate = f"{three_digits(self.rate)}/s" if self.rate else ""
        figures = ", ".join(filter(None, [rate, self._figures_text(), doing]))
        total = self.total if self._knows_total else None
        self._bar.update(self.num_done, total, self._count(), self._time(), figures)

    def _figures_text(self) -> str:
        shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in self._figures.items()}
        return printable(", ".join(f"{name} {value}" for name, value in shown.items()))

    def _report(self, *, closing: bool = False, doing: str = "") -> None:
        now = self._clock()
        elapsed = now - self._last_line
        recent = (self.num_done - self._last_num) / elapsed if elapsed > 0 else 0.0
        if self._bar is None or closing:
            self._write(", ".join(filter(None, [self.line(), doing])))
        elif doing:
            self._show_bar(doing)
        counts = {"stage": self.stage, "done": self.num_done, "total": self.total, "unit": self.unit}
        speed = {"seconds": self.seconds, "rate": self.rate, "recent_rate": recent}
        for path in self._log_paths:
            append_log(path, **{**self._figures, **counts, **speed})
        self._last_line, self._last_num = now, self.num_done

    def _write(self, text: str) -> None:
        with _unseen():
            self._stream.write(text + "\n")
            self._stream.flush()


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Let work go on that nobody can look at any more: its terminal is gone, or who read its lines."""
    with contextlib.suppress(OSError):
        yield


class _Bar:
    """A rich progress bar; texts are never read as markup, captions and paths may hold brackets."""

    def __init__(self, stage: str, total: int | None, unit: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(file=stream, markup=False, highlight=False, emoji=False)
        names = ("count", "unit", "time", "figures")
        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            *(TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in names),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task(stage, total=total, unit=unit, count="", time="", figures="")
        with _unseen():
            self._progress.start()

    def update(self, num_done: int, total: int | None, count: str, time: str, figures: str) -> None:
        about: dict[str, Any] = {"count": count, "time": time, "figures": figures}
        with _unseen():
            self._progress.update(self._task, completed=num_done, total=total, **about)

    def note(self, text: str) -> None:
        with _unseen():
            self._console.print(text)

    def close(self) -> None:
        with _unseen():
            self._progress.stop()


def minutes(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
