"""Every format with one thing in its files broken: a task or one clear line, never a traceback."""

import base64
import copy
import io
import json

import pytest
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.write import import_tasks
from vila2cli.formats.reading import read_text
from vila2cli.formats.registry import find_format, names

PIXEL = io.BytesIO()
Image.new("RGB", (2, 2)).save(PIXEL, "PNG")
HALLUSION = {"category": "VD", "subcategory": "s", "set_id": "1", "figure_id": "0", "question_id": "2"}
HALLUSION |= {"question": "Is it?", "filename": "./a.png", "visual_input": "1", "gt_answer": "1"}
COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
PROBLEM = {
    "question": "Why?",
    "choices": ["a", "b"],
    "answer": 1,
    "hint": "h",
    "image": "i.png",
    "subject": "s",
}
SEED = {"question_id": "1", "question": "Which?", "choice_a": "x", "choice_b": "y", "answer": "A"}
SEED |= {"data_id": "1.jpg", "data_type": "image", "question_type_id": 2}
MMMU = {"id": "validation_Art_1", "question": "<image 1> Who?", "options": "['x', 'y']", "answer": "B"}
MMMU |= {"question_type": "multiple-choice", "image_1": "one.png"}
NLVR2 = {"sentence": "one", "label": "False", "identifier": "d-12-0-0", "left_url": "l", "directory": "d"}

