"""Captions that are JSON by a schema, as models write them."""

import pytest

from vila2cli.settings.schema import checked_schema
from vila2cli.text.json_caption import check_json

SCHEMA = checked_schema(
    {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}}
)


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ('{"tags": ["cat"]}', None),
        ('```json\n{"tags": ["cat"]}\n```', None),
        ('Sure! Here you go:\n```json\n{"tags": ["cat"]}\n```\nLet me know!', None),
        ('<think>a cat</think>{"tags": ["cat"]}', None),
        ('```json\n{"tags": ["cat"]}\n```\nor\n```json\n{"tags": ["dog"]}\n```', "not-json"),
        ('The tags are {"tags": ["cat"]}', "not-json"),
        ("{'tags': ['cat']}", "not-json"),
        ('{"tags": "cat"}', "off-schema"),
    ],
)
def test_json_is_read_alone_or_in_the_only_fence(text: str, defect: str | None) -> None:
    found, why = check_json(text, SCHEMA, reached_limit=False)
    assert why == defect
    assert (found.text == '{"tags": ["cat"]}') is (defect is None)
