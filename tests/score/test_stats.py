import math

import numpy as np
import pytest

from vila2cli.score import yesno
from vila2cli.score.grouping import category_metrics, tally
from vila2cli.score.scorer import Scored
from vila2cli.score.stats import (
    Estimate,
    Interval,
    Support,
    cautious_share,
    cohen_kappa,
    columns_of,
    difference,
    difference_of,
    estimate,
    interval_of,
    interval_within,
    mean_of,
    ratio,
    share_difference,
    share_interval,
    supports,
)
from vila2cli.score.vqa import SHORT
from vila2cli.score.yesno import YESNO


def scored(values):
    return columns_of([{"score": float(value)} for value in values])


def accuracy(values, *, groups=None, num_bootstrap=1000, seed=0, name="image"):
    groups = groups or [f"{name} {row}" for row in range(len(values))]
    settings = {"groups": groups, "num_bootstrap": num_bootstrap, "seed": seed}
    return estimate(scored(values), SHORT.metrics, **settings)["accuracy"]


def test_ratio_of_nothing_is_zero():
    assert ratio(np.float64(1), np.float64(0)) == 0
    assert ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist() == [0.0, 0.5]


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = [1] * 300 + [0] * 100
    interval = accuracy(values, num_bootstrap=4000).interval()
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert interval.value == 0.75
    assert interval.low == pytest.approx(0.75 - half, abs=0.005)
    assert interval.high == pytest.approx(0.75 + half, abs=0.005)


def test_bootstrap_is_seeded():
    values = [1, 0, 1, 1, 0, 0, 1]
    assert accuracy(values).interval() == accuracy(values).interval()
    assert not np.array_equal(accuracy(values).replicates_B, accuracy(values, seed=1).replicates_B)


def test_chunks_of_resamples_do_not_change_the_result(monkeypatch):
    values = [1, 0, 1, 1, 0, 0, 1]
    whole = accuracy(values, num_bootstrap=50).replicates_B
    monkeypatch.setattr("vila2cli.score.stats._IMAGES_PER_CHUNK", 3)
    assert np.array_equal(accuracy(values, num_bootstrap=50).replicates_B, whole)


def test_rows_of_one_image_are_resampled_together():
    values = [1] * 50 + [0] * 50
    groups = [f"image {row // 10}" for row in range(100)]
    alone, together = accuracy(values), accuracy(values, groups=groups)
    assert together.value == alone.value == 0.5
    assert together.replicates_B.std() > 2.5 * alone.replicates_B.std()


def test_the_order_of_the_rows_does_not_matter():
    values, names = [1, 0, 0, 1, 1], list("abcde")
    turned = accuracy(values[::-1], groups=names[::-1])
    assert np.array_equal(accuracy(values, groups=names).replicates_B, turned.replicates_B)


def test_micro_metrics_come_from_totals():
    rows = [
        {"score": 1.0, "is_yes": 1.0, "says_yes": 1.0, "both_yes": 1.0, "unclear": 0.0},
        {"score": 0.0, "is_yes": 1.0, "says_yes": 0.0, "both_yes": 0.0, "unclear": 0.0},
        {"score": 0.0, "is_yes": 0.0, "says_yes": 1.0, "both_yes": 0.0, "unclear": 1.0},
        {"score": 1.0, "is_yes": 0.0, "says_yes": 0.0, "both_yes": 0.0, "unclear": 0.0},
    ]
    found = estimate(columns_of(rows), YESNO.metrics, groups=list("abcd"), num_bootstrap=10, seed=0)
    values = {name: one.value for name, one in found.items()}
    assert values == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "yes_ratio": 0.5,
        "unclear_ratio": 0.25,
    }


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    before = (rng.random(500) < 0.5).astype(float)
    after = np.where(rng.random(500) < 0.05, 1.0, before)
    paired = difference(accuracy(before), accuracy(after))
    unpaired = difference(accuracy(before), accuracy(after, seed=1))
    assert paired.value == pytest.approx(after.mean() - before.mean())
    assert paired.interval().low > 0
    assert paired.replicates_B.std() < unpaired.replicates_B.std() / 2


