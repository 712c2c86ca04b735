"""JSON of annotations: text that others wrote, in whole characters."""

import json

import pytest

from vila2cli.files import parse_annotation_json


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("caf\u00e9 \U0001f436", "caf\u00e9 \U0001f436"),
        ("a \ud83d dog \udc36", "a \ufffd dog \ufffd"),
        ("\\ud800 and \ufeff", "\\ud800 and \ufeff"),
        ('"\udfff\\', '"\ufffd\\'),
    ],
)
def test_half_a_character_is_replaced(text: str, whole: str) -> None:
    for ascii_only in (True, False):
        data = json.dumps({"text": text, text: [1, None]}, ensure_ascii=ascii_only)
        if ascii_only or text == whole:
            assert parse_annotation_json(data.encode()) == {"text": whole, whole: [1, None]}
