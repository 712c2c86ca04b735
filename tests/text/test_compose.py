"""Composition: alt-text and recaption, specialists' turns, documents."""

import dataclasses
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vila2cli.settings import CaptionSettings, MainSettings
from vila2cli.shards.sample import Annotation, EncodedImage, Sample, Turn
from vila2cli.text.compose import (
    Composition,
    caption_of,
    compose_caption,
    composition_of,
    conversations,
    is_kept,
)

IMAGE = EncodedImage(b"jpeg", "jpg")
RECAPTION = Annotation(layer="recaption", kind="caption", text="a large red circle")
OCR = Annotation(
    layer="ocr", kind="turns", turns=(Turn("user", "What text?"), Turn("assistant", 'The word "KAB".'))
)

BOTH = Composition(captions=("original", "recaption"))


def picture(*annotations: Annotation, text: str | None = "red thing") -> Sample:
    return Sample(key="a", images=(IMAGE,), text=text, annotations=annotations)


def keyed(number: int) -> Sample:
    return Sample(key=f"{number:05}", images=(IMAGE,), text="red thing", annotations=(RECAPTION,))


SPATIAL = Annotation(
    layer="spatial",
    kind="turns",
    turns=(Turn("user", "Where?"), Turn("assistant", "The circle is above the star.")),
)


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
    assert conversations(picture(text=None), BOTH) == []


def test_the_newest_annotation_of_a_layer_counts() -> None:
    newer = Annotation(layer="recaption", kind="caption", text="newer")
    assert caption_of(picture(RECAPTION, newer), "recaption") == "newer"


def test_the_order_of_the_specialists_is_drawn_by_the_key() -> None:
    orders: Counter[str] = Counter()
    for number in range(100):
        sample = dataclasses.replace(picture(RECAPTION, OCR, SPATIAL), key=str(number))
        (turns,) = conversations(sample, BOTH)
        assert [turns] == conversations(sample, BOTH)
        orders[turns[2].text] += 1
        assert {turns[2].text, turns[4].text} == {"What text?", "Where?"}
    assert orders["What text?"] in range(30, 71)


def test_specialists_answers_follow_the_caption_as_turns() -> None:
    (turns,) = conversations(picture(RECAPTION, OCR), BOTH)
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[0].text == "<image>"
    assert turns[1].text == "red thing\na large red circle"
    assert turns[3].text == 'The word "KAB".'
    assert conversations(picture(OCR), Composition(), with_answers=False) == [turns_of("red thing")]


def test_answers_apart_are_texts_of_their_own() -> None:
    apart = dataclasses.replace(BOTH, answers_apart=True)
    caption, *answers = conversations(picture(RECAPTION, OCR, SPATIAL), apart)
    assert caption == turns_of("red thing\na large red circle")
    assert sorted(answers, key=str) == sorted(
        [
            (Turn("user", "<image>What text?"), Turn("assistant", 'The word "KAB".')),
            (Turn("user", "<image>Where?"), Turn("assistant", "The circle is above the star.")),
        ],
        key=str,
    )
    without_caption = conversations(picture(OCR, text=None), apart)
    assert without_caption == [turns for turns in answers if "text?" in turns[0].text]
    assert conversations(picture(OCR), apart, with_answers=False) == [turns_of("red thing")]


def test_a_caption_that_spells_a_placeholder_is_made_harmless() -> None:
    (turns,) = conversations(picture(text="click <image> here"), Composition())
    assert turns[1].text == "click < image> here"


def test_a_document_is_one_answer_with_its_pictures_in_place() -> None:
    document = {"texts": ["First.", None, "Then.", None, "End."], "images": [None, 0, None, 1, None]}
    sample = Sample(key="d", images=(IMAGE, IMAGE), meta={"interleaved": document})
    assert conversations(sample, Composition()) == [
        (Turn("user", ""), Turn("assistant", "First.<image> Then.<image> End."))
    ]


def test_a_conversation_is_taken_as_it_is() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    sample = Sample(key="c", images=(IMAGE,), meta={"messages": messages})
    assert conversations(sample, Composition()) == [(Turn("user", "hi"), Turn("assistant", "ho"))]


