"""Charts as inline SVG, coloured by the page's style sheet so that they follow its light and dark mode.

Everything is a pure function of numbers and labels; labels are escaped by Markup.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vila2cli.report.figures import Figure, figure_text
from vila2cli.report.wording import compact, dollars, number
from vila2cli.text.html import harmless

WIDTH, HEIGHT = 356, 236
LEFT, TOP, BOTTOM = 38, 22, 42
LETTER = 6
"""Width of a letter of an axis label in pixels, at most."""
NUM_COLOURS = 6
MAX_VALUED = 7
"""Points that carry their value in print; more of them would overlap."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its values, with intervals, by their position on the x axis."""

    name: str
    points: Mapping[int, Figure]


def tag(name: str, *body: str, **attributes: object) -> Markup:
    """One element; attribute names write `_` for `-`, and body and values are escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else harmless(value)
        )
        for key, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(name, written, Markup("").join(map(harmless, body)), name)


def svg(size: tuple[int, int], *body: Markup, **attributes: object) -> Markup:
    """A drawing of a width and height."""
    return tag("svg", *body, viewBox=f"0 0 {size[0]} {size[1]}", **attributes)


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers (steps of 1, 2 or 5 times a power of ten) that enclose [low, high]."""
    if high - low < 1e-9:
        room = max(abs(low), abs(high)) / 2
        low, high = (low - room, high + room) if room > 1e-6 else (low - 0.5, high + 0.5)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def line_chart(
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    summary: str,
    y_name: str = "",
    digits: int = 2,
    detached: int = 0,
    ceiling: float | None = None,
    from_zero: bool = False,
) -> Markup:
    """Lines over rounds with error bars; the last `detached` labels are set off by a dashed rule.

    One short series prints its values beside the points; several get their names at the line ends.
    The y axis fits the data; it never falls below 0 for values that do not, nor rises above `ceiling`.
    """
    frame = _Frame.around(len(labels), series, ceiling, from_zero)
    num_joined = len(labels) - detached
    parts = [_axes(frame, labels, num_joined, y_name)]
    is_valued = len(series) == 1 and len(labels) <= MAX_VALUED
    for index, line in enumerate(series):
        shift = (index - (len(series) - 1) / 2) * 9
        parts.append(_draw_series(frame, line, index, shift, num_joined, digits, is_valued))
    if len(series) > 1:
        parts.append(_end_labels(frame, series))
    return svg((WIDTH, HEIGHT), *parts, role="img", aria_label=summary, class_="chart")


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where data coordinates are in the drawing; `ticks` are the y axis, bottom first."""

    ticks: tuple[float, ...]
    num_labels: int
    right: float

    @classmethod
    def around(
        cls, num_labels: int, series: Sequence[Series], ceiling: float | None, from_zero: bool
    ) -> "_Frame":
        ends = [v for s in series for p in s.points.values() for v in (p.value, p.low, p.high) if v is not None]
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        pad = (high - low) * 0.1 or 0.05 * (abs(high) or 1)
        ticks = nice_ticks(0.0 if from_zero else max(low - pad, min(low, 0.0)), high + pad)
        if ceiling is not None and ticks[-1] > ceiling >= high:
            ticks = [tick for tick in ticks if tick <= ceiling]
        longest = max((len(s.name) for s in series), default=0) if len(series) > 1 else 0
        return cls(tuple(ticks), num_labels, min(longest, 16) * 6.6 + 14)

    def x(self, position: int) -> float:
        inner = WIDTH - LEFT - self.right
        return LEFT + inner * (position + 0.5) / max(self.num_labels, 1)

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def _axes(frame: _Frame, labels: Sequence[str], num_joined: int, y_name: str) -> Markup:
    end, bottom = WIDTH - frame.right, HEIGHT - BOTTOM
    parts = [tag("text", y_name, x=2, y=10, class_="axis-name")]
    for tick in frame.ticks:
        y = frame.y(tick)
        parts.append(tag("line", x1=LEFT, x2=end, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", compact(tick), x=LEFT - 8, y=y + 4, class_="tick end"))
    parts.append(tag("line", x1=LEFT, x2=end, y1=bottom, y2=bottom, class_="axis"))
    shown = _shown_labels(frame, labels, num_joined)
    for position, label in enumerate(labels):
        x = frame.x(position)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        if position in shown:
            parts.append(tag("text", label, x=x, y=bottom + 18, class_="tick mid"))
    if 0 < num_joined < len(labels):
        x = (frame.x(num_joined - 1) + frame.x(num_joined)) / 2
        parts.append(tag("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="cut"))
    parts.append(tag("text", "round", x=(LEFT + end) / 2, y=HEIGHT - 6, class_="axis-name mid"))
    return Markup("").join(parts)


def _shown_labels(frame: _Frame, labels: Sequence[str], num_joined: int) -> set[int]:
    """The positions whose labels have room: every n-th of the rounds, and those that are set off."""
    halves = [(LETTER * len(label) + 4) / 2 for label in labels]
    detached = set(range(num_joined, len(labels)))
    edges = [frame.x(position) - halves[position] for position in detached]
    last = min(edges, default=math.inf)
    spacing = frame.x(1) - frame.x(0) if len(labels) > 1 else math.inf
    step = max(1, math.ceil(2 * max(halves[1:num_joined], default=0) / spacing))
    # The first may be a word.
    first = frame.x(0) + halves[0] if labels else 0.0
    room = {
        position
        for position in range(step, num_joined, step)
        if frame.x(position) - halves[position] >= first and frame.x(position) + halves[position] <= last
    }
    return {0, *room, *detached}


def _draw_series(
    frame: _Frame, series: Series, index: int, shift: float, num_joined: int, digits: int, valued: bool
) -> Markup:
    path = " ".join(
        f"{frame.x(x) + shift:.1f},{frame.y(figure.value):.1f}"
        for x, figure in series.points.items()
        if x < num_joined
    )
    parts = [tag("polyline", points=path, class_="line")]
    for position, figure in series.points.items():
        x, y = frame.x(position) + shift, frame.y(figure.value)
        mark = [tag("title", f"{series.name}: {figure_text(figure, digits)}")]
        top = y
        if ends := [frame.y(end) for end in figure.ends]:
            low, top = ends
            mark += [tag("line", x1=x, x2=x, y1=low, y2=top, class_="bar")]
            mark += [tag("line", x1=x - 4, x2=x + 4, y1=end, y2=end, class_="bar") for end in ends]
        mark.append(_marker(index, x, y, hollow=position >= num_joined))
        if valued:
            mark.append(tag("text", number(figure.value, digits), x=x, y=top - 7, class_="value mid"))
        parts.append(tag("g", *mark))
    return tag("g", *parts, class_=f"series s{index % NUM_COLOURS}")


def _marker(index: int, x: float, y: float, *, hollow: bool) -> Markup:
    style = "mark hollow" if hollow else "mark"
    if index % 4 == 0:
        return tag("circle", cx=x, cy=y, r=4.5, class_=style)
    if index % 4 == 1:
        return tag("rect", x=x - 4, y=y - 4, width=8, height=8, class_=style)
    corners = [(-5, 4), (5, 4), (0, -5)] if index % 4 == 2 else [(0, -6), (6, 0), (0, 6), (-6, 0)]
    return tag("polygon", points=" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners), class_=style)


def _end_labels(frame: _Frame, series: Sequence[Series]) -> Markup:
    """Names beside the last points, pushed apart so that none covers another."""
    ends = sorted(
        (frame.y(list(s.points.values())[-1].value) + 4, index, s.name)
        for index, s in enumerate(series)
        if s.points
    )
    parts: list[Markup] = []
    lowest = float(TOP)
    for y, index, name in ends:
        lowest = max(y, lowest + 14) if parts else y
        x = WIDTH - frame.right + 6
        parts.append(tag("text", name[:16], x=x, y=lowest, class_=f"series-name s{index % NUM_COLOURS}"))
    return Markup("").join(parts)


def difference_mark(change: Figure, reach: float) -> Markup:
    """A whisker around zero, 0 in the middle and `reach` at both ends: the reading aid of a table cell."""
    width, height = 132, 16
    middle, half = width / 2, width / 2 - 6

    def x(at: float) -> float:
        return middle + half * max(-1.0, min(1.0, at / reach if reach else 0.0))

    y, (low, high) = height / 2, change.ends
    return svg(
        (width, height),
        tag("line", x1=0, x2=width, y1=y, y2=y, class_="grid"),
        tag("line", x1=middle, x2=middle, y1=0, y2=height, class_="zero"),
        tag("line", x1=x(low), x2=x(high), y1=y, y2=y, class_="whisker"),
        tag("circle", cx=x(change.value), cy=y, r=4, class_="mark"),
        width=width,
        height=height,
        class_=f"difference {change.verdict}",
        aria_hidden="true",
    )


def cost_chart(costs: Sequence[tuple[str, float, bool]], *, summary: str) -> Markup:
    """Dollars per 1,000 images on a log axis: `(name, dollars, is this run)`, one line each."""
    width, row, left = 720, 30, 250
    height = row * len(costs) + 48
    logs = [math.log10(cost) for _, cost, _ in costs]
    first, last = math.floor(min(logs)), math.ceil(max(logs) + 1e-9)

    def x(log: float) -> float:
        return left + (width - left - 70) * (log - first) / max(last - first, 1)

    bottom = row * len(costs) + 10
    parts: list[Markup] = []
    for power in range(first, last + 1):
        at = x(power)
        parts.append(tag("line", x1=at, x2=at, y1=6, y2=bottom, class_="grid"))
        parts.append(tag("text", dollars(10.0**power), x=at, y=bottom + 16, class_="tick mid"))
    for index, ((name, cost, own), log) in enumerate(zip(costs, logs, strict=True)):
        y = 10 + row * (index + 0.5)
        marks = [
            tag("text", name, x=left - 14, y=y + 4, class_="row-name end"),
            tag("line", x1=x(first), x2=x(log), y1=y, y2=y, class_="bar"),
            tag("circle", cx=x(log), cy=y, r=5.5, class_="mark"),
            tag("text", dollars(cost), x=x(log) + 11, y=y + 4, class_="value"),
        ]
        parts.append(tag("g", *marks, class_="series s0" if own else "series other"))
    name = "dollars per 1,000 images (log scale)"
    parts.append(tag("text", name, x=(left + width - 70) / 2, y=height - 4, class_="axis-name mid"))
    return svg((width, height), *parts, role="img", aria_label=summary, class_="chart")
