"""Measured values with their intervals, and how they are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from vila2cli.report.json_reader import real, table_of
from vila2cli.report.wording import NOT_RUN, number
from vila2cli.score.stats import TOO_FEW

Verdict = Literal["gain", "loss", "even", "few"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95% interval where the file gives one, and of how many samples, if known."""

    value: float
    low: float | None = None
    high: float | None = None
    num_samples: int | None = None

    @property
    def ends(self) -> tuple[float, ...]:
        """Both ends of the interval, () where one is not known."""
        return () if self.low is None or self.high is None else (self.low, self.high)

    @property
    def is_share(self) -> bool:
        return all(0 <= v <= 1 for v in (self.value, self.low, self.high) if v is not None)

    @property
    def verdict(self) -> Verdict:
        """Of a difference: `gain` or `loss` where the interval leaves out zero, else `even`.

        It is `few` where so few samples tell nothing.
        """
        if self.num_samples is not None and self.num_samples < TOO_FEW:
            return "few"
        low, high = self.low or 0.0, self.high or 0.0
        return "gain" if low > 0 else "loss" if high < 0 else "even"

    def scaled(self, scale: float) -> "Figure":
        """The figure in another unit."""
        low, high = (None if end is None else scale * end for end in (self.low, self.high))
        return Figure(scale * self.value, low, high, self.num_samples)

    def span(self, between: str = "–", digits: int = 1, write: Callable[[float, int], str] = number) -> str:
        """The interval in words, `70.2–72.0`; "" where it is not known."""
        return between.join(write(end, digits) for end in self.ends)


def figure_of(value: object) -> Figure | None:
    """A figure from a plain number or from `{"value", "low", "high"}`; None for anything else."""
    parts = table_of(value)
    middle = real(parts.get("value") if parts else value)
    return None if middle is None else Figure(middle, real(parts.get("low")), real(parts.get("high")))


def scale_of(figures: Sequence[Figure | None]) -> int:
    """100 where all figures are shares, so that they are shown in percent, else 1."""
    return 100 if all(figure.is_share for figure in figures if figure is not None) else 1


def figure_text(figure: Figure | None, digits: int = 3) -> str:
    """A value with its 95% interval: `0.711 [0.702, 0.720]`."""
    if figure is None:
        return NOT_RUN
    span = figure.span(", ", digits)
    return number(figure.value, digits) + (f" [{span}]" if span else "")
