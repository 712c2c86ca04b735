"""The frame of plain numbers is one for all answers of a model, stated or told from all of them."""

from random import Random

import pytest

from vila2cli.errors import DataError
from vila2cli.score.box import BOX, REFCOCO
from vila2cli.score.box_frames import FRAMES, Numbers, inferred_frame, to_pixels
from vila2cli.score.scorer import Reference, Scored

COCO = (640.0, 480.0)
SIZES = (COCO, (4000.0, 3000.0))


def drawn(num, size, seed=0):
    """True boxes in shares of an image."""
    random = Random(seed)
    found = []
    for _ in range(num):
        x, y = sorted(random.uniform(0, 1) for _ in range(2)), sorted(random.uniform(0, 1) for _ in range(2))
        found.append((x[0], y[0], x[1] + 0.01 * (1 - x[1]), y[1] + 0.01 * (1 - y[1])))
    return found


def written(box, size, unit):
    width, height = size if unit == "pixel" else (float(unit), float(unit))
    digits = 3 if unit == "1" else 0
    return tuple(
        round(value, digits) for value in (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", ["1", "100", "999", "pixel"])
def test_a_set_of_answers_tells_its_frame(unit, size, seed):
    numbers = [Numbers(written(box, size, unit), size) for box in drawn(30, size, seed)]
    assert inferred_frame(numbers)[0] == f"xyxy-{unit}"


@pytest.mark.parametrize("unit", ["1", "999", "pixel"])
def test_six_answers_mostly_tell_their_frame(unit):
    told = [
        inferred_frame([Numbers(written(box, COCO, unit), COCO) for box in drawn(6, COCO, seed)])[0]
        for seed in range(50)
    ]
    assert told.count(f"xyxy-{unit}") >= 48


def test_one_answer_in_twenty_may_be_wild():
    numbers = [Numbers(written(box, COCO, "1"), COCO) for box in drawn(39, COCO)] + [
        Numbers((5, 5, 900, 900), COCO)
    ]
    assert inferred_frame(numbers)[0] == "xyxy-1"


def test_a_few_answers_are_in_the_usual_frame_if_they_can_be():
    assert inferred_frame([Numbers((10, 20, 300, 400), COCO)])[0] == "xyxy-999"
    assert inferred_frame([Numbers((10, 20, 300, 1000), COCO)])[0] == "xyxy-1000"
    assert inferred_frame([Numbers((10, 20, 1300, 1400), (4000, 3000))])[0] == "xyxy-pixel"
    assert inferred_frame([Numbers((10, 20, 300, 400), COCO, is_pixels=True)])[0] == "xyxy-pixel"
    assert (
        inferred_frame([Numbers((10, 20, 900, 900), COCO, is_thousandths=True, is_pixels=True)])[0]
        == "xyxy-1000"
    )
    assert inferred_frame([Numbers((0, 0, 1, 1), None)])[0] == "xyxy-1"
    assert inferred_frame([])[0] == "xyxy-999"


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        ("xyxy-pixel", (64, 48, 320, 240)),
        ("xyxy-999", (99.9, 99.9, 499.5, 499.5)),
        ("xyxy-100", (10, 10, 50, 50)),
        ("yxyx-1000", (100, 100, 500, 500)),
        ("xywh-pixel", (64, 48, 256, 192)),
        ("xywh-1", (0.1, 0.1, 0.4, 0.4)),
        ("xyxy-1-square", (0.1, 0.2, 0.5, 0.5)),  # 80 px of padding above and below
    ],
)
def test_every_frame_leads_to_the_same_pixels(frame, numbers):
    assert frame in FRAMES
    assert to_pixels(numbers, frame, *COCO) == pytest.approx((64, 48, 320, 240))


REGION = {"box": "[64,48,320,240]", "width": 640, "height": 480}


def scored(answers, frame="auto", scorer=REFCOCO, meta=REGION, references=()):
    reference = Reference(answers=references, meta={**meta, "box_frame": frame})
    return [Scored(scorer.score(one, reference), scorer.labels(reference), one, references) for one in answers]


@pytest.mark.parametrize(
    "answer",
    [
        "<|box_start|>(100,100),(500,500)<|box_end|>",
        "<ref>the dog</ref><box>(100,100),(500,500)</box>",
        "<box>[[100, 100, 500, 500]]</box>",
        "<loc0102><loc0102><loc0512><loc0512> dog",
        "<object><patch_index_0099><patch_index_0495></object>",
        "dog<loc_100><loc_100><loc_500><loc_500>",
        "{<10><10><50><50>}",
        "<|ref|>dog<|/ref|><|det|>[[100, 100, 500, 500]]<|/det|>",
        "<|begin_of_box|>[[100,100,500,500]]<|end_of_box|>",
        '{"box_2d": [100, 100, 500, 500], "label": "dog"}',
        "[10%, 10%, 50%, 50%]",
    ],
)
@pytest.mark.parametrize("frame", ["auto", "xyxy-1", "xyxy-pixel", "yxyx-999"])
def test_a_notation_with_a_frame_of_its_own_is_in_no_other(answer, frame):
    (one,) = REFCOCO.settle(scored([answer], frame))
    assert one.row["iou"] > 0.85  # what the coarsest grid, Kosmos-2's, allows
    account = REFCOCO.account([one])
    assert account.doubts == ()
    assert account.figures["frame_from"] == "the notation"


