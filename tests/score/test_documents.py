"""ANLS, relaxed accuracy, OCRBench and RefCOCO, as tables."""

import pytest

from vila2cli.errors import DataError
from vila2cli.score.box import REFCOCO
from vila2cli.score.documents import CHARTQA, DOCVQA, OCRBENCH, is_close
from vila2cli.score.scorer import Reference, Scored


@pytest.mark.parametrize(
    ("answer", "truths", "value"),
    [
        ("Dakota  DIGITAL", ["dakota digital"], 1.0),
        ("kitten", ["sitten"], 5 / 6),
        ("abcd", ["abxy"], 0.5),
        ("abcd", ["axyz"], 0.0),
        ("$1.5", ["1.5"], 0.75),
        ("cat", ["dog", "cats"], 0.75),
        ("", ["x"], 0.0),
        ("", [""], 1.0),
        ("kitte ", ["sitten"], 4 / 6),
        ("ab     ", ["cd"], 5 / 7),
        ("1e5   ", ["wxyz"], 0.0),
    ],
)
def test_anls_takes_the_best_and_cuts_below_one_half(answer, truths, value):
    assert DOCVQA.score(answer, Reference(answers=tuple(truths)))["score"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "truth", "close"),
    [
        ("100", "105", True),
        ("95", "100", True),
        ("94.9", "100", False),
        ("105.1", "100", False),
        ("12%", "0.12", True),
        ("12", "12%", False),
        ("-10", "10", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("Germany", "germany", True),
        ("Germany", "Germany and France", False),
        ("1,000", "1000", False),
    ],
)
def test_relaxed_accuracy(answer, truth, close):
    assert is_close(answer, truth) is close
    assert CHARTQA.score(f" {answer} ", Reference(answers=(truth,)))["score"] == close


@pytest.mark.parametrize(
    ("answer", "truth", "dataset", "right"),
    [
        ("The sign says STOP.", "Stop", "svt", 1),
        ("st op", "stop", "svt", 0),
        ("x ^ 2", "x^2", "HME100k", 1),
        ("X^2", "x^2", "HME100k", 0),
    ],
)
def test_ocrbench_looks_for_the_answer_inside(answer, truth, dataset, right):
    assert OCRBENCH.score(answer, Reference(answers=(truth,), meta={"dataset": dataset}))["score"] == right


REGION = {"box": "[10,20,60,70]", "width": 100, "height": 200}


@pytest.mark.parametrize(
    ("answer", "frame", "overlap"),
    [
        ("[10,20,60,70]", "xyxy-pixel", 1.0),
        ("[0.1,0.1,0.6,0.35]", "xyxy-1", 1.0),
        ("[.1,.1,.6,.35]", "xyxy-1", 1.0),
        ("[0.3,0.1,0.55,0.35]", "xyxy-1-square", 1.0),  # 50 px of padding left and right
        ("[100,100,600,350]", "xyxy-1000", 1.0),
        ("(10,20,35,70)", "xyxy-pixel", 0.5),
        ("[10,20,34,70]", "xyxy-pixel", 0.48),
        ("[60,70,90,90]", "xyxy-pixel", 0.0),
        ("[60,70,10,20]", "xyxy-pixel", 0.0),
        ("there", "xyxy-pixel", 0.0),
    ],
)
def test_refcoco_in_the_frame_that_is_stated(answer, frame, overlap):
    row = REFCOCO.score(answer, Reference(meta={**REGION, "box_frame": frame}))
    assert row["iou"] == pytest.approx(overlap)
    assert row["score"] == (overlap >= 0.5)


@pytest.mark.parametrize("meta", [{}, {**REGION, "box_frame": "cxcywh"}, {**REGION, "box": "[1,2]"}])
def test_refcoco_needs_box_size_and_frame(meta):
    with pytest.raises(DataError, match="RefCOCO"):
        REFCOCO.score("[1,2,3,4]", Reference(meta=meta))


def test_the_shorter_side_is_centred_in_the_square():
    meta = {"box": "[10,20,60,70]", "width": 200, "height": 100, "box_frame": "xyxy-1-square"}
    assert REFCOCO.score("[0.05,0.35,0.3,0.6]", Reference(meta=meta))["iou"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("frame", "answers", "is_doubted"),
    [
        ("xyxy-999", ["[0.1,0.1,0.6,0.35]"] * 19 + ["[100,100,600,350]", "none"], True),
        ("xyxy-pixel", ["[.1,.1,.6,.35]"] * 4, True),
        ("xyxy-999", ["[0.1,0.1,0.6,0.35]"] * 2 + ["[100,100,600,350]"], True),
        ("xyxy-999", ["[0.1,0.1,0.6,0.35]"] + ["[100,100,600,350]"] * 30, False),
        ("xyxy-1", ["[0.1,0.1,0.6,0.35]"] * 4, False),
        ("xyxy-1-square", ["[0.1,0.1,0.6,0.35]"] * 4, False),
        ("xyxy-999", ["none"], False),
    ],
)
def test_boxes_of_another_frame_are_doubted(frame, answers, is_doubted):
    reference = Reference(meta={**REGION, "box_frame": frame})
    scored = [Scored(REFCOCO.score(one, reference), REFCOCO.labels(reference), one) for one in answers]
    assert any("within 0-1" in doubt for doubt in REFCOCO.account(scored).doubts) == is_doubted
