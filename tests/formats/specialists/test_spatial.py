"""Relations that hold are asked about, what is unclear is not."""

from pathlib import Path

import pytest

from vila2cli.formats.specialists import spatial
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Picture
from vila2cli.score.box import parse_boxes

FRAME = Frame("999", "xyxy")
LEFT, MIDDLE, RIGHT = (50, 400, 150, 500), (450, 400, 550, 500), (850, 400, 950, 500)


def thing(category: str, box: tuple[float, ...], **more: object) -> Boxed:
    return Boxed(category=category, box=box, **more)  # type: ignore[arg-type]


def found(*things: Boxed) -> set[tuple[str, int, int | None]]:
    return {tuple(one) for one in spatial.relations(things)}  # type: ignore[misc]


def test_left_and_right_of_another_and_of_the_view() -> None:
    assert found(thing("cup", LEFT), thing("table", RIGHT)) == {
        ("left", 0, 1),
        ("right", 1, 0),
        ("camera-left", 0, None),
        ("camera-right", 1, None),
    }


def test_above_and_below_where_no_depth_is_known() -> None:
    relations = found(thing("lamp", (450, 0, 550, 100)), thing("table", (450, 600, 550, 900)))
    assert relations == {("above", 0, 1), ("below", 1, 0)}
    with_depth = found(
        thing("lamp", (450, 0, 550, 100), depth=3.0), thing("table", (450, 600, 550, 900), depth=3.0)
    )
    assert with_depth == set()


def test_depth_tells_front_from_behind_and_near_from_far() -> None:
    relations = found(thing("cup", MIDDLE, depth=1.0), thing("tree", MIDDLE, depth=9.0))
    assert relations == {
        ("in-front", 0, 1),
        ("behind", 1, 0),
        ("camera-close", 0, None),
        ("camera-far", 1, None),
    }
    assert found(thing("cup", MIDDLE, depth=3.0), thing("tree", MIDDLE, depth=3.2)) == set()


def test_two_that_fit_are_no_answer() -> None:
    chairs = thing("chair", LEFT), thing("chair", (200, 400, 300, 500))
    kinds = {kind for kind, answer, _ in found(*chairs, thing("table", RIGHT)) if answer < 2}
    assert "camera-left" not in kinds
    assert not {one for one in found(*chairs, thing("table", RIGHT)) if one[0] == "left" and one[2] == 2}


def test_the_closest_needs_a_rival_and_a_clear_lead() -> None:
    near, far = thing("chair", (700, 400, 800, 500)), thing("chair", LEFT)
    table = thing("table", RIGHT)
    assert ("closest", 0, 2) in found(near, far, table)
    assert not {one for one in found(near, table) if one[0] == "closest"}
    level = thing("chair", (680, 400, 780, 500))
    assert not {one for one in found(near, level, table) if one[0] == "closest" and one[2] == 2}


def test_the_closest_is_in_metres_where_they_are_known() -> None:
    """Nearest in the picture is not nearest in the room."""
    beside = thing("chair", (700, 400, 800, 500), centre=(1.0, 0.0, 9.0))
    across = thing("chair", LEFT, centre=(-1.0, 0.0, 2.0))
    table = thing("table", RIGHT, centre=(1.2, 0.0, 2.0))
    closest = {one for one in found(beside, across, table) if one[0] == "closest" and one[2] == 2}
    assert closest == {("closest", 1, 2)}
    flat = [thing("chair", (700, 400, 800, 500), depth=2.0), thing("chair", LEFT, depth=2.0)]
    assert not {one for one in found(*flat, thing("table", RIGHT, depth=2.0)) if one[0] == "closest"}


def test_a_conversation_names_the_reference_and_answers_with_a_box() -> None:
    picture = Picture(name="a.jpg", image=Path("a.jpg"), frame=FRAME)
    things = [thing("cup", LEFT), thing("table", RIGHT)]
    talk = spatial.converse(picture, things, BuildSettings(max_questions=3))
    questions, answers = talk.turns[::2], talk.turns[1::2]
    assert len(questions) == 3
    for question, answer in zip(questions, answers, strict=True):
        (box,) = parse_boxes(answer.text)
        assert box in (LEFT, RIGHT)
        assert "cup" in question.text or "table" in question.text
    between = [q.text for q, kind in zip(questions, talk.kinds, strict=True) if kind in ("left", "right")]
    assert between
    assert all(len(parse_boxes(text)) == 1 for text in between)
    assert spatial.converse(picture, things, BuildSettings(max_questions=3)).turns == talk.turns


def test_a_description_is_there_when_asked_for() -> None:
    picture = Picture(name="a.jpg", image=Path("a.jpg"), frame=FRAME)
    talk = spatial.converse(picture, [thing("cup", LEFT), thing("table", RIGHT)], BuildSettings(describe=True))
    assert talk.kinds[0] == "describe"
    assert "The cup [050,400,150,500] is to the left of the table [850,400,950,500]." in talk.turns[1].text


@pytest.mark.parametrize("things", [[], [thing("cup", MIDDLE)]])
def test_nothing_to_relate_has_a_reason(things: list[Boxed]) -> None:
    talk = spatial.converse(Picture(name="a", image=Path("a.jpg"), frame=FRAME), things, BuildSettings())
    assert talk.problem is not None
    assert talk.problem[0] == "no-relation"
    assert talk.turns == []
