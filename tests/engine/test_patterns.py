"""Schemas as patterns of compact JSON."""

import json
import re

import pytest

from vila2cli.engine import Request
from vila2cli.engine.patterns import compact_pattern
from vila2cli.errors import DataError
from vila2cli.judging.protocols import open_protocol
from vila2cli.settings.recipe import load_recipe

CAPTIONS = {"alt-text": "A red star. A ring.", "recaption": "A blue square. A bar. It is small."}
ANSWERS = {
    "pair": [{"better": "A"}, {"better": "tie"}],
    "rubric": [{"correctness": 5, "completeness": 1, "specificity": 3}],
    "sentences": [{"marks": ["supported"] * 3}, {"marks": ["supported", "unsure"]}],
}


@pytest.mark.parametrize("protocol", ["pair", "rubric", "sentences"])
def test_a_judges_answers_fit_without_white_space_and_not_with_it(protocol: str) -> None:
    sets = [f"judge.protocol={protocol}", *(["judge.prompt=judge-pair-json-v1"] if protocol == "pair" else [])]
    blank = Request(id="", messages=(), max_new_tokens=1)
    requests = open_protocol(load_recipe(None, sets)).requests(blank, CAPTIONS, [("recaption", "alt-text")])
    patterns = [compact_pattern(request.schema) for request in requests if request.schema]
    for answer in ANSWERS[protocol]:
        compact = json.dumps(answer, separators=(",", ":"))
        assert any(re.fullmatch(pattern, compact) for pattern in patterns)
        assert not any(re.fullmatch(pattern, json.dumps(answer)) for pattern in patterns)
    assert not any(re.fullmatch(pattern, "{}") for pattern in patterns)


def test_marks_that_mean_something_in_a_pattern_stand_for_themselves() -> None:
    schema = {"enum": ["a+b", "1.5", "(x)", 'say "so"', "x\\y"]}
    for value in schema["enum"]:
        assert re.fullmatch(compact_pattern(schema), json.dumps(value))
    assert not re.fullmatch(compact_pattern(schema), '"aab"')
    assert not re.fullmatch(compact_pattern(schema), '"1x5"')


def test_what_no_pattern_is_known_for_is_refused() -> None:
    with pytest.raises(DataError, match="no pattern is known for"):
        compact_pattern({"anyOf": [{"type": "string"}]})


def test_tags_and_attributes_fit_without_white_space() -> None:
    tags = {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2}
    plain = {"n": {"type": "integer"}, "is": {"type": "boolean"}, "x": {"type": "number"}}
    schema = {"type": "object", "properties": {"tags": tags, **plain}, "required": ["tags", *plain]}
    others = {"n": -3, "is": True, "x": 1.5}
    for value, fits in {("a", 'say"'): True, (): True, ("a",) * 3: False, ("abcdef",): False}.items():
        compact = json.dumps({"tags": value, **others}, separators=(",", ":"))
        assert bool(re.fullmatch(compact_pattern(schema), compact)) == fits, compact