def test_equal_tables_differ_by_exactly_nothing():
    values = [1, 0, 1, 1]
    found = difference(accuracy(values), accuracy(values))
    assert found.interval() == Interval(0.0, 0.0, 0.0)


def test_the_mean_of_tasks_on_different_images_is_narrower_than_each():
    tasks = [accuracy([1, 0] * 50, name=name) for name in ("ocr", "count", "colour", "box")]
    mean = mean_of(tasks)
    assert mean.value == 0.5
    assert mean.replicates_B.std() == pytest.approx(tasks[0].replicates_B.std() / 2, rel=0.15)


def test_tasks_that_agree_on_the_same_images_tell_no_more_than_one():
    task = accuracy([1, 0] * 50)
    assert mean_of([task, accuracy([1, 0] * 50)]).interval() == task.interval()


@pytest.mark.parametrize(
    ("share", "num_trials", "low", "high"),
    # Newcombe (1998), table I: the score intervals with continuity correction
    [
        (81 / 263, 263, 0.2535, 0.3682),
        (15 / 148, 148, 0.0598, 0.1644),
        (0.0, 20, 0.0, 0.2005),
        (1 / 29, 29, 0.0018, 0.1963),
    ],
)
def test_cautious_share(share, num_trials, low, high):
    found = cautious_share(share, num_trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    other = cautious_share(1 - share, num_trials)
    assert (1 - other.high, 1 - other.low) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [
        ("wwll", "wwll", 1.0),
        ("wwll", "llww", -1.0),
        ("wlwl", "wwll", 0.0),
        ("wwww", "wwww", None),
        ("", "", None),
        ("w" * 20 + "w" * 5 + "l" * 10 + "l" * 15, "w" * 20 + "l" * 5 + "w" * 10 + "l" * 15, 0.4),
    ],
)
def test_cohen_kappa(first, second, kappa):
    assert cohen_kappa(first, second) == (None if kappa is None else pytest.approx(kappa))


def test_an_interval_names_its_value():
    assert Interval(0.5, 0.4, 0.6).to_json("difference") == {"difference": 0.5, "low": 0.4, "high": 0.6}
    assert Estimate(1.0, np.array([1.0, 1.0])).interval() == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("num_images", [20, 50])
@pytest.mark.parametrize(("share", "num_questions"), [(0.5, 1), (0.9, 1), (0.95, 1), (0.9, 3), (0.95, 3)])
def test_shares_of_few_images_are_covered(share, num_images, num_questions):
    random = np.random.default_rng(num_images + num_questions)
    num_covered = 0
    for simulation in range(200):
        # questions of one image depend on each other: an image is easy or hard
        easy = random.beta(share * 1.5, (1 - share) * 1.5, num_images)[:, None] if num_questions > 1 else share
        right = random.random((num_images, num_questions)) < easy
        columns = {"score": right.sum(1), "n": np.full(num_images, num_questions)}
        images = [f"{simulation}/{image}" for image in range(num_images)]
        found = estimate(columns, SHORT.metrics, groups=images, num_bootstrap=200, seed=0)["accuracy"]
        interval = share_interval(found, num_images * num_questions, num_images)
        num_covered += interval.low <= share <= interval.high
    assert num_covered >= 0.93 * 200


