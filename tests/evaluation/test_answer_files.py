"""Answer files of other tools, and which sample their answers belong to."""

import json

import pytest

from vila2cli.errors import DataError
from vila2cli.evaluation.answer_files import FiledAnswer, read_answers
from vila2cli.evaluation.joining import Known, join
from vila2cli.shards.sample import Sample

HALLUSION = {"category": "VD", "subcategory": "ocr", "set_id": "1", "figure_id": "2", "question_id": "0"}


def read(path, value):
    path.write_text(json.dumps(value))
    return [(answer.name, answer.text) for answer in read_answers([path])]


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ([{"question_id": 3, "prompt": "?", "text": "yes"}], [("3", "yes")]),
        ([{"question_id": 3, "answer": "yes"}], [("3", "yes")]),
        ([{"questionId": "3", "prediction": "yes"}], [("3", "yes")]),
        ([{"question_id": 3, "text": None, "answer": "yes"}], [("3", None)]),
        ([{"question_id": 3, "text": float("nan")}], [("3", None)]),
        ([{"image_id": 3, "caption": "a cat"}], [("3", "a cat")]),
        ([{"image": "VizWiz_val_0.jpg", "answer": "cup"}], [("VizWiz_val_0.jpg", "cup")]),
        ([{"id": "v_1", "answer": "C", "response": "B"}], [("v_1", "B")]),
        ({"v_1": "B", "v_2": 7}, [("v_1", "B"), ("v_2", "7")]),
        ([{**HALLUSION, "model_prediction": "No."}], [("VD_ocr_1_2_0", "No.")]),
        ([{"question_id": 3, "round_id": 0, "text": "A"}], [("3", "A")]),
        ([{"question_id": 3, "round_id": 2, "text": "A"}], [("3-2", "A")]),
        ([{"doc_id": 0, "filtered_resps": [["yes"]], "resps": [["Yes"]]}], [("document 0", "yes")]),
        ({"logs": [{"doc_id": 0, "resps": [["Yes"]]}]}, [("document 0", "Yes")]),
    ],
)
def test_every_known_form(tmp_path, value, answers):
    assert read(tmp_path / "a.json", value) == answers


@pytest.mark.parametrize(
    "value", [[1], [{"text": "yes"}], {"question_id": 1}, {"v_1": ["B"]}, {"v_1": True}, []]
)
def test_what_is_no_answer_is_named(tmp_path, value):
    with pytest.raises(DataError, match=r"a\.json"):
        read(tmp_path / "a.json", value)


def known(question):
    meta = {"sample_id": "1", "question": question}
    return Known.of(Sample(key="000", meta=meta), 0)


@pytest.mark.parametrize(
    ("question", "prompt", "agrees"),
    [
        ("Is it red?", "<image>\nIs it red?\nAnswer shortly.", True),
        ("Is it red?", "Is it green?\nAnswer shortly.", False),
        ("Context: h\nWhich?\nA. cat\nB. dog", "Which?\n(A) cat (B) dog\nh", True),
        ("Which is red?\nA. cat\nB. dog", "Which is green?\nA. cat\nB. dog", False),
        ("image 1 Who is it?\nA. x", "<image> Who  is IT?\nA. x", True),
        ("Is it red?", "", True),
        ("", "Is it red?", True),
    ],
)
def test_an_answer_was_given_to_the_question_if_its_prompt_holds_a_line_of_it(question, prompt, agrees):
    joined = join([known(question)], [FiledAnswer(text="yes", id="1", prompt=prompt)])
    assert (joined.num_joined, joined.num_disagreeing) in ([(1, 0)] if agrees else [(0, 1), (0, 0)])


