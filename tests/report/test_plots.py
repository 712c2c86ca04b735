"""Charts: ticks, geometry and escaping."""

import xml.etree.ElementTree as ET

import pytest

from vila2cli.report.figures import Figure
from vila2cli.report.plots import (
    HEIGHT,
    WIDTH,
    Series,
    cost_chart,
    difference_mark,
    line_chart,
    nice_ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 50, 100]),
        (0.32, 0.58, [0.3, 0.4, 0.5, 0.6]),
        (0, 127, [0, 50, 100, 150]),
        (5, 5, [2, 4, 6, 8]),
    ],
)
def test_ticks_are_round_and_enclose_the_data(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1e-12, 2e-12], [1e9, -1e9], [1e299], [0.5] * 11])
def test_any_numbers_give_a_drawing_inside_its_frame(values: list[float]) -> None:
    series = [Series("a", {x: Figure(value) for x, value in enumerate(values)})]
    chart = ET.fromstring(line_chart([str(x) for x in range(len(values))], series, summary="a"))
    for circle in chart.iter("circle"):
        assert 0 <= float(circle.attrib["cx"]) <= WIDTH
        assert 0 <= float(circle.attrib["cy"]) <= HEIGHT


def test_names_are_escaped_and_the_summary_is_there() -> None:
    series = [Series("<b>&\"'", {0: Figure(1.0, 0.5, 1.5)}), Series("b", {0: Figure(2.0)})]
    chart = ET.fromstring(line_chart(["<0>"], series, summary='"><script>'))
    assert chart.attrib["aria-label"] == '"><script>'
    assert "<b>&\"'" in [text.text for text in chart.iter("text")]
    assert list(chart.iter("script")) == []


def test_share_axis_ends_at_its_ceiling() -> None:
    chart = line_chart(["0"], [Series("a", {0: Figure(99.0, 97.0, 100.0)})], summary="a", ceiling=100.0)
    ticks = [text.text for text in ET.fromstring(chart).iter("text") if text.attrib["class"] == "tick end"]
    assert ticks[-1] == "100"


@pytest.mark.parametrize(
    ("low", "high", "style"), [(0.1, 0.3, "gain"), (-0.3, -0.1, "loss"), (-0.1, 0.1, "even")]
)
def test_difference_mark_tells_gain_loss_and_neither(low: float, high: float, style: str) -> None:
    mark = ET.fromstring(difference_mark(Figure((low + high) / 2, low, high), 0.3))
    assert style in mark.attrib["class"].split()


def test_cost_chart_is_ordered_on_its_log_axis() -> None:
    chart = ET.fromstring(
        cost_chart([("own", 0.0007, True), ("paper", 0.12, False), ("human", 36, False)], summary="x")
    )
    places = [float(circle.attrib["cx"]) for circle in chart.iter("circle")]
    assert places == sorted(places)
