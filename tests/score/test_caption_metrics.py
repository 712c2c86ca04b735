"""CIDEr and CHAIR, worked by hand from their papers."""

import math

import pytest

from vila2cli.errors import DataError
from vila2cli.score.chair import CHAIR, coco_synonyms, objects_named, read_synonyms, singular
from vila2cli.score.cider import CIDER, cider
from vila2cli.score.ptb import tokenise
from vila2cli.score.scorer import Reference, Scored
from vila2cli.score.stats import columns_of

REFERENCES = [[["a", "cat", "sits"]], [["a", "dog", "runs"]]]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog, it doesn't bark.", "a man 's dog it does n't bark"),
        ('He says "stop!" (twice)...', "he says stop -lrb- twice -rrb-"),
        ("Mr. Bear at St. James. A bus to Mt.", "mr. bear at st. james a bus to mt."),
        ("Sign no. 5 says no. Plan B. is it.", "sign no. 5 says no plan b. is it"),
        ("Mike/Ann + AT&T * rock 'n' roll, 5 o'clock", "mike/ann + at&t * rock 'n' roll 5 o'clock"),
        ("a / b [27,000-ton] a cat sat. c'mon x@y.com", "a / b -lsb- 27,000-ton -rsb- a cat sat c'mon x@y.com"),
        ("A black-and-white photo; 3.5 feet", "a black-and-white photo 3.5 feet"),
        ("They cannot see it -- at all", "they can not see it at all"),
        ("It’s 10:30 in the U.S. today", "it 's 10:30 in the u.s. today"),
        ("", ""),
    ],
)
def test_words_of_captions(caption, words):
    assert tokenise(caption) == words.split()


def test_cider_of_a_reference_itself_is_ten_for_every_length_it_has():
    both = [["a", "cat", "sits"], ["a", "dog", "runs"]]
    assert cider(both, REFERENCES, defended=False) == pytest.approx([7.5, 7.5])
    assert cider(both, REFERENCES) == pytest.approx([7.5, 7.5])


def test_repeating_a_word_gains_in_cider_and_is_clipped_in_cider_d():
    captions = [["a", "cat", "sits"], ["a", "dog", "dog"]]
    root = math.sqrt(2)
    assert cider(captions, REFERENCES, defended=False)[1] == pytest.approx(10 * (1 / root + 0.5) / 4)
    assert cider(captions, REFERENCES)[1] == pytest.approx(10 * (0.5 / root + 0.5) / 4)


def test_cider_d_pays_for_another_length():
    captions = [["a", "cat"], ["a", "dog", "runs"]]
    plain = 10 * 2 / math.sqrt(2) / 4
    assert cider(captions, REFERENCES, defended=False)[0] == pytest.approx(plain)
    assert cider(captions, REFERENCES)[0] == pytest.approx(plain * math.exp(-1 / 72))


def test_words_that_every_image_has_weigh_nothing():
    assert cider([["a"], ["a"]], REFERENCES) == [0.0, 0.0]
    assert cider([["a", "cat", "sits"]], REFERENCES[:1]) == [0.0]


def test_references_are_averaged():
    references = [[["a", "cat", "sits"], ["one", "more"]], [["a", "dog", "runs"]]]
    assert cider([["a", "cat", "sits"], ["x"]], references, defended=False)[0] == pytest.approx(3.75)


def test_the_scorer_weighs_words_by_all_samples():
    texts = [("A cat sits.", "a cat sits"), ("A dog dog", "a dog runs")]
    scored = [Scored(CIDER.score(text, Reference(answers=(r,))), {}, text, (r,)) for text, r in texts]
    totals = {name: column.sum() for name, column in columns_of(CIDER.rows(scored)).items()}
    found = CIDER.metrics(totals)
    clipped = 10 * (0.5 / math.sqrt(2) + 0.5) / 4
    assert float(found["cider"]) == pytest.approx((7.5 + clipped) / 2)
    assert float(found["num_words"]) == 3.0
    with pytest.raises(DataError, match="reference caption"):
        CIDER.score("x", Reference())


@pytest.mark.parametrize(
    ("plural", "word"),
    [
        ("dogs", "dog"),
        ("buses", "bus"),
        ("benches", "bench"),
        ("glasses", "glass"),
        ("knives", "knife"),
        ("people", "person"),
        ("firemen", "fireman"),
        ("puppies", "puppy"),
        ("scissors", "scissors"),
        ("skis", "skis"),
        ("bus", "bus"),
        ("tennis", "tennis"),
        ("horses", "horse"),
    ],
)
def test_plurals_are_undone(plural, word):
    assert singular(plural, coco_synonyms()) == word


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Two dogs and a man with a baseball bat.", ["dog", "person", "baseball bat"]),
        ("A baby elephant eats a hot dog.", ["elephant", "hot dog"]),
        ("A passenger train and a passenger.", ["train"]),
        ("The toilet seat is up; a toilet and a seat.", ["toilet", "toilet"]),
        ("Wine glasses on tables", ["wine glass", "dining table"]),
        ("A fire hydrant, a teddy bear", ["fire hydrant", "teddy bear"]),
        ("A bat flies at night", []),
        ("He wears a bow tie", ["tie"]),
        ("The dog's bowl, a man\u2019s tie", ["dog", "bowl", "person", "tie"]),
        ("Two dogs' bowls; the women's taxis", ["dog", "bowl", "person", "car"]),
        ("A hot dog's bun", ["hot dog"]),
    ],
)
def test_objects_that_captions_name(caption, objects):
    assert [name for _, name in objects_named(caption, coco_synonyms())] == objects


def test_chair_counts_mentions_and_captions():
    there = {"meta": {"objects": ["dog"]}, "answers": ("A dog on a couch.",)}
    rows = [
        CHAIR.score("A dog and a cat; the cat sleeps on a sofa.", Reference(**there)),
        CHAIR.score("A dog.", Reference(**there)),
        CHAIR.score("Nothing to see.", Reference(**there)),
    ]
    totals = {name: column.sum() for name, column in columns_of(rows).items()}
    found = CHAIR.metrics(totals)
    assert float(found["chair_i"]) == pytest.approx(2 / 5)
    assert float(found["chair_s"]) == pytest.approx(1 / 3)


def test_synonyms_come_from_a_file(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("dog, puppy,  hound\nhot dog\n")
    synonyms = read_synonyms(path)
    assert [name for _, name in objects_named("Hounds, a cat, a hot dog", synonyms)] == ["dog", "hot dog"]
    path.write_text("\n")
    with pytest.raises(DataError, match="no synonyms"):
        read_synonyms(path)
