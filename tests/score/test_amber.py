"""AMBER: "no" is the positive class; descriptions name what is there, what is expected, and neither."""

import pytest

from vila2cli.errors import DataError
from vila2cli.score.amber import AMBER, AMBER_YESNO
from vila2cli.score.scorer import Reference, Scored
from vila2cli.score.stats import columns_of

SCENE = {
    "truth": [["forest", "tree", "leave"], ["tree", "forest"], ["man", "person"]],
    "hallu": [["dog"], ["car", "window"]],
    "objects": ["forest", "tree", "leave", "man", "person", "dog", "car", "window", "ship", "light", "can"],
    "safe_words": ["light"],
}


def answered(truth, answer, category):
    reference = Reference(answers=(truth,), meta={"category": category})
    return Scored(AMBER_YESNO.score(answer, reference), AMBER_YESNO.labels(reference))


def figures(scorer, scored):
    totals = {name: column.sum() for name, column in columns_of(scorer.rows(scored)).items()}
    return {name: float(value) for name, value in scorer.metrics(totals).items()}, totals


def test_no_is_the_positive_class():
    rows = [("no", "No", "a"), ("no", "Yes", "a"), ("yes", "Yes", "a"), ("yes", "No", "b"), ("no", "No.", "b")]
    found, totals = figures(AMBER_YESNO, [answered(*row) for row in rows])
    assert found["accuracy"] == 2 / 5
    assert (found["precision"], found["recall"]) == (1 / 2, 1 / 3)
    assert found["f1"] == pytest.approx(2 / 5)
    assert (found["accuracy:a"], found["f1:a"], found["f1:b"]) == (
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        0,
    )
    assert totals["unparsed"] == 1
    _, totals = figures(AMBER_YESNO, [answered(*row) for row in rows[:4]])
    assert totals["unparsed"] == 0


def test_objects_named_are_there_expected_or_neither():
    texts = ["Men by trees, and a dog and a ship.", "A man can see the light.", "Nothing."]
    reference = Reference(meta=SCENE)
    found, _ = figures(AMBER, [Scored(AMBER.score(text, reference)) for text in texts])
    assert found["chair"] == 2 / 6  # man, tree, dog*, ship*, man, light
    assert found["cover"] == 3 / 9  # "tree" goes with the forest, which comes first
    assert found["hal"] == pytest.approx(1 / 3)
    assert found["cog"] == 1 / 6
    with pytest.raises(DataError, match="'truth'"):
        AMBER.score("x", Reference())