@pytest.mark.parametrize("given", ["count/7.png", "count/images/7.png", "count/7"])
def test_mmes_images_are_named_by_their_subtask(given):
    """The same number is an image of another subtask, too, and each image has two questions."""
    samples = [
        Known.of(Sample(key=str(n), meta={"image_id": f"{subtask}/7", "question": question}), n)
        for n, (subtask, question) in enumerate(
            [("count", "Are there 2?"), ("count", "Are there 3?"), ("scene", "Are there 2?")]
        )
    ]
    prompts = [
        "Are there 3? Please answer yes or no.\nAnswer shortly.",
        "Are there 2? Please answer yes or no.",
    ]
    joined = join(
        samples, [FiledAnswer(text=str(n), id=given, prompt=prompt) for n, prompt in enumerate(prompts)]
    )
    assert joined.how == "image and question"
    assert {place: [one.text for one in answers] for place, answers in joined.answers.items()} == {
        0: ["1"],
        1: ["0"],
    }


def test_answers_of_one_file_for_several_splits_are_told_apart(tmp_path):
    """lmms-eval's POPE: all splits in one file, whose numbers begin anew in each and which may ask the same."""
    docs = [
        {"question_id": "1", "question": "Is there a dog?", "image_source": f"i{number}", "category": name}
        for number, name in enumerate(("adversarial", "popular"))
    ]
    (tmp_path / "s.jsonl").write_text(
        "".join(
            json.dumps({"doc_id": n, "doc": doc, "filtered_resps": [said]}) + "\n"
            for n, (doc, said) in enumerate(zip(docs, ("yes", "no"), strict=True))
        )
    )
    answers = read_answers([tmp_path / "s.jsonl"])
    for number, split in enumerate(("adversarial", "popular")):
        meta = {"sample_id": "1", "question": "Is there a dog?", "image_id": f"i{number}.jpg"}
        known = [Known.of(Sample(key="a", meta=meta), 0)]
        (answer,) = join(known, answers, split=split).answers[0]
        assert answer.text == ("yes", "no")[number]
        other = [Known.of(Sample(key="a", meta={**meta, "sample_id": "77"}), 0)]  # numbered in another way
        assert join(other, answers, split=split).how == "image and question"


COCO_IMAGES = ("COCO_val2014_000000000042.jpg", "COCO_val2014_000000001000.jpg")


def captions_asked():
    """Two images that are asked about alike, in COCO's order."""
    question = "Provide a one-sentence caption for the provided image."
    metas = [{"sample_id": number, "image_id": number, "question": question} for number in ("42", "1000")]
    return [Known.of(Sample(key=str(n), meta=meta), n, is_caption=True) for n, meta in enumerate(metas)]


@pytest.mark.parametrize(
    "row",
    [
        lambda n, name: {"doc_id": n, "doc": {"question_id": name, "file_name": name}, "resps": [[name]]},
        lambda n, name: {"doc_id": n, "doc": {"img_id": n, "filename": name}, "resps": [[name]]},
        lambda n, name: {"image_id": name, "caption": name},
        lambda n, name: {"image_id": name.removeprefix("COCO_val2014_"), "caption": name},
        lambda n, name: {"question_id": n, "image": name, "prompt": "Describe this.", "text": name},
    ],
)
def test_captions_in_another_order_are_joined_by_their_images(tmp_path, row):
    """lmms-eval's COCO captions have another order than COCO's file, and one prompt for all."""
    rows = [row(n, name) for n, name in enumerate(reversed(COCO_IMAGES))]
    (tmp_path / "s.json").write_text(json.dumps(rows))
    joined = join(captions_asked(), read_answers([tmp_path / "s.json"]))
    assert {place: answers[0].text for place, answers in joined.answers.items()} == dict(enumerate(COCO_IMAGES))


def test_captions_that_name_other_images_are_not_joined_by_their_order():
    answers = [FiledAnswer(text="a cat", id="", doc=n, image=f"flickr/{n}.jpg") for n in range(2)]
    assert join(captions_asked(), answers).num_joined == 0
    assert join(captions_asked(), [FiledAnswer(text="a cat", doc=n) for n in range(2)]).how == "document number"
