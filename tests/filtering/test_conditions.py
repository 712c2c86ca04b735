"""The language of filter.where: what holds, what is unknown, and what is refused."""

from typing import Any

import pytest

from vila2cli.settings.condition_values import Unknown
from vila2cli.settings.conditions import MAX_DEPTH, parse_condition, parse_number, reason_against

META: dict[str, Any] = {
    "clip": 0.3,
    "text": "0.25",
    "bad": "abc",
    "none": None,
    "odd": float("nan"),
    "flag": True,
    "deep": {"a": 5, "tags": ["cat", "x"]},
    "a.b": 3,
    "odd-name": 7,
    "caption": "hello cat",
    "licence": 4,
    "list": [1, 2.5, "3"],
    "huge": 10**400,
    "spaced": "two  spaces",
    "u\u0308ber": 8,
    "ſ": 9,
}
PICTURE = {"width": 640, "height": 200, "aspect": 3.2, "format": "jpeg"}


class Facts:
    def __init__(self, picture: dict[str, Any] = PICTURE) -> None:
        self.meta, self._picture = META, picture

    def of_picture(self, name: str) -> float | str:
        if name not in self._picture:
            raise Unknown(f"missing: {name}")
        value: float | str = self._picture[name]
        return value


HOLD = (
    "clip >= 0.28",
    "text < 0.3",
    "min(width, height) >= 200",
    "flag",
    "flag == true and not flag == false",
    "deep.a == 5",
    "a.b == 3",
    'field("odd-name") == 7 and field("deep", "a") > 4',
    '"cat" in deep.tags and "cat" in caption and "dog" not in caption',
    "licence in [1, 4]",
    'format in ["jpeg", "png"]',
    "0.1 < clip < 0.4",
    "len(caption) == 9 and len(deep.tags) == 2 and max(list) == 3",
    "(clip + text) * 2 > 1 and -clip < 0 and abs(-3) == 3 and width / height > 3",
    "gone > 1 or clip > 0.1",
    "not (gone > 1 and clip > 1)",
    "huge > 1",
    'bad == "abc"',
    'spaced == "two  spaces" and\n  "two  " in spaced',
    "u\u0308ber == 8 and ſ == 9 and ( ſ) > 8",
)
DROP = {
    "aspect <= 3": "not: aspect <= 3",
    "text > 0.3": "not: text > 0.3",
    "gone > 1": "missing: gone",
    "s > 1": "missing: s",
    'spaced == "two spaces"': 'not: spaced == "two spaces"',
    "none > 1": "missing: none",
    "odd > 0 or odd <= 0": "missing: odd",
    "not (odd > 0)": "missing: odd",
    "odd != 1": "missing: odd",
    "deep.gone == 1": "missing: deep.gone",
    "gone > 1 and clip > 1": "not: gone > 1 and clip > 1",
    "gone > 1 and clip > 0": "missing: gone",
    "bad > 3": "no number: bad",
    "not (bad > 3)": "no number: bad",
    "bad != 3": "no number: bad",
    "flag > 0": "no number: flag",
    "clip": "not true or false: clip",
    "clip / 0 > 1": "no number: clip / 0",
    "huge * 1.5 > 1": "no number: huge * 1.5",
    "len(clip) > 1": "no list or text: clip",
    "max(deep.tags) > 1": "no list of numbers: deep.tags",
}


@pytest.mark.parametrize("text", HOLD)
def test_conditions_that_hold(text: str) -> None:
    assert reason_against(parse_condition(text), Facts()) is None


@pytest.mark.parametrize(("text", "reason"), DROP.items())
def test_a_sample_is_dropped_for_a_reason_and_never_kept_on_what_is_unknown(text: str, reason: str) -> None:
    assert reason_against(parse_condition(text), Facts()) == reason


def test_a_picture_that_is_not_there_is_missing() -> None:
    assert reason_against(parse_condition("width > 1"), Facts({})) == "missing: width"


REFUSED = {
    "": "empty",
    "width >=": "character",
    "width = 200": "==",
    "width": "not a condition",
    "a && b": "and in place of &&",
    "__import__('os').system('x') == 1": "functions are",
    "(lambda: 1)() > 0": "functions are",
    "a ** 9 > 1": "+ - * and /",
    "a[0] > 1": "language",
    "[x for x in a] == 1": "language",
    "a.b() > 1": "functions are",
    "f'{a}' == 'x'": "language",
    "x is 1": "== or !=",
    "format == 'jpg'": "jpeg",
    "width > '200'": "number",
    "null == a": "null",
    "x > 1e999": "numbers",
    "9" * 900 + " > 1": "numbers",
    "x == b'a'": "numbers",
    "(" * 300: "character",
    "not " * (MAX_DEPTH + 1) + "a": "levels",
    "a" * 2000: "long",
    "a > 1; b": "character",
    "a\x00 > 1": "null",
    "clip > 0 # all of them\n and clip > 9": "comments",
    "(clip > 0) # x": "comments",
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items())
def test_what_the_language_does_not_have_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).") as error:
        parse_condition(text)
    assert words in str(error.value)


def test_a_place_is_counted_in_characters() -> None:
    with pytest.raises(ValueError, match="character 8"):
        parse_condition("é > 1 +ß**2")
    with pytest.raises(ValueError, match="not a number"):
        parse_number("width > 3")