@pytest.mark.parametrize(
    ("frame", "right"),
    [
        ("xyxy-1", "[0.1, 0.1, 0.5, 0.5]"),
        ("xyxy-999", "(100,100),(500,500)"),
        ("xyxy-1000", "[[100,100,500,500]]"),
        ("xyxy-pixel", '{"bbox_2d": [64, 48, 320, 240], "label": "dog"}'),
        ("xyxy-pixel", "x1: 64, y1: 48, x2: 320, y2: 240"),
        ("xywh-pixel", "[64, 48, 256, 192]"),
        ("xyxy-1-square", "[0.1, 0.2, 0.5, 0.5]"),
    ],
)
def test_plain_numbers_are_in_the_frame_that_is_stated(frame, right):
    (one,) = REFCOCO.settle(scored([right], frame))
    assert one.row["iou"] == pytest.approx(1, abs=0.01)
    account = REFCOCO.account([one])
    assert account.doubts == ()
    assert account.figures["frames_of_plain_numbers"] == {frame: 1}


def test_numbers_of_no_stated_frame_are_told_by_all_and_doubted():
    answers = ["[64, 48, 320, 240]"] + [str([*written(box, COCO, "pixel")]) for box in drawn(30, COCO)]
    settled = REFCOCO.settle(scored(answers))
    assert settled[0].row["iou"] == 1
    (doubt,) = REFCOCO.account(settled).doubts
    assert "nobody stated the frame of 31 boxes" in doubt
    assert "xyxy-pixel" in doubt


def test_a_stated_frame_that_the_numbers_are_not_in_is_doubted():
    answers = [str([*written(box, COCO, "pixel")]) for box in drawn(30, COCO)]
    (doubt,) = REFCOCO.account(REFCOCO.settle(scored(answers, "xyxy-999"))).doubts
    assert "look as if they were in xyxy-pixel" in doubt
    assert REFCOCO.account(REFCOCO.settle(scored(answers, "xyxy-pixel"))).doubts == ()
    (doubt,) = REFCOCO.account(REFCOCO.settle(scored(["[10,20,30,40]"], "xyxy-1"))).doubts
    assert "stated to be in xyxy-1" in doubt


def test_a_part_of_the_answers_in_another_frame_is_doubted():
    answers = ["[0.1,0.2,0.3,0.4]" if n % 10 == 0 else "[100,200,300,400]" for n in range(40)]
    (doubt,) = REFCOCO.account(REFCOCO.settle(scored(answers, "xyxy-1000"))).doubts
    assert "4 of 40 boxes lie within 0-1" in doubt


def test_answers_without_a_box_are_counted_and_doubted():
    answers = ["{<10><10><50><50>}", "in the middle", '<point x="63.5" y="44.5" alt="dog">dog</point>']
    account = REFCOCO.account(REFCOCO.settle(scored(answers)))
    assert account.figures["notations"] == {"<N><N><N><N>": 1}
    assert (account.figures["num_unparsed"], account.figures["num_points"]) == (2, 1)
    assert account.doubts == ("2 of 3 answers hold no box that can be read, 1 of them a point",)


@pytest.mark.parametrize(
    "guess",
    [
        "[320,240,64,48]",  # the corners swapped
        "[64,48,64,240]",
        "[-100000,-100000,100000,100000]",
        "[0,0,640,480]",
        "[0,0,1,1],[64,48,320,240]",  # the second of two
        "[0,0,1,1] " + "[64,48,320,240] " * 5,
    ],
)
def test_degenerate_guesses_gain_nothing(guess):
    (one,) = REFCOCO.settle(scored([guess], "xyxy-pixel"))
    assert one.row["score"] == 0


def test_boxes_of_other_models_are_read_against_our_own_truth():
    truth = ("[100,100,500,500]",)
    for frame, answer in (
        ("xyxy-999", "[100,100,500,500]"),
        ("xyxy-999", '{"box_2d": [100, 100, 500, 500]}'),
        ("xyxy-999", "<loc0102><loc0102><loc0512><loc0512>"),
        ("auto", "[0.1, 0.1, 0.5, 0.5]"),
        ("xyxy-1", "(0.1, 0.1), (0.5, 0.5)"),
    ):
        (one,) = BOX.settle(scored([answer], frame, BOX, {}, truth))
        assert one.row["iou"] == pytest.approx(1, abs=0.01), answer
    meta = {"width": 640, "height": 480}
    (one,) = BOX.settle(scored(["[64, 48, 320, 240]"], "xyxy-pixel", BOX, meta, truth))
    assert one.row["iou"] == pytest.approx(1, abs=0.01)
    with pytest.raises(DataError, match="needs the image's 'width' and 'height'"):
        scored(["[64, 48, 320, 240]"], "xyxy-pixel", BOX, {}, truth)


def test_what_an_earlier_version_kept_stays_as_it_scored_it():
    kept = [Scored({"score": 1.0, "iou": 0.7, "unparsed": 0.0}, text="[1,2,3,4]")]
    assert BOX.settle(kept) == REFCOCO.settle(kept) == kept


def test_our_own_boxes_count_as_before():
    """The first whole box within 0-999 counts, others are none."""
    truth = ("[100,100,500,500]",)
    for answer, row in (
        ("[9,9,9,9] or [100,100,500,500]", {"score": 1, "iou": 1, "unparsed": 0}),
        ("[500,500,100,100]", {"score": 0, "iou": 0, "unparsed": 1}),
        ("[100,100,500,1000]", {"score": 0, "iou": 0, "unparsed": 1}),
        ("[100,100,500]", {"score": 0, "iou": 0, "unparsed": 1}),
    ):
        (one,) = BOX.settle(scored([answer], "xyxy-999", BOX, {}, truth))
        assert one.row == row
