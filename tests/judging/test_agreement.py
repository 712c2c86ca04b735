import pytest

from vila2cli.judging.agreement import fleiss_kappa, kappa_interval, krippendorff_alpha, many_judges
from vila2cli.score.stats import cohen_kappa

# Four coders of twelve units with gaps, from Krippendorff (2011), "Computing Krippendorff's alpha-reliability".
CODERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
# Ten subjects by fourteen raters into five classes, from Fleiss (1971).
COUNTS = (
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
)


def units():
    columns = zip(*(coder.split() for coder in CODERS), strict=True)
    return [[label for label in column if label != "."] for column in columns]


def test_alpha_of_the_published_table():
    assert krippendorff_alpha(units()) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units(), level="ordinal", order="12345") == pytest.approx(0.815, abs=5e-4)


def test_fleiss_kappa_of_the_published_table():
    ratings = [[name for name, count in enumerate(row) for _ in range(count)] for row in COUNTS]
    assert fleiss_kappa(ratings) == pytest.approx(0.210, abs=5e-4)


def test_a_near_miss_counts_less_on_the_ordinal_scale():
    near = [["win", "tie"], ["loss", "loss"], ["win", "win"], ["tie", "loss"]]
    far = [["win", "loss"], ["loss", "loss"], ["win", "win"], ["loss", "win"]]
    assert krippendorff_alpha(near, level="ordinal") > krippendorff_alpha(far, level="ordinal")


@pytest.mark.parametrize("labels", [[], [["win"]], [["win", "win"]], [["win", "win"], ["win", "win"]]])
def test_agreement_on_one_label_alone_is_not_defined(labels):
    assert krippendorff_alpha(labels) is None
    assert krippendorff_alpha(labels, level="ordinal") is None
    assert fleiss_kappa([unit for unit in labels if len(unit) == 2]) is None


def test_the_interval_of_kappa_holds_its_value_and_narrows():
    first, second = ["win", "win", "loss", "tie", "loss"] * 8, ["win", "loss", "loss", "tie", "loss"] * 8
    found = [
        kappa_interval(first * n, second * n, [f"{i}" for i in range(40 * n)], num_bootstrap=400, seed=0)
        for n in (1, 9)
    ]
    for one in found:
        assert one.low < one.value < one.high
        assert one.value == pytest.approx(cohen_kappa(first, second))
    assert found[1].high - found[1].low < 0.5 * (found[0].high - found[0].low)
    assert kappa_interval(["win"], ["win"], ["a"], num_bootstrap=10, seed=0) is None


def test_many_judges_need_not_all_judge_everything():
    by_judge = {
        "a": {1: "win", 2: "loss", 3: "tie"},
        "b": {1: "win", 2: "loss"},
        "c": {1: "win", 2: "win", 4: "loss"},
    }
    found = many_judges(by_judge)
    assert (found["num_judges"], found["num_samples"], found["num_judged_by_all"]) == (3, 2, 2)
    assert found["fleiss_kappa"] == pytest.approx(fleiss_kappa([["win"] * 3, ["loss", "loss", "win"]]))
    assert -1 < found["krippendorff_alpha"] < 1
