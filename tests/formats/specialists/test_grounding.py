"""Captions with boxes where they belong, phrases to locate, and what the filters leave out."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from vila2cli.formats.specialists import grounding
from vila2cli.formats.specialists.boxes import Frame, grid_box
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Conversation, Picture
from vila2cli.formats.specialists.rules import settle

DOG, BALL = (100, 100, 300, 300), (500, 500, 600, 600)


def converse(things: list[Boxed], *captions: str, **settings: object) -> Conversation:
    picture = Picture(
        name="a",
        image=Path("a.jpg"),
        frame=Frame("999", "xyxy"),
        things=tuple(things),
        captions=captions,
    )
    chosen = BuildSettings(**settings)  # type: ignore[arg-type]
    kept, _ = settle(picture, (1000, 1000), 1, chosen, for_grounding=True)
    return grounding.converse(picture, kept, chosen)


def test_boxes_stand_behind_the_phrases_that_the_annotation_marks() -> None:
    caption = "A brown dog chases a ball."
    things = [
        Boxed(category="dog", box=DOG, span=(0, 11)),
        Boxed(category="ball", box=BALL, span=(19, 25)),
        Boxed(category="dog", box=DOG, span=(2, 11)),
    ]
    (_, answer) = converse(things, caption).turns
    assert answer.text == "A brown dog [100,100,300,300] chases a ball [500,500,600,600]."


def test_the_caption_that_names_most_is_taken_and_its_words_looked_up() -> None:
    things = [Boxed(category="dog", box=DOG), Boxed(category="ball", box=BALL)]
    (question, answer) = converse(things, "A dog plays.", "A ball and a dog.", "Hot dogs.").turns
    assert "specify their location with [xmin,ymin,xmax,ymax]" in question.text
    assert answer.text == "A ball [500,500,600,600] and a dog [100,100,300,300]."


def test_a_plural_names_all_of_its_category_and_a_singular_none_of_several() -> None:
    things = [Boxed(category="dog", box=DOG), Boxed(category="dog", box=BALL)]
    (start, end, those), *_ = grounding.marks_in("Two dogs run.", things)
    assert ("Two dogs run."[start:end], len(those)) == ("dogs", 2)
    assert grounding.marks_in("A dog runs.", things) == []
    assert grounding.marks_in("A doghouse.", things[:1]) == []


def test_a_caption_that_names_nothing_is_followed_by_a_list() -> None:
    (_, answer) = converse([Boxed(category="dog", box=DOG)], "A sunny day.").turns
    assert answer.text == "A sunny day. The image shows: dog [100,100,300,300]."
    (_, alone) = converse([Boxed(category="dog", box=DOG)]).turns
    assert alone.text == "The image shows: dog [100,100,300,300]."


def test_phrases_are_asked_about_both_ways() -> None:
    talk = converse([Boxed(category="dog", box=DOG, phrases=("the brown dog",))])
    assert sorted(talk.kinds) == ["caption", "locate", "name"]
    located = talk.turns[2 * talk.kinds.index("locate") :]
    assert "the brown dog" in located[0].text
    assert located[1].text == "[100,100,300,300]"


@pytest.mark.parametrize(
    ("things", "reason"),
    [
        ([Boxed(category="dog", box=DOG)] * 4, "too-many-instances"),
        ([Boxed(category="dog", box=DOG, is_crowd=True)], "too-many-instances"),
        ([Boxed(category="dog", box=(0, 0, 900, 900))], "no-objects"),
        ([Boxed(category="", box=DOG)], "no-objects"),
        ([Boxed(category="x" * 200, box=DOG)], "no-objects"),
        ([], "no-objects"),
    ],
)
def test_what_the_filters_leave_out_has_a_reason(things: list[Boxed], reason: str) -> None:
    problem = converse(things, "A dog.").problem
    assert problem is not None
    assert problem[0] == reason


def test_three_of_a_category_and_70_percent_are_still_in() -> None:
    assert converse([Boxed(category="dog", box=DOG)] * 3).problem is None
    assert converse([Boxed(category="dog", box=(0, 0, 835, 835))]).problem is None
    assert converse([Boxed(category="dog", box=(0, 0, 837, 837))]).problem is not None


@pytest.mark.parametrize("left", range(0, 301, 7))
def test_exactly_70_percent_is_in_wherever_it_lies(left: int) -> None:
    """Rounding to the grid makes some such boxes wider, and dividing by 1000 leaves dust behind the comma."""
    frame = Frame("pixel", "xywh")
    for width, out in ((700, False), (701, True)):
        found = grid_box((left, 0, width, 1000), frame, (1001, 1000), max_area=700 / 1001)
        assert (found == "too-large") == out


def test_a_second_phrase_for_a_thing_is_no_second_instance() -> None:
    dogs = [Boxed(category="dog", box=(number, 0, 99, 99), span=(0, 5)) for number in range(3)]
    again = Boxed(category="dog", box=(0, 0, 99, 99), span=(0, 9), is_again=True)
    assert converse([*dogs, again], "a dog and more").problem is None
    assert converse([*dogs, replace(again, is_again=False)], "a dog and more").problem is not None


def test_of_several_captions_one_of_the_length_asked_for_is_taken() -> None:
    things, long = (
        [Boxed(category="dog", box=DOG), Boxed(category="ball", box=BALL)],
        "A dog, a ball " + "runs " * 30,
    )
    (_, answer) = converse(things, long, "A dog.", length="short").turns
    assert answer.text == "A dog [100,100,300,300]."
    (_, answer) = converse(things, "A dog and a ball.", long, length="long").turns
    assert answer.text.startswith("A dog [100,100,300,300], a ball")


def test_short_and_long_captions_are_apart() -> None:
    things, long = [Boxed(category="dog", box=DOG)], "A dog " + "runs " * 30
    for caption, length, reason in (
        (long, "short", "caption-too-long"),
        ("A dog.", "long", "caption-too-short"),
        (long, "long", None),
        ("A dog.", "short", None),
    ):
        problem = converse(things, caption, length=length).problem
        assert (problem[0] if problem else None) == reason


def test_names_cannot_pass_for_boxes_or_images() -> None:
    (_, answer) = converse([Boxed(category="cup [001,001,002,002]\n<image>", box=DOG)]).turns
    assert answer.text == "The image shows: cup (001,001,002,002) < image> [100,100,300,300]."


def test_captions_that_name_equally_much_are_drawn_among() -> None:
    captions = [f"A dog {number}." for number in range(20)]
    things = [Boxed(category="dog", box=DOG)]
    drawn = {grounding.choose_caption(captions, things, Random(seed))[0] for seed in range(20)}
    assert len(drawn) > 3
