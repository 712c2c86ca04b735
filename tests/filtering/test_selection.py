"""The rules over all samples, against the same rules written out over lists."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from vila2cli.errors import DataError, Interrupted
from vila2cli.filtering.image_hash import NUM_BITS, ImageHash
from vila2cli.filtering.selection import (
    DUPLICATE,
    NEAR_DUPLICATE,
    NOT_DRAWN,
    OVERLAP,
    Candidate,
    Decision,
    Selection,
)


def sha(number: int) -> str:
    return number.to_bytes(32).hex()


def look(bits: int) -> str:
    return str(ImageHash(bits, bytes(48)))


def candidate(number: int, **changes: object) -> Candidate:
    values: dict[str, object] = {
        "id": ("s", f"{number:04}"),
        "image_sha256": sha(number),
        "image_hash": look(Random(number).getrandbits(NUM_BITS)),
        "rank": float(number),
        "tie": number,
        "lot": number,
        "num_tokens": 10,
    }
    return Candidate(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "selection.sqlite"


@contextmanager
def selected(database: Path, candidates: list[Candidate]) -> Iterator[Selection]:
    with Selection.open(database) as selection:
        selection.add(candidates)
        yield selection


def kept(selection: Selection) -> list[str]:
    return [one.id[1] for one in selection.decisions() if one.reason is None]


def test_the_lowest_share_is_kept_exactly(database: Path) -> None:
    random = Random(0)
    ranks = [random.choice([1.5, 2.5, 9.0]) for _ in range(1001)]
    ties = random.sample(range(5000), 1001)
    candidates = [candidate(i, rank=ranks[i], tie=ties[i]) for i in range(1001)]
    with selected(database, candidates) as selection:
        (cut,) = selection.keep_lowest(0.2, "perplexity")
        best = sorted(range(1001), key=lambda i: (ranks[i], ties[i]))[:200]
        assert kept(selection) == [f"{i:04}" for i in sorted(best)]
        assert (cut.num_kept, cut.num_ranked, cut.rank) == (200, 1001, 1.5)
        assert selection.totals() == {None: (200, 2000), "perplexity": (801, 8010)}
    assert not database.exists()


@pytest.mark.parametrize("rank", [math.nan, math.inf])
def test_what_is_no_number_is_no_rank(database: Path, rank: float) -> None:
    with pytest.raises(AssertionError, match="a rank is finite"), selected(database, [candidate(0, rank=rank)]):
        pass
    with (
        pytest.raises(AssertionError, match="has no rank"),
        selected(database, [candidate(0, rank=None)]) as selection,
    ):
        selection.keep_lowest(0.2, "perplexity")


def test_each_length_bucket_keeps_its_share(database: Path) -> None:
    # Long captions have the lower perplexity: without buckets only they would stay.
    candidates = [candidate(i, bucket=i % 2, rank=i - 1000 * (i % 2)) for i in range(100)]
    with selected(database, candidates) as selection:
        cuts = selection.keep_lowest(0.1, "perplexity")
        assert [(cut.bucket, cut.num_kept) for cut in cuts] == [(0, 5), (1, 5)]
        assert kept(selection) == [f"{i:04}" for i in range(10)]


def test_a_share_of_less_than_half_a_sample_is_none(database: Path) -> None:
    with selected(database, [candidate(1), candidate(2)]) as selection:
        (cut,) = selection.keep_lowest(0.2, "perplexity")
        assert (cut.num_kept, cut.rank) == (0, None)
        assert kept(selection) == []


def test_what_a_rule_dropped_the_next_does_not_count(database: Path) -> None:
    candidates = [candidate(i, reason="repetition" if i < 50 else None) for i in range(100)]
    with selected(database, candidates) as selection:
        selection.keep_lowest(0.5, "perplexity")
        assert kept(selection) == [f"{i:04}" for i in range(50, 75)]
        assert selection.totals()["repetition"] == (50, 500)


def test_the_best_ranked_of_equal_images_stays(database: Path) -> None:
    candidates = [
        candidate(0, image_sha256=sha(7), rank=0.0, reason="refusal"),
        candidate(1, image_sha256=sha(7), rank=5.0),
        candidate(2),
        candidate(3, image_sha256=sha(7), rank=4.0),
        candidate(4, image_sha256=sha(7), rank=4.0),
    ]
    with selected(database, candidates) as selection:
        selection.drop_duplicates(None)
        decisions = list(selection.decisions())
        assert [one.reason for one in decisions] == ["refusal", DUPLICATE, None, None, DUPLICATE]
        assert decisions[4] == Decision(("s", "0004"), DUPLICATE, "s/0003")
        selection.keep_lowest(0.5, "perplexity")
        assert kept(selection) == ["0002"]


def test_without_a_rank_the_first_of_equal_images_stays(database: Path) -> None:
    candidates = [candidate(i, image_sha256=sha(7), rank=None, tie=-i) for i in range(3000)]
    with selected(database, candidates) as selection:
        selection.drop_duplicates(None)
        assert kept(selection) == ["0000"]


def test_what_is_dropped_as_a_look_alike_is_like_something_kept(database: Path) -> None:
    # A chain: each link is like its neighbours, the ends are not like each other.
    def chain(link: int) -> str:
        return look((1 << 5 * link) - 1)

    candidates = [candidate(i, image_hash=chain(i)) for i in range(7)]
    with selected(database, candidates) as selection:
        selection.drop_duplicates(7)
        decisions = list(selection.decisions())
    assert [one.reason for one in decisions] == [None, NEAR_DUPLICATE] * 3 + [None]
    assert [one.like for one in decisions] == [None, "s/0000", None, "s/0002", None, "s/0004", None]


def test_evaluation_images_are_dropped_whatever_else_is_wrong(database: Path) -> None:
    look_alike = look(Random(50).getrandbits(NUM_BITS) ^ 0b10101)
    candidates = [
        candidate(0, reason="too-short"),
        candidate(1),
        candidate(2, image_hash=look_alike),
        candidate(3),
    ]
    other, held_out_look = (look(Random(number).getrandbits(NUM_BITS)) for number in (49, 50))
    held_out = [("ocr/a", sha(0), other), ("ocr/b", sha(1), ""), ("ocr/c", sha(50), held_out_look)]
    with selected(database, candidates) as selection:
        selection.drop_overlap(held_out, 7)
        decisions = list(selection.decisions())
        assert [(one.reason, one.like) for one in decisions] == [
            (OVERLAP, "ocr/a"),
            (OVERLAP, "ocr/b"),
            (OVERLAP, "ocr/c"),
            (None, None),
        ]
        selection.draw_control()
        assert kept(selection) == ["0003"]


def test_the_control_is_as_large_and_drawn_from_all_that_is_usable(database: Path) -> None:
    random = Random(1)
    lots = random.sample(range(10_000), 400)
    candidates = [
        candidate(i, lot=lots[i], is_usable=i % 4 != 0, reason=["no-caption", "too-short", None, None][i % 4])
        for i in range(400)
    ]
    with selected(database, candidates) as selection:
        selection.keep_lowest(0.25, "perplexity")
        assert len(kept(selection)) == 50
        selection.draw_control()
        usable = [i for i in range(400) if i % 4 != 0]
        drawn = sorted(usable, key=lambda i: lots[i])[:50]
        assert kept(selection) == [f"{i:04}" for i in sorted(drawn)]
        assert selection.totals() == {None: (50, 500), "no-caption": (100, 1000), NOT_DRAWN: (250, 2500)}


def test_a_control_of_everything_or_nothing(database: Path) -> None:
    for share, num in ((1.0, 5), (0.01, 0)):
        with selected(database, [candidate(i) for i in range(5)]) as selection:
            selection.keep_lowest(share, "perplexity")
            selection.draw_control()
            assert len(kept(selection)) == num


@pytest.mark.parametrize("num_checks", [1, 4])
def test_a_long_statement_stops_when_asked_and_leaves_nothing(database: Path, num_checks: int) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks >= num_checks:
            raise Interrupted("stopped by SIGTERM")

    def fill() -> None:
        with Selection.open(database, check) as selection:
            selection.add(candidate(i) for i in range(40_000))
            selection.keep_lowest(0.5, "perplexity")

    with pytest.raises(Interrupted):
        fill()
    assert checks > num_checks, "asked again once the statement was broken off"
    assert not database.exists()


def test_a_full_disk_is_said_in_one_line(database: Path) -> None:
    def fill() -> None:
        with Selection.open(database) as selection:
            selection._database.execute("PRAGMA max_page_count = 20")
            selection.add(candidate(i) for i in range(5000))

    with pytest.raises(DataError, match=r"selection\.sqlite: .*full"):
        fill()
    assert not database.exists()


def test_an_error_of_another_kind_leaves_no_file(database: Path) -> None:
    with pytest.raises(ZeroDivisionError), Selection.open(database):
        _ = 1 // 0
    assert not database.exists()
