"""Numbers and untrusted text as they are written on the page."""

import pytest

from vila2cli.report.wording import compact, dollars, duration, join_words, number, points, signed, visible


def test_visible_shows_controls_and_counts_what_it_cuts() -> None:
    assert visible("\x1b[31m\x00 ok\n") == "\\x1b[31m\\x00 ok\n"
    assert visible("x" * 1500, 10) == "xxxxxxxxxx … (1,490 more characters)"
    assert visible("\ud800").isascii()
    assert visible(None) == "None"


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (-0.5, "−0.500"), (-0.0001, "0.000"), (1234.5, "1,234.500")]
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_signed() -> None:
    assert [signed(v, 1) for v in (0.25, -0.25, 0.0, -0.01)] == ["+0.2", "−0.2", "0.0", "0.0"]
    assert points(0.0312) == "+3.1 points"


def test_compact_durations_and_dollars() -> None:
    assert [compact(v) for v in (0.25, 12, 4178, 41_780, 38e6, 5e9)] == [
        "0.25",
        "12",
        "4178",
        "41.8k",
        "38M",
        "5G",
    ]
    assert [duration(v) for v in (6.14, 74.2, 3700)] == ["6.14 s", "1 min 14 s", "1 h 01 min"]
    assert [dollars(v) for v in (36, 0.12, 0.00073, 9.3e-5)] == ["$36.00", "$0.12", "$0.00073", "$0.000093"]


def test_join_words() -> None:
    assert [join_words(v) for v in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
