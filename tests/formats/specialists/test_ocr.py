"""Words in reading order, asked about by box and by text; people's questions as they are."""

from pathlib import Path

from vila2cli.formats.specialists import ocr
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Conversation, Picture
from vila2cli.formats.specialists.rules import settle


def word(text: str, x: float, y: float) -> Boxed:
    return Boxed(category="text", box=(x, y, x + 80, y + 40), text=text)


def converse(
    words: list[Boxed],
    questions: tuple[tuple[str, str], ...] = (),
    *,
    describe: bool = False,
    most: int = 40,
) -> Conversation:
    picture = Picture(
        name="a",
        image=Path("a.jpg"),
        frame=Frame("999", "xyxy"),
        things=tuple(words),
        questions=questions,
    )
    settings = BuildSettings(describe=describe, max_questions=most)
    kept, _ = settle(picture, (999, 999), 1, settings, for_grounding=False)
    return ocr.converse(picture, kept, settings)


def test_words_are_read_line_by_line() -> None:
    words = [word("WAY", 300, 210), word("STOP", 100, 100), word("ALL", 100, 205), word("NOW", 400, 110)]
    talk = converse(words)
    assert talk.turns[1].text == "STOP NOW ALL WAY"


def test_each_word_is_read_from_its_box_and_found_by_its_text() -> None:
    talk = converse([word("STOP", 100, 100)])
    by_kind = dict(zip(talk.kinds, zip(talk.turns[::2], talk.turns[1::2], strict=True), strict=True))
    question, answer = by_kind["read-box"]
    assert "[100,100,180,140]" in question.text
    assert answer.text == "STOP"
    question, answer = by_kind["find-word"]
    assert '"STOP"' in question.text
    assert answer.text == "[100,100,180,140]"


def test_a_word_that_is_there_twice_is_not_asked_for() -> None:
    talk = converse([word("EXIT", 100, 100), word("exit", 500, 100), word("A", 100, 500)])
    found = [q.text for q, kind in zip(talk.turns[::2], talk.kinds, strict=True) if kind == "find-word"]
    assert len(found) == 1
    assert '"A"' in found[0]


def test_what_nobody_could_read_is_left_out() -> None:
    talk = converse([word(".", 100, 100), word("###", 200, 100), word("\x1b[31m", 300, 100)])
    assert talk.problem is not None
    assert talk.problem[0] == "no-text"


def test_people_s_questions_are_asked_and_empty_answers_skipped() -> None:
    talk = converse([], (("What is the date?", "May 5"), ("What is the fax?", "")))
    assert [turn.text for turn in talk.turns] == ["What is the date?", "May 5"]
    assert talk.kinds == ["comprehend"]


def test_a_description_answers_the_generation_prompt() -> None:
    talk = converse([word("STOP", 100, 100)], describe=True)
    assert talk.turns[0].text.startswith("Your task is to recognize and describe the text")
    assert talk.turns[1].text == 'The text in the image reads "STOP".'
