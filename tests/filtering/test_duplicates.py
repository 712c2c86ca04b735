"""The index of images against comparing everything with everything."""

import sqlite3
from random import Random

import pytest

from vila2cli.filtering.duplicates import ImageIndex, Match
from vila2cli.filtering.image_hash import NUM_BITS, ImageHash


def look(bits: int, grey: int = 128) -> str:
    return str(ImageHash(bits, bytes([grey] * 48)))


def flipped(bits: int, num: int, random: Random) -> int:
    for position in random.sample(range(NUM_BITS), num):
        bits ^= 1 << position
    return bits


@pytest.mark.parametrize("max_distance", [0, 3, 7, 15])
def test_it_finds_what_comparing_with_all_finds(max_distance: int) -> None:
    random = Random(max_distance)
    seeds = [random.getrandbits(NUM_BITS) for _ in range(12)]
    hashes = [
        ImageHash(
            flipped(random.choice(seeds), random.randrange(14), random), bytes([random.choice((90, 120))] * 48)
        )
        for _ in range(300)
    ]
    index = ImageIndex(sqlite3.connect(":memory:"), "images", max_distance)
    num_found = 0
    for number, one in enumerate(hashes):
        expected = next((i for i in range(number) if one.is_like(hashes[i], max_distance)), None)
        found = index.find(number.to_bytes(32), str(one))
        assert (found.number if found else None) == expected
        num_found += found is not None
        index.add(number, number.to_bytes(32), str(one))
    assert 0 < num_found < 300 or max_distance == 0


def test_equal_bytes_come_before_looks() -> None:
    index = ImageIndex(sqlite3.connect(":memory:"), "images", 7)
    index.add(1, b"a" * 32, look(5))
    index.add(2, b"b" * 32, look(5))
    assert index.find(b"b" * 32, look(5)) == Match(2, is_exact=True)
    assert index.find(b"c" * 32, look(5)) == Match(1, is_exact=False)


def test_without_a_distance_only_bytes_count() -> None:
    index = ImageIndex(sqlite3.connect(":memory:"), "images", None)
    index.add(1, b"a" * 32, look(5))
    assert index.find(b"a" * 32, look(5)) == Match(1, is_exact=True)
    assert index.find(b"c" * 32, look(5)) is None


def test_an_image_without_a_hash_is_like_none_but_its_bytes() -> None:
    index = ImageIndex(sqlite3.connect(":memory:"), "images", 7)
    index.add(1, b"a" * 32, "")
    assert index.find(b"a" * 32, "") == Match(1, is_exact=True)
    assert index.find(b"b" * 32, "") is None
    assert index.find(b"b" * 32, look(0)) is None
