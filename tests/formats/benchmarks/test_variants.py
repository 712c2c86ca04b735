"""The benchmarks' own files in their other forms: answer files as questions, splits, COCO's names, AMBER."""

import io
import json

import pytest
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.write import import_tasks
from vila2cli.score.task import load_task
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import open_source, read_shard
from vila2cli.stages.score_only import score_answers

STREAM = io.BytesIO()
Image.new("RGB", (4, 4), "red").save(STREAM, "PNG")
PNG = STREAM.getvalue()


def write(folder, name, value):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))
    return path


def run(form, files, out, **options):
    """The tasks of an import, with the samples of each."""
    made = import_tasks(form, files, out, **options)
    return [(load_task(one.folder), samples_of(one.folder)) for one in made]


def samples_of(folder):
    shards = open_source([str(folder)]).shards
    return [sample for shard in shards for sample in read_shard(shard, on_reject=pytest.fail)]


def score(files, tasks, out):
    recipe = load_recipe(None, ["eval.max_reject_rate=1.0"])
    return score_answers(recipe, answers=files, tasks=tasks, out=out).to_json()


CHOICE = {"id": "validation_Electronics_28", "question_type": "multiple-choice", "answer": "A"}
LETTERS = {"all_choices": list("ABCD")}
TEXTS = {"index2ans": {"A": "75 volts", "B": "30 volts", "C": "45 volts", "D": "95 volts"}}
OPEN = {
    "id": "validation_Electronics_29",
    "question_type": "short-answer",
    "answer": "30",
    "response": "30 watts",
}


@pytest.mark.parametrize(
    ("rows", "accuracy"),
    [
        ([CHOICE | LETTERS | TEXTS | {"response": "I am sure that it is 75 volts"}, OPEN], 1.0),
        ([CHOICE | LETTERS | {"response": "(A)"}, OPEN], 1.0),
        ([CHOICE | {"response": "A"}, OPEN], 1.0),
        ([CHOICE | LETTERS | {"response": "It is most likely seventy-five of them"}, OPEN], 0.5),
        (
            [OPEN | {"answer": ["30", "thirty"]}, OPEN | {"id": "validation_Electronics_3", "response": "no"}],
            0.5,
        ),
    ],
)
def test_mmmu_takes_its_own_output(tmp_path, rows, accuracy):
    file = write(tmp_path, "Electronics/output.json", rows)
    ((task, samples),) = run("mmmu", [file], tmp_path / "tasks")
    assert {sample.meta["category"] for sample in samples} == {"Electronics"}
    entry = score([file], [task.folder], tmp_path / "out")["tasks"]["mmmu"]
    assert entry["metrics"]["accuracy"]["value"] == accuracy


def test_mmmu_has_no_answers_for_its_test_split(tmp_path):
    row = {"id": "test_Art_1", "question": "Who?", "options": "['x', 'y']", "answer": "?"}
    with pytest.raises(DataError, match="test split"):
        run("mmmu", [write(tmp_path, "test.jsonl", [row])], tmp_path / "tasks")


@pytest.mark.parametrize(
    ("name", "given", "split", "image"),
    [
        ("train.json", "", "train", "train-12-0-0.png"),
        ("dev.jsonl", "", "dev", "dev-12-0-0.png"),
        ("nlvr_test.json", "", "test", "test-12-0-0.png"),
        ("rows.json", "test", "test", "test-12-0-0.png"),
    ],
)
def test_nlvr_names_images_after_the_split(tmp_path, name, given, split, image):
    row = {"sentence": "one circle", "label": "true", "identifier": "12-0", "directory": "3"}
    for other in ("train", "dev", "test"):
        folder = tmp_path / "images" / other / "3"
        folder.mkdir(parents=True)
        (folder / f"{other}-12-0-0.png").write_bytes(PNG)
    file = write(tmp_path, name, [row])
    ((task, (sample,)),) = run("nlvr", [file], tmp_path / "tasks", split=given, images=tmp_path / "images")
    assert (task.split, sample.meta["image"], len(sample.images)) == (split, f"3/{image}", 1)


def test_nlvr_of_an_unknown_split_has_no_images(tmp_path):
    file = write(tmp_path, "rows.json", [{"sentence": "one circle", "label": "true", "identifier": "12-0"}])
    with pytest.raises(DataError, match=r"rows\.json does not say which split .* --split dev, train or test"):
        run("nlvr", [file], tmp_path / "tasks", images=tmp_path)
    ((task, _),) = run("nlvr", [file], tmp_path / "tasks")
    assert task.split == ""