def test_a_recaption_that_fell_back_to_the_alt_text_is_not_said_twice() -> None:
    fallen = Annotation(layer="recaption", kind="caption", text="red thing", decision={"source": "original"})
    assert BOTH.caption(picture(fallen)) == "red thing"


def test_a_filtered_sample_is_not_trained_on() -> None:
    def verdict(keep: bool) -> Annotation:
        return Annotation(layer="filter", kind="score", scores={"keep": keep})

    assert conversations(picture(verdict(False)), BOTH) == []
    assert conversations(picture(verdict(False), verdict(True)), BOTH) == [turns_of("red thing")]
    assert is_kept(picture())
    messages = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    talk = Sample(key="c", images=(IMAGE,), meta=messages, annotations=(verdict(False),))
    assert conversations(talk, BOTH) == []


def test_the_order_is_drawn_per_image_and_stays() -> None:
    shuffled = Composition(captions=("original", "recaption"), separator=" | ", shuffle=True, seed=3)
    texts = [shuffled.caption(keyed(number)) for number in range(1000)]
    counts = Counter(texts)
    assert set(counts) == {"red thing | a large red circle", "a large red circle | red thing"}
    assert all(430 < count < 570 for count in counts.values())
    assert texts == [shuffled.caption(keyed(number)) for number in range(1000)]
    other = Composition(captions=("original", "recaption"), separator=" | ", shuffle=True, seed=4)
    assert texts != [other.caption(keyed(number)) for number in range(1000)]


def test_dropout_leaves_out_its_share_and_never_both() -> None:
    composition = Composition(captions=("original", "recaption"), dropout={"original": 0.3, "recaption": 0.2})
    counts = Counter(composition.caption(keyed(number)) for number in range(4000))
    # Where both would go (6%), one of them drawn stays: half for each.
    assert abs(counts["a large red circle"] / 4000 - (0.3 * 0.8 + 0.03)) < 0.02
    assert abs(counts["red thing"] / 4000 - (0.2 * 0.7 + 0.03)) < 0.02
    assert counts["red thing\na large red circle"] == 4000 - counts["red thing"] - counts["a large red circle"]
    alone = Composition(captions=("original", "recaption"), dropout={"original": 1.0})
    assert alone.caption(keyed(1)) == "a large red circle"
    assert alone.caption(picture()) == "red thing"


@given(st.text(max_size=20), st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_every_sample_with_a_caption_keeps_one(key: str, seed: int, first: float, second: float) -> None:
    composition = Composition(
        captions=("original", "recaption"),
        shuffle=True,
        dropout={"original": first, "recaption": second},
        seed=seed,
    )
    text = composition.caption(Sample(key=key, text="red thing", annotations=(RECAPTION,)))
    assert text is not None
    assert set(text.split("\n")) <= {"red thing", "a large red circle"}


def test_one_of_several_candidates_is_drawn() -> None:
    attempts = [
        {"text": "a circle", "defect": None},
        {"text": "a red circle", "defect": None},
        {"text": "a a a a", "defect": "repetition"},
    ]
    many = Annotation(layer="recaption", kind="caption", text="a circle", decision={"attempts": attempts})
    drawn = Composition(captions=("recaption",), draw_candidate=True)
    counts = Counter(drawn.caption(Sample(key=str(n), annotations=(many,))) for n in range(1000))
    assert set(counts) == {"a circle", "a red circle"}
    assert all(430 < count < 570 for count in counts.values())
    assert Composition(captions=("recaption",)).caption(picture(many)) == "a circle"
    assert drawn.caption(picture(RECAPTION)) == "a large red circle"


def test_every_setting_about_captions_counts() -> None:
    changed = {
        "captions": ("recaption", "original"),
        "separator": " | ",
        "shuffle_captions": True,
        "caption_dropout": {"original": 0.5},
        "draw_candidate": True,
        "choose": {"original": 0.5, "recaption": 0.5},
        "answers": "apart",
    }
    assert changed.keys() == CaptionSettings.model_fields.keys() | {"answers"}
    settings = [MainSettings(), *(MainSettings(**{key: changed[key]}) for key in changed)]
    made = [composition_of(one, seed=1, answers=one.answers) for one in settings]
    assert all(one not in made[:i] for i, one in enumerate(made))
    assert composition_of(MainSettings(), seed=2) not in made
