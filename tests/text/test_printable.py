import unicodedata

import pytest

from vila2cli.text.printable import printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red circle", "a red circle"),
        ("café, 図, नमस्ते, 👩‍🚀", "café, 図, नमस्ते, 👩‍🚀"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb\tc\x07\x7f\x9b", "a\\rb\\tc\\x07\\x7f\\x9b"),
        ("\u202eright to left\u2066", "\\u202eright to left\\u2066"),
        ("half\ud800", "half\\ud800"),
        ("line\nline\u2028line", "line\\nline\\u2028line"),
        ("Z" + "\u0301\u0489" * 5 + "a\u0301", "Z" + "\u0301\u0489" * 4 + "\\u0301\\u0489a\u0301"),
        ("a" + "\u200d" * 9, "a" + "\u200d" * 8 + "\\u200d"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_newlines_may_stay() -> None:
    assert printable("a\nb\x1b", keep_newlines=True) == "a\nb\\x1b"


def test_what_is_cut_is_counted() -> None:
    assert shortened("word", 4) == "word"
    assert shortened("x" * 1500, 10) == "xxxxxxxxxx … (1,490 more characters)"


def test_no_control_character_survives() -> None:
    everything = "".join(map(chr, range(0x3000)))
    assert not [c for c in printable(everything) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