def test_nlvr2_says_its_split_in_each_identifier(tmp_path):
    row = {"sentence": "Two dogs.", "label": "False", "identifier": "test1-850-0-1", "left_url": "x"}
    ((task, (sample,)),) = run("nlvr", [write(tmp_path, "rows.json", [row])], tmp_path / "tasks")
    assert (task.split, sample.meta["image"]) == ("test1", "test1-850-0-img0.png")


@pytest.mark.parametrize(
    ("about", "file"),
    [
        ({"data_subtype": "val2014", "data_type": "mscoco"}, "COCO_val2014_000000262148.jpg"),
        ({"data_subtype": "test2015"}, "COCO_test2015_000000262148.jpg"),
        ({"data_subtype": "train2014", "data_type": "mscoco"}, "train2014/COCO_train2014_000000262148.jpg"),
        ({"data_subtype": "val2014"}, "val2017/000000262148.jpg"),
        ({}, "COCO_val2014_000000262148.jpg"),
        ({}, "262148.png"),
        ({"data_subtype": "val2015", "data_type": "abstract_v002"}, "abstract_v002_val2015_000000262148.png"),
    ],
)
def test_vqav2_finds_images_by_cocos_names(tmp_path, about, file):
    (tmp_path / "images" / file).parent.mkdir(parents=True)
    (tmp_path / "images" / file).write_bytes(PNG)
    (tmp_path / "images" / "000000000042.jpg").write_bytes(b"another")
    asked = {"questions": [{"question_id": 262148000, "image_id": 262148, "question": "What?"}], **about}
    given = {"annotations": [{"question_id": 262148000, "image_id": 262148, "answers": [{"answer": "x"}] * 10}]}
    files = [write(tmp_path, "q.json", asked), write(tmp_path, "a.json", given)]
    if file == "262148.png":
        (tmp_path / "images" / file).rename(tmp_path / "images" / "262148.jpg")
    ((_, (sample,)),) = run("vqav2", files, tmp_path / "tasks", images=tmp_path / "images")
    assert sample.images[0].data == PNG
    assert sample.meta["image_id"] == "262148"


def test_an_image_number_is_no_coco_image_of_itself(tmp_path):
    for name in ("images/007.png", "images/a/12.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    file = write(tmp_path, "c.json", [{"imgname": "7.png", "query": "?", "label": "1"}])
    with pytest.raises(DataError, match=r"no image 7\.png"):
        run("chartqa", [file], tmp_path / "tasks", images=tmp_path / "images")


def test_refcoco_names_a_region_behind_the_image(tmp_path):
    name = "COCO_train2014_000000581857"
    write(tmp_path, f"images/{name}.jpg", "")
    (tmp_path / "images" / f"{name}.jpg").write_bytes(PNG)
    row = {
        "file_name": f"{name}_16.jpg",
        "expression": "the cat",
        "bbox": [1, 1, 3, 3],
        "width": 4,
        "height": 4,
    }
    file = write(tmp_path, "refcoco.jsonl", [row])
    ((_, (sample,)),) = run("refcoco", [file], tmp_path / "tasks", images=tmp_path / "images")
    assert sample.images[0].data == PNG


ANSWERS = [{"answer": "can", "answer_confidence": "yes"}] * 9 + [{"answer": "tin", "answer_confidence": "no"}]
VIZWIZ = {"image": "VizWiz_val_00000001.jpg", "question": "What is it?"}
TRUTH = {"answers": ANSWERS, "answer_type": "other", "answerable": 1}
ID = {"question_id": 1, "image_id": "VizWiz_val_00000001.jpg"}


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ([[VIZWIZ | TRUTH]], "VizWiz_val_00000001.jpg"),
        ([[VIZWIZ], [{"image": VIZWIZ["image"], **TRUTH}]], "VizWiz_val_00000001.jpg"),
        ([{"annotations": [ID | TRUTH]}, {"questions": [ID | {"question": "What is it?"}]}], "1"),
    ],
)
def test_vizwiz_in_one_file_or_two(tmp_path, files, name):
    paths = [write(tmp_path, f"{number}.json", value) for number, value in enumerate(files)]
    ((task, (sample,)),) = run("vizwiz", paths, tmp_path / "tasks")
    assert (task.scorer.name, sample.meta["sample_id"]) == ("vizwiz", name)
    assert (sample.meta["image"], sample.meta["category"]) == ("VizWiz_val_00000001.jpg", "other")
    assert task.scorer.score("a can", task.reference_of(sample))["score"] == 1
    assert "Unanswerable" in task.question_of(sample)


