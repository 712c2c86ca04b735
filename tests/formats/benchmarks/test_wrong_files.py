"""Files that lack what their format has, or say it otherwise: one line that names it, and no guess."""

import json

import pytest

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.write import import_tasks
from vila2cli.score.task import load_task
from vila2cli.shards import open_source, read_shard

POPE = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}
CATEGORIES = {"categories": [{"id": 3, "name": "dog"}]}
CAPTIONS = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}
MDETR = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50, "caption": "the cat"}],
    "annotations": [{"id": 9, "image_id": 1, "bbox": [10, 5, 20, 10]}],
}
HALLUSION = {"category": "VD", "subcategory": "s", "set_id": "1", "figure_id": "0", "question_id": "2"}
HALLUSION |= {"question": "Is it?", "filename": "./a.png", "visual_input": "1"}

MMVET = {"imagename": "0.png", "question": "?", "answer": "a", "imagesource": "", "capability": ["rec"]}
ASKED = {"question_id": 0, "image": "1.jpg", "text": "What?", "category": "conv"}
SEEN = {"id": "1", "image": "1.jpg", "caption": ["a drawing", "of a cat"]}
ANSWERED = {"question_id": 0, "text": "It is one."}


def files(folder, **values):
    paths = [folder / f"{name}.json" for name in values]
    for path, value in zip(paths, values.values(), strict=True):
        path.write_text(json.dumps(value))
    return paths


@pytest.mark.parametrize(
    ("form", "values", "message"),
    [
        ("pope", {"llava": [POPE | {"category": "random"}]}, "give POPE's labels, too"),
        ("pope", {"a": [POPE], "l": [{"question_id": 1, "category": "a"}]}, "l.json, row 1: has no 'image'"),
        ("chair", {"c": CAPTIONS, "i": CATEGORIES | {"annotations": [{"image_id": 1}]}}, "no 'category_id'"),
        (
            "chair",
            {"c": CAPTIONS, "i": CATEGORIES | {"annotations": [{"image_id": 1, "category_id": 4}]}},
            r"annotations\[0\]: no category has the id '4'",
        ),
        ("captions", {"k": {"images": [{"imgid": 4, "filename": "k", "split": "test"}]}}, "no 'sentences'"),
        ("captions", {"k": ["a cat"]}, "is 'a cat', not an object"),
        (
            "refcoco",
            {"m": MDETR | {"annotations": [{"id": 9, "image_id": 2, "bbox": []}]}},
            "no image has the id '2'",
        ),
        ("refcoco", {"m": MDETR | {"annotations": [{"id": 9, "image_id": 1, "bbox": [1]}]}}, "four numbers"),
        ("hallusionbench", {"h": [HALLUSION | {"gt_answer": "2"}]}, "gt_answer is '2', not 0 or 1"),
        ("vsr", {"v": [{"image": "1.jpg", "caption": "?", "label": "maybe"}]}, "label is 'maybe', not 0 or 1"),
        ("mme", {"m": []}, "is no folder"),
        ("mmvet", {"m": {"v1_0": MMVET | {"capability": "rec"}}}, "capability is 'rec', not a list of texts"),
        ("llava-bench", {"q": [ASKED], "c": [SEEN]}, "give LLaVA-Bench's questions.jsonl, context.jsonl"),
        ("llava-bench", {"q": [ASKED], "c": [SEEN], "b": [ASKED]}, "hold no answers"),
        ("llava-bench", {"q": [ASKED], "c": [SEEN | {"image": "2.jpg"}], "a": [ANSWERED]}, "says nothing of"),
        ("llava-bench", {"q": [ASKED], "c": [SEEN], "a": [ANSWERED | {"question_id": 1}]}, "does not answer"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, form, values, message):
    with pytest.raises(DataError, match=message):
        import_tasks(form, files(tmp_path, **values), tmp_path / "tasks")


@pytest.mark.parametrize(
    ("value", "answer"),
    [(1.0, "yes"), (True, "yes"), ("Yes", "yes"), ("1", "yes"), (0, "no"), (False, "no"), ("no", "no")],
)
def test_hallusionbenchs_answers_are_read_in_every_type(tmp_path, value, answer):
    (made,) = import_tasks(
        "hallusionbench", files(tmp_path, h=[HALLUSION | {"gt_answer": value}]), tmp_path / "tasks"
    )
    assert [sample.meta["answers"] for sample in samples_of(made.folder)] == [[answer]]


def test_vsrs_labels_may_be_words(tmp_path):
    rows = [{"image": "1.jpg", "caption": "?", "label": label} for label in ("True", "False", True, 0)]
    (made,) = import_tasks("vsr", files(tmp_path, v=rows), tmp_path / "tasks")
    found = [sample.meta["answers"] for sample in samples_of(made.folder)]
    assert found == [["true"], ["false"], ["true"], ["false"]]


def test_mmes_blank_lines_are_no_questions(tmp_path):
    (tmp_path / "mme/count").mkdir(parents=True)
    (tmp_path / "mme/count/7.txt").write_text("Is it 2?\tYes\n\nIs it 3?\tNo\n \n")
    (made,) = import_tasks("mme", [tmp_path / "mme"], tmp_path / "tasks")
    assert (made.num_samples, load_task(made.folder).name) == (2, "mme")


def test_an_empty_parquet_file_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "mmmu.parquet"
    parquet.write_table(pyarrow.table({"id": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(DataError, match=r"mmmu\.parquet holds no rows"):
        import_tasks("mmmu", [path], tmp_path / "tasks")
    path.write_bytes(b"PAR0")
    with pytest.raises(DataError, match=r"cannot read .*mmmu\.parquet"):
        import_tasks("mmmu", [path], tmp_path / "tasks")


def samples_of(folder):
    return [
        sample
        for shard in open_source([str(folder)]).shards
        for sample in read_shard(shard, on_reject=pytest.fail)
    ]