@pytest.mark.parametrize("num_images", [20, 50])
@pytest.mark.parametrize(("first", "second", "num_questions"), [(0.5, 0.6, 1), (0.9, 0.95, 1), (0.9, 0.95, 3)])
def test_paired_differences_of_few_images_are_covered(first, second, num_questions, num_images):
    random = np.random.default_rng(num_images + num_questions)
    shape = (num_images, num_questions)
    num_covered = 0
    for simulation in range(200):
        before = random.random(shape) < random.beta(first * 2, (1 - first) * 2, num_images)[:, None]
        same = random.random(shape) < 0.5
        after = np.where(same, before, random.random(shape) < 2 * second - first)
        images = [f"{simulation}/{image}" for image in range(num_images)]
        found = [
            estimate(
                {"score": right.sum(1), "n": np.full(num_images, num_questions)},
                SHORT.metrics,
                groups=images,
                num_bootstrap=200,
                seed=0,
            )["accuracy"]
            for right in (before, after)
        ]
        counts = {"num_samples": num_images * num_questions, "num_images": num_images}
        interval = share_difference(*found, **counts).interval
        num_covered += interval.low <= second - first <= interval.high
    assert num_covered >= 0.93 * 200


def test_no_difference_on_few_samples_leaves_room_for_one():
    right = Estimate(1.0, np.ones(100))
    interval = share_difference(right, right, num_samples=60, num_images=20).interval
    assert (interval.value, interval.low) == (0.0, -interval.high)
    assert interval.high == pytest.approx(1.959964 * 2**0.5 / 22)


def test_a_metric_is_of_the_samples_that_have_it():
    """A category's accuracy is of its own questions and images, precision of what was answered with yes."""
    scored = [Scored({"score": 1.0, "unparsed": 0.0}, {"category": category}) for category in "aaabb"]
    columns = columns_of(tally("score")(scored))
    found = supports(columns, category_metrics, ["x", "x", "y", "y", "z"])
    assert (found["accuracy"], found["accuracy:a"], found["accuracy:b"]) == (
        Support(5, 3),
        Support(3, 2),
        Support(2, 2),
    )
    yes = {"score": 1.0, "is_yes": 1.0, "says_yes": 1.0, "both_yes": 1.0, "unclear": 0.0}
    no = dict.fromkeys(yes, 0.0) | {"score": 1.0}
    found = supports(columns_of([yes, no, no]), yesno.metrics, ["x", "y", "z"])
    assert (found["precision"], found["accuracy"]) == (Support(1, 1), Support(3, 3))
    assert ratio(np.zeros(1), np.zeros(1)) == 0, "nothing stated still has precision 0"


def test_a_mean_is_no_surer_than_its_tasks_let_it_be():
    three, many = Support(3, 3), Support(1000, 1000)
    assert Support.of_mean([three], 3) == three
    assert Support.of_mean([many, many], 2000) == Support(2000, 2000)
    assert Support.of_mean([many, many], 1000) == Support(2000, 1000), "both are about the same pictures"
    assert Support.of_mean([three, many], 1003) == Support(11, 11)
    assert Support.of_mean([Support(40, 10)] * 3, 30) == Support(120, 30)


@pytest.mark.parametrize("num_images", [8, 99, 100, 400])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_and_all_wrong_are_never_certain(value, num_images):
    interval = interval_of(Estimate(value, np.full(50, value)), num_samples=num_images, num_images=num_images)
    assert interval == cautious_share(value, num_images)
    assert interval.high - interval.low > 0.005


def test_points_of_a_scale_have_the_intervals_of_their_shares():
    right = Estimate(200.0, np.full(50, 200.0))
    found = interval_within(right, 200.0, Support(60, 30))
    assert (found.value, found.high) == (200.0, 200.0)
    assert found.low == pytest.approx(200 * cautious_share(1.0, 30).low)
    assert interval_within(right, 0.0, Support(60, 30)).low == 200.0, "what has no limit is no share"


@pytest.mark.parametrize("num", [20, 300])
def test_two_that_differ_in_all_or_nothing_leave_room(num):
    wrong, right = Estimate(0.0, np.zeros(50)), Estimate(1.0, np.ones(50))
    found = difference_of(wrong, right, top=1.0, of=Support(num, num))
    assert (found.interval.value, found.interval.high) == (1.0, 1.0)
    assert found.interval.low < 0.995
    same = difference_of(right, right, top=1.0, of=Support(num, num))
    assert same.interval.low < 0 < same.interval.high
