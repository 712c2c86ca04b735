"""An answer's boxes lie in the image and are whole; its text is text."""

import pytest

from vila2cli.text.answer_rules import answer_defect

ALL = ("boxes", "some-box", "text")


@pytest.mark.parametrize(
    "text",
    [
        "A dog [100,200,300,400] runs.",
        "A dog [000,000,999,999] and a cat [1, 2, 3.5, 4].",
        "See [sic] the dog at [100,200,300,400].",
        "The sign [100,200,300,400] reads 12, 34, 56, 78.",
    ],
)
def test_what_is_right_passes(text: str) -> None:
    assert answer_defect(text, ALL) is None


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ("A dog [100,200,300].", "bad-box"),
        ("A dog <box>[[100,200,300,400]]</box>.", "bad-box"),
        ("A dog [100,200,300,400,500].", "bad-box"),
        ("A dog [300,200,100,400].", "bad-box"),
        ("A dog [100,200,100,400].", "bad-box"),
        ("A dog [100,200,300,4", "bad-box"),
        ("A dog [100,200,[300,400,500,600].", "bad-box"),
        ("A dog [x1,20,30,40].", "bad-box"),
        ("A dog at [xmin,ymin,xmax,ymax].", "bad-box"),
        ("A dog [100,200,300,1000].", "box-outside"),
        ("A dog [-1,200,300,400].", "box-outside"),
        ("A dog <|box_start|>(100,200),(300,400)<|box_end|>.", "bad-box"),
        ("A dog (100,200),(300,400) runs.", "bad-box"),
        ("A dog [100,200,300,400] and a cat <loc0001><loc0002><loc0300><loc0400>.", "bad-box"),
        ('A dog <point x="1.5" y="4.5" alt="dog">dog</point>.', "bad-box"),
        ("A dog runs.", "no-box"),
        ("A dog [sic].", "no-box"),
        ("\x07 A dog [1,2,3,4]", "implausible-text"),
        ("@#$%^&*()_+ ~~ [1,2,3,4]", "implausible-text"),
        ("x" * 100 + " [1,2,3,4]", "implausible-text"),
    ],
)
def test_what_is_wrong_is_named(text: str, defect: str) -> None:
    assert answer_defect(text, ALL) == defect


def test_only_the_checks_asked_for_are_made() -> None:
    assert answer_defect("A dog [100,200,300].", ()) is None
    assert answer_defect("A dog [100,200,300].", ("text",)) is None
    assert answer_defect("A dog.", ("boxes", "text")) is None
    assert answer_defect("\x00", ("boxes",)) is None


def test_text_without_spaces_is_no_noise_in_other_scripts() -> None:
    assert answer_defect("图" * 100, ("text",)) is None
    assert answer_defect("El texto dice «¡Alto!», y nada más.", ("text",)) is None


def test_it_is_quick_on_runaway_text() -> None:
    assert answer_defect("[1," * 40_000, ("boxes",)) == "bad-box"
