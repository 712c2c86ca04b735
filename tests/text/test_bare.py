"""The JSON object of an answer, and what is around it."""

from typing import Any

import pytest

from vila2cli.text.bare import one_object


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('```json\n{"marks": {"a": 1}}\n```', {"marks": {"a": 1}}),
        ('```\n{"better": "A", "reason": "it says {x}"}\n```', {"better": "A", "reason": "it says {x}"}),
        ('I say {"better": "A"}', {"better": "A"}),
        ('{"better": "A"} or {"better": "B"}', None),
        ('[{"better": "A"}]', None),
    ],
)
def test_one_object(answer: str, value: dict[str, Any] | None) -> None:
    assert one_object(answer) == value