def pope(split, *asked):
    return [
        {"question_id": number, "image": f"{number}.jpg", "text": f"Is there a {what}?", "label": label}
        for number, (what, label) in enumerate(asked, 1)
    ]


def test_popes_answers_are_in_the_order_of_its_labels(tmp_path):
    labels = {
        "random": pope("random", ("dog", "yes"), ("car", "no"), ("dog", "yes")),
        "popular": pope("popular", ("dog", "yes"), ("chair", "no"), ("dog", "yes")),
    }
    files = [write(tmp_path, f"coco_pope_{name}.json", rows) for name, rows in labels.items()]
    tasks = [task.folder for task, _ in run("pope", files, tmp_path / "tasks")]
    said = {"random": ("Yes, there is.", "No", "Yes"), "popular": ("Yes", "Yes", "no")}
    answers = [
        write(
            tmp_path,
            f"answers_{name}.jsonl",
            [{"question": row["text"], "answer": text} for row, text in zip(labels[name], texts, strict=True)],
        )
        for name, texts in said.items()
    ]
    alone = score(answers[:1], tasks[:1], tmp_path / "one")["tasks"]["pope-random"]
    assert (alone["metrics"]["f1"]["value"], alone["official"]) == (1.0, True)
    both = score(answers, tasks, tmp_path / "both")["tasks"]
    assert [both[f"pope-{name}"]["metrics"]["accuracy"]["value"] for name in said] == [1.0, 1 / 3]
    assert all(entry["official"] for entry in both.values())
    shifted = write(tmp_path, "b.jsonl", [{"question": "Is there a cat?", "answer": "Yes"}] * 3)
    with pytest.raises(DataError, match="belongs to one of its 3 samples"):
        score([shifted], tasks[:1], tmp_path / "wrong")


QUERIES = [
    {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
    {"id": 1005, "image": "AMBER_1.jpg", "query": "Is the sky sunny in this image?"},
    {"id": 1006, "image": "AMBER_1.jpg", "query": "Is there a dog in this image?"},
]
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["sky", "person"], "hallu": ["cloud"]},
    {"id": 1005, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 1006, "type": "discriminative-hallucination", "truth": "no"},
]
RELATIONS = {"sky": [], "person": ["people", "man"], "cloud": [], "ship": ["boat"]}


def amber(folder):
    (folder / "safe_words.txt").write_text("light\nsign\n")
    return [
        write(folder, "annotations.json", ANNOTATIONS),
        write(folder, "query_all.json", QUERIES),
        write(folder, "relation.json", RELATIONS),
        folder / "safe_words.txt",
    ]


def test_amber_asks_for_descriptions_and_for_yes_or_no(tmp_path):
    tasks = run("amber", amber(tmp_path), tmp_path / "tasks")
    assert [(task.name, task.scorer.name, len(samples)) for task, samples in tasks] == [
        ("amber-generative", "amber", 1),
        ("amber-discriminative", "amber-yesno", 2),
    ]
    assert [sample.meta["category"] for sample in tasks[1][1]] == ["attribute", "existence"]
    rows = [(1, "Two people in a boat under a cloud."), (1005, "No"), (1006, "No")]
    answers = write(tmp_path, "a.json", [{"id": name, "response": text} for name, text in rows])
    found = score([answers], [task.folder for task, _ in tasks], tmp_path / "out")["tasks"]
    told, asked = found["amber-generative"], found["amber-discriminative"]
    values = {name: told["metrics"][name]["value"] for name in ("chair", "cover", "hal", "cog")}
    assert values == {"chair": pytest.approx(2 / 3), "cover": 0.5, "hal": 1.0, "cog": 1.0}
    assert not told["official"]
    assert [asked["metrics"][name]["value"] for name in ("precision", "recall")] == [0.5, 1.0]
    assert asked["official"]


def test_amber_names_what_is_missing(tmp_path):
    annotations, queries, relations, _ = amber(tmp_path)
    with pytest.raises(DataError, match=r"no relation\.json"):
        run("amber", [annotations, queries], tmp_path / "tasks")
    with pytest.raises(DataError, match="give AMBER's query_all"):
        run("amber", [annotations, relations], tmp_path / "tasks")
    only = write(tmp_path, "query_discriminative.json", QUERIES[1:])
    ((task, samples),) = run("amber", [annotations, only], tmp_path / "tasks")
    assert (task.name, len(samples)) == ("amber-discriminative", 2)
    write(tmp_path, "annotations.json", ANNOTATIONS[:2])
    with pytest.raises(DataError, match="asks query 1006"):
        run("amber", [annotations, only], tmp_path / "more")
