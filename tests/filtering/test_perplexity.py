"""Perplexity and what captions are ranked by."""

import json
import math

import pytest

from vila2cli.filtering.perplexity import image_gain, length_bucket, perplexity, rank_value


def test_perplexity_is_that_of_the_paper() -> None:
    # A model that gives every token probability 1/4 is as unsure as among four words.
    assert perplexity([math.log(0.25)] * 7) == pytest.approx(4)
    assert perplexity([math.log(0.5), math.log(0.125)]) == pytest.approx(4)
    assert perplexity([0.0]) == 1


def test_an_impossible_caption_stays_a_number() -> None:
    assert json.loads(json.dumps(perplexity([-1e6]))) == perplexity([-1e6]) > 1e300


def test_an_image_that_makes_a_caption_likelier_has_a_gain() -> None:
    assert image_gain(2.0, 8.0) == pytest.approx(math.log(4))
    assert image_gain(8.0, 2.0) < 0


def test_the_best_rank_lowest() -> None:
    good = {"perplexity": 2.0, "text_perplexity": 9.0, "image_gain": 1.5, "similarity": 0.4}
    bad = {"perplexity": 7.0, "text_perplexity": 9.5, "image_gain": 0.1, "similarity": 0.1}
    for rank in ("perplexity", "text-perplexity", "image-gain", "similarity"):
        better, worse = rank_value(good, rank), rank_value(bad, rank)
        assert better is not None
        assert worse is not None
        assert better < worse
    assert rank_value({}, "perplexity") is None


def test_each_edge_begins_a_bucket() -> None:
    assert [length_bucket(num, (8, 16)) for num in (1, 7, 8, 15, 16, 99)] == [0, 0, 1, 1, 2, 2]
    assert length_bucket(8, (16, 8)) == 1
    assert length_bucket(8, ()) == 0