WHOLE = {
    "vqav2": [
        {"questions": [{"question_id": 7, "image_id": 42, "question": "What?"}]},
        {"annotations": [{"question_id": 7, "answers": [{"answer": "cat"}], "answer_type": "other"}]},
    ],
    "textvqa": [{"data": [{"question_id": 1, "image_id": "ab", "question": "Brand?", "answers": ["x"]}]}],
    "vizwiz": [[{"image": "v.jpg", "question": "What?", "answers": [{"answer": "can"}]}]],
    "gqa": [{"20": {"question": "Is it red?", "imageId": "n1", "answer": "yes"}}],
    "docvqa": [{"data": [{"questionId": 3, "question": "Date?", "image": "d/p.png", "answers": ["1 May"]}]}],
    "chartqa": [[{"imgname": "1.png", "query": "How many?", "label": "14"}]],
    "ocrbench": [[{"dataset_name": "d", "image_path": "b.jpg", "question": "?", "answers": "hi", "type": "x"}]],
    "pope": [[{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}]],
    "hallusionbench": [[HALLUSION]],
    "vsr": [[{"image": "1.jpg", "caption": "On it.", "label": 1, "relation": "on"}]],
    "nlvr": [[NLVR2]],
    "scienceqa": [{"6": PROBLEM}, {"test": ["6"]}],
    "seed": [{"questions": [SEED], "question_type": {"Counting": 2}}],
    "mmmu": [[MMMU, MMMU | {"id": "2", "question_type": "open", "answer": ["7"]}]],
    "refcoco": [
        {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50, "caption": "the cat"}],
            "annotations": [{"id": 9, "image_id": 1, "bbox": [10, 5, 20, 10]}],
        }
    ],
    "captions": [COCO],
    "amber": [
        [{"id": 1, "image": "1.jpg", "query": "Describe."}, {"id": 2, "image": "2.jpg", "query": "Is it?"}],
        [
            {"id": 1, "type": "generative", "truth": ["sea"], "hallu": ["dog"]},
            {"id": 2, "type": "discriminative-relation", "truth": "no"},
        ],
        {"sea": ["water"], "dog": []},
    ],
    "chair": [
        COCO,
        {"categories": [{"id": 3, "name": "dog"}], "annotations": [{"image_id": 1, "category_id": 3}]},
    ],
    "mmvet": [
        {
            "v1_0": {
                "imagename": "0.png",
                "question": "?",
                "answer": "a",
                "imagesource": "",
                "capability": ["rec"],
            }
        }
    ],
    "llava-bench": [
        [{"question_id": 0, "image": "001.jpg", "text": "What?", "category": "conv"}],
        [{"id": "001", "image": "001.jpg", "caption": "a drawing"}],
        [{"question_id": 0, "text": "It is one."}],
    ],
}
KARPATHY = {"images": [{"imgid": 4, "filename": "k.jpg", "split": "test", "sentences": [{"raw": "a dog"}]}]}
MORE = {
    "captions": [KARPATHY],
    "mmmu": [{"validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "E"}}],
    "refcoco": [[{"img_path": "a.jpg", "expression": "cat", "bbox": [1, 5, 3, 15], "width": 9, "height": 5}]],
    "hallusionbench": [[HALLUSION | {"filename": None, "visual_input": "0"}]],
    "vizwiz": [
        [{"image": "v.jpg", "question": "What?"}],
        [{"image": "v.jpg", "answers": [{"answer": "can"}], "answer_type": "other"}],
    ],
}
WRONG = (None, True, -7, 2.5, "", "x\x00y", "ä" * 300, [], [[]], {}, {"a": {}}, [None], [7])
CASES = [*WHOLE.items(), *MORE.items()]


def write(folder, values):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.json" for number in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        path.write_text(json.dumps(value))
    return paths


def places(value, path=()):
    """The path of every value inside a value, itself included."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, (*path, key))


def put(value, path, new):
    if not path:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def test_every_format_is_broken_here():
    assert set(WHOLE) | {"mme", "mmbench", "vlmevalkit"} == set(names("eval import"))


@pytest.mark.parametrize(("form", "values"), CASES, ids=[f"{form}-{n}" for n, (form, _) in enumerate(CASES)])
def test_a_value_of_another_kind_is_a_question_or_one_line(tmp_path, form, values):
    num_lines = 0
    assert not said(form, write(tmp_path, values))
    for path in places(values):
        for wrong in WRONG if path else ():
            line = said(form, write(tmp_path, put(values, path, wrong)))
            num_lines += bool(line)
            assert "\n" not in line
            assert len(line) < 700
    assert num_lines >= len(WRONG)


def said(form, files):
    """The line that an import ends with, empty where it reads all of the questions."""
    try:
        for table in find_format("eval import", form).load()(files, ""):
            assert all(isinstance(question.id, str) for question in table.questions)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("form", sorted(names("eval import")))
@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe\x00", b"caf\xe9 \tYes\n", b"", b"[" * 10_000],
    ids=["utf-16", "latin-1", "empty", "deep"],
)
def test_bytes_that_are_no_text_are_named(tmp_path, form, data):
    folder = tmp_path / "mme"
    (folder / "count").mkdir(parents=True)
    path = folder / "count" / "7.txt"
    path.write_bytes(data)
    given = [folder] if form == "mme" else [path] * len(WHOLE.get(form, [None]))
    with pytest.raises(DataError, match=r"7\.txt|holds no|give "):
        import_tasks(form, given, tmp_path / "tasks")


@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "utf-16"), ("latin-1", "latin1")])
def test_the_advice_converts_the_file(tmp_path, encoding, named):
    path = tmp_path / "answers.jsonl"
    path.write_bytes("café".encode(encoding))
    with pytest.raises(DataError, match=rf"not in UTF-8 .* iconv -f {named} -t utf-8"):
        read_text(path)


@pytest.mark.parametrize("form", ["mmbench", "vlmevalkit"])
@pytest.mark.parametrize(
    "row",
    [
        "3",
        "3\tWhich?",
        "3\tWhich?\tcat\tdog\tB\tnot base64",
        "3\tWhich?\tcat\tdog\tB\tä",
        "\t\t\t\t\t",
        "3\tWhich?\tcat\tdog\tC\tAAAA",
        "3\tWhich?\tcat\tdog\tB\tAAAA\tmore\tand more",
        "3\tWhich?\tcat\tdog\tB\t4",
    ],
)
def test_a_table_with_a_broken_row_is_named(tmp_path, form, row):
    image = base64.b64encode(PIXEL.getvalue()).decode()
    path = tmp_path / "table.tsv"
    path.write_text(f"index\tquestion\tA\tB\tanswer\timage\n1\tWho?\tx\ty\tA\t{image}\n{row}\n")
    with pytest.raises(DataError, match=r"table\.tsv|no JPEG") as caught:
        import_tasks(form, [path], tmp_path / "tasks")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["x\x00y", "ä" * 300, "..", ".", ""], ids=["null", "long", "above", "itself", "empty"]
)
def test_an_image_that_cannot_be_a_file_is_named(tmp_path, name):
    (tmp_path / "images").mkdir()
    values = {"1": {"imagename": name, "question": "?", "answer": "a", "capability": ["rec"]}}
    with pytest.raises(DataError, match="there is no image"):
        import_tasks("mmvet", write(tmp_path / "f", [values]), tmp_path / "t", images=tmp_path / "images")
