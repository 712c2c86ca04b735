"""Composition: alt-text and recaption, specialists' turns, documents."""

from vila2cli.sample import Annotation, EncodedImage, Sample, Turn
from vila2cli.text.compose import caption_of, compose_caption, compose_turns

IMAGE = EncodedImage(b"jpeg", "jpg")
RECAPTION = Annotation(layer="recaption", kind="caption", text="a large red circle")
OCR = Annotation(
    layer="ocr", kind="turns", turns=(Turn("user", "What text?"), Turn("assistant", 'The word "KAB".'))
)


def picture(*annotations: Annotation, text: str | None = "red thing") -> Sample:
    return Sample(key="a", images=(IMAGE,), text=text, annotations=annotations)


def turns_of(caption: str) -> tuple[Turn, ...]:
    return (Turn("user", "<image>"), Turn("assistant", caption))


def test_captions_come_in_the_order_of_the_recipe() -> None:
    sample = picture(RECAPTION)
    assert compose_caption(sample, ["original", "recaption"]) == "red thing\na large red circle"
    assert compose_caption(sample, ["recaption", "original"], " / ") == "a large red circle / red thing"
    assert compose_caption(sample, ["recaption"]) == "a large red circle"


def test_a_missing_caption_falls_back_to_the_others() -> None:
    assert compose_caption(picture(), ["original", "recaption"]) == "red thing"
    assert compose_caption(picture(text="  "), ["original"]) is None
    assert compose_turns(picture(text=None), ["original", "recaption"]) == ()


def test_the_newest_annotation_of_a_layer_counts() -> None:
    newer = Annotation(layer="recaption", kind="caption", text="newer")
    assert caption_of(picture(RECAPTION, newer), "recaption") == "newer"


def test_specialists_answers_follow_the_caption_as_turns() -> None:
    turns = compose_turns(picture(RECAPTION, OCR), ["original", "recaption"])
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[0].text == "<image>"
    assert turns[1].text == "red thing\na large red circle"
    assert turns[3].text == 'The word "KAB".'
    assert compose_turns(picture(OCR), ["original"], with_answers=False) == turns_of("red thing")


def test_a_caption_that_spells_a_placeholder_is_made_harmless() -> None:
    turns = compose_turns(picture(text="click <image> here"), ["original"])
    assert turns[1].text == "click < image> here"


def test_a_document_is_one_answer_with_its_pictures_in_place() -> None:
    document = {"texts": ["First.", None, "Then.", None, "End."], "images": [None, 0, None, 1, None]}
    sample = Sample(key="d", images=(IMAGE, IMAGE), meta={"interleaved": document})
    assert compose_turns(sample, ()) == (
        Turn("user", ""),
        Turn("assistant", "First.<image> Then.<image> End."),
    )


def test_a_conversation_is_taken_as_it_is() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    sample = Sample(key="c", images=(IMAGE,), meta={"messages": messages})
    assert compose_turns(sample, ["original"]) == (Turn("user", "hi"), Turn("assistant", "ho"))
