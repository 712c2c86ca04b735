"""Every published file format, as a few rows of it, to a task that is read back and scored."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.evaluation.joining import Known
from vila2cli.formats.benchmarks.write import import_tasks
from vila2cli.score.task import load_task
from vila2cli.shards import open_source, read_shard


def png(colour="red"):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, **files) -> list[Path]:
    """Files by their names with __ for the dot before the ending; rows of a .jsonl are lines."""
    paths = []
    for name, value in files.items():
        path = folder / name.replace("__", ".")
        lines = path.suffix == ".jsonl"
        path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))
        paths.append(path)
    return paths


def samples_of(folder):
    return [
        sample
        for shard in open_source([str(folder)]).shards
        for sample in read_shard(shard, on_reject=pytest.fail)
    ]


def run(form, files, out, **options):
    """The task and samples that an import makes, and the row of answering each with its own first answer."""
    (made,) = import_tasks(form, files, out, **options)
    task, samples = load_task(made.folder), samples_of(made.folder)
    assert made.num_samples == len(samples)
    for sample in samples:
        task.scorer.stored("", task.reference_of(sample))
        assert task.question_of(sample)
    return task, samples


def test_a_pair_of_questions_and_annotations(tmp_path):
    answers = [{"answer": "cat", "answer_id": i} for i in range(10)]
    asked = {"questions": [{"question_id": 7, "image_id": 42, "question": "What?"}]}
    given = {"annotations": [{"question_id": 7, "image_id": 42, "answers": answers, "answer_type": "other"}]}
    task, (sample,) = run("vqav2", write(tmp_path, a__json=given, q__json=asked), tmp_path / "tasks")
    assert (task.scorer.name, sample.meta["sample_id"], sample.meta["image"]) == ("vqa", "7", "42.jpg")
    assert sample.meta["answers"] == ["cat"] * 10
    assert task.question_of(sample) == "What?\nAnswer the question using a single word or phrase."
    other = write(tmp_path, q2__json={"questions": [{**asked["questions"][0], "question_id": 8}]})
    with pytest.raises(DataError, match="asks 1 questions"):
        run("vqav2", [*other, tmp_path / "a.json"], tmp_path / "other")
    given["annotations"][0].pop("answers")
    files = write(tmp_path, a__json=given, q__json=asked)
    with pytest.raises(DataError, match="no answers"):
        run("vqav2", files, tmp_path / "test-split")


def test_textvqa_and_docvqa_hold_their_rows_under_data(tmp_path):
    text = {"question_id": 1, "image_id": "ab", "question": "Brand?", "answers": ["x"] * 10}
    doc = {"questionId": 3, "question": "Date?", "image": "documents/p_1.png", "answers": ["1 May", "May 1"]}
    files = write(tmp_path, t__json={"data": [text]}, d__json={"data": [doc]})
    task, _ = run("textvqa", files[:1], tmp_path / "tasks")
    assert task.scorer.name == "textvqa"
    task, (sample,) = run("docvqa", files[1:], tmp_path / "tasks")
    assert (task.scorer.name, sample.meta["image"]) == ("anls", "p_1.png")
    assert task.scorer.score("may 1", task.reference_of(sample))["score"] == 1


@pytest.mark.parametrize(
    ("form", "value", "answers", "scorer"),
    [
        (
            "vizwiz",
            [{"image": "v.jpg", "question": "What?", "answers": [{"answer": "can"}] * 10, "answerable": 1}],
            ["can"] * 10,
            "vizwiz",
        ),
        ("gqa", {"20": {"question": "Is it red?", "imageId": "n1", "answer": "yes"}}, ["yes"], "gqa"),
        ("chartqa", [{"imgname": "1.png", "query": "How many?", "label": "14"}], ["14"], "chartqa"),
        (
            "ocrbench",
            [
                {
                    "dataset_name": "svt",
                    "image_path": "a/b.jpg",
                    "question": "Word?",
                    "answers": "hi",
                    "type": "x",
                }
            ],
            ["hi"],
            "ocrbench",
        ),
        (
            "hallusionbench",
            [
                {"category": "VD", "subcategory": "s", "set_id": "1", "figure_id": "0", "question_id": "2"}
                | {"question": "Is it?", "gt_answer": "1", "filename": "./VD/s/1_0.png", "visual_input": "1"}
            ],
            ["yes"],
            "hallusionbench",
        ),
        (
            "vsr",
            [{"image": "1.jpg", "caption": "The cat is on the mat.", "label": 1, "relation": "on"}],
            ["true"],
            "truth",
        ),
        ("nlvr", [{"sentence": "one circle", "label": "False", "identifier": "12-0"}], ["false"], "truth"),
    ],
)
def test_one_file_of_rows(tmp_path, form, value, answers, scorer):
    task, (sample,) = run(form, write(tmp_path, rows__json=value), tmp_path / "tasks")
    assert (task.scorer.name, sample.meta["answers"]) == (scorer, answers)


def pope_labels(*answers):
    return [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a dog {n}?", "label": label}
        for n, label in enumerate(answers, 1)
    ]


def test_pope_takes_llavas_numbers_and_checks_that_the_lines_ask_the_same(tmp_path):
    asked = [
        {"question_id": 10 * place + row["question_id"], "image": row["image"]}
        | {"text": f"{row['text']}\nAnswer shortly.", "category": split}
        for place, split in enumerate(("adversarial", "random"))
        for row in pope_labels("yes", "no")
    ]
    files = write(
        tmp_path,
        coco_pope_random__jsonl=pope_labels("yes", "no"),
        coco_pope_adversarial__jsonl=pope_labels("no", "no"),
        llava__jsonl=asked,
    )
    made = import_tasks("pope", files, tmp_path / "tasks")
    assert [one.folder.name for one in made] == ["pope-random", "pope-adversarial"]
    ids = [[sample.meta["sample_id"] for sample in samples_of(one.folder)] for one in made]
    assert ids == [["11", "12"], ["1", "2"]]
    asked[0]["image"] = "other.jpg"
    with pytest.raises(DataError, match="row 1: the labels ask 'Is there a dog 1"):
        import_tasks("pope", write(tmp_path, llava__jsonl=asked) + files[1:2], tmp_path / "more")
    wrong = write(tmp_path, llava__jsonl=asked[2:])
    with pytest.raises(DataError, match="2 labels for 0 questions"):
        import_tasks("pope", wrong + files[1:2], tmp_path / "less")


@pytest.mark.parametrize("places", [("", ""), ("images", "questions_answers_YN")])
def test_mme_folders_of_both_kinds(tmp_path, places):
    images, texts = (tmp_path / "mme" / "count" / place for place in places)
    for folder in (images, texts):
        folder.mkdir(parents=True, exist_ok=True)
    (images / "7.png").write_bytes(png())
    (texts / "7.txt").write_text(
        "Are there 2? Please answer yes or no.\tYes\nAre there 3? Please answer yes or no.\tNo\n"
    )
    task, samples = run("mme", [tmp_path / "mme"], tmp_path / "tasks", images=tmp_path / "mme")
    assert [sample.meta["answers"] for sample in samples] == [["Yes"], ["No"]]
    assert all(sample.images[0].data == png() for sample in samples)
    assert {task.scorer.labels(task.reference_of(sample))["image"] for sample in samples} == {"count/7"}


def test_mmbench_asks_every_rotation_and_shares_images(tmp_path):
    image = base64.b64encode(png()).decode()
    lines = ["index\tquestion\thint\tA\tB\tC\tanswer\tcategory\timage"]
    lines += [f"3\tWhich?\tnan\tcat\tdog\t\tB\tanimal\t{image}", "4\tWho?\tlook\tx\ty\tz\tA\tface\t3"]
    (tmp_path / "MMBench_DEV_EN.tsv").write_text("\n".join(lines) + "\n")
    task, samples = run("mmbench", [tmp_path / "MMBench_DEV_EN.tsv"], tmp_path / "tasks")
    assert task.name == "mmbench-dev-en"
    found = [(one.meta["group"], one.meta["choices"], one.meta["answers"][0]) for one in samples]
    assert found[:2] == [("3", ["cat", "dog"], "B"), ("3", ["dog", "cat"], "A")]
    assert [answer for _, _, answer in found[2:]] == ["A", "C", "B"]
    assert all(one.images[0].data == png() for one in samples)
    assert samples[2].meta["question"].startswith("look\nWho?\nA. x\nB. y")
    task, samples = run("vlmevalkit", [tmp_path / "MMBench_DEV_EN.tsv"], tmp_path / "once")
    assert (task.scorer.name, len(samples)) == ("mcq", 2)


def test_rotations_that_a_table_holds_are_not_made_again(tmp_path):
    image = base64.b64encode(png()).decode()
    lines = [
        "index\tquestion\tA\tB\tanswer\timage",
        f"3\tWhich?\tcat\tdog\tB\t{image}",
        f"4\tWho?\tx\ty\tA\t{image}",
    ]
    lines += ["1000003\tWhich?\tdog\tcat\tA\t3", "1000004\tWho?\ty\tx\tB\t4"]
    (tmp_path / "MMBench_DEV_EN.tsv").write_text("\n".join(lines) + "\n")
    _, samples = run("mmbench", [tmp_path / "MMBench_DEV_EN.tsv"], tmp_path / "tasks")
    found = [(one.meta["sample_id"], one.meta["group"], one.meta["answers"][0]) for one in samples]
    assert found == [("3", "3", "B"), ("4", "4", "A"), ("1000003", "3", "A"), ("1000004", "4", "B")]
    assert all(one.images[0].data == png() for one in samples)


def test_hallusionbench_with_figures_alone(tmp_path):
    row = {"category": "VS", "subcategory": "map", "set_id": "1", "question_id": "0"}
    row |= {"question": "Is it?", "gt_answer": "0"}
    rows = [row | {"figure_id": "0", "visual_input": "0", "filename": None}]
    rows.append(row | {"figure_id": "1", "visual_input": "1", "filename": "./VS/map/1_1.png"})
    file = write(tmp_path, h__json=rows)
    _, samples = run("hallusionbench", file, tmp_path / "all")
    assert [sample.meta["sample_id"] for sample in samples] == ["VS_map_1_0_0", "VS_map_1_1_0"]
    _, (sample,) = run("hallusionbench", file, tmp_path / "figures", split="image")
    assert sample.meta["sample_id"] == "VS_map_1_1_0"


def test_scienceqa_joins_problems_and_splits(tmp_path):
    problem = {
        "question": "Why?",
        "choices": ["a", "b"],
        "answer": 1,
        "hint": "h",
        "image": None,
        "subject": "s",
    }
    problems = {"5": problem, "6": problem}
    files = write(tmp_path, pid_splits__json={"test": ["6"], "train": ["5"]}, problems__json=problems)
    _, (sample,) = run("scienceqa", files, tmp_path / "tasks")
    assert (sample.meta["sample_id"], sample.meta["answers"], sample.meta["has_image"]) == ("6", ["B"], False)
    assert sample.meta["question"] == "Context: h\nWhy?\nA. a\nB. b"


def test_seed_takes_images_or_all(tmp_path):
    row = {"question_id": "1", "question": "Which?", "choice_a": "x", "choice_b": "y", "answer": "A"}
    rows = [
        {**row, "data_id": "1.jpg", "data_type": "image", "question_type_id": 2},
        {**row, "question_id": "v1", "data_id": "2.mp4", "data_type": "video", "question_type_id": 10},
    ]
    files = write(tmp_path, s__json={"questions": rows, "question_type": {"Counting": 2, "Action": 10}})
    _, (sample,) = run("seed", files, tmp_path / "tasks")
    assert (sample.meta["category"], sample.meta["choices"]) == ("Counting", ["x", "y"])
    _, samples = run("seed", files, tmp_path / "tasks", split="all")
    assert [sample.meta["sample_id"] for sample in samples] == ["1", "v1"]


def test_mmmu_has_options_as_text_and_open_questions(tmp_path):
    image = tmp_path / "one.png"
    image.write_bytes(png())
    rows = [
        {"id": "validation_Art_1", "question": "<image 1> Who?", "options": "['x', 'y']", "answer": "B"}
        | {"question_type": "multiple-choice", "image_1": "one.png", "image_2": None},
        {"id": "validation_Art_2", "question": "How much?", "options": "[]", "answer": "['7', 'seven']"}
        | {"question_type": "open", "image_1": "one.png"},
    ]
    files = write(tmp_path, mmmu__jsonl=rows)
    task, (choice, free) = run("mmmu", files, tmp_path / "tasks", images=tmp_path)
    assert choice.meta["question"].startswith("image 1 Who?\nA. x\nB. y\nAnswer with")
    assert (choice.meta["category"], choice.images[0].data) == ("Art", png())
    assert task.scorer.score("so it is seven", task.reference_of(free))["score"] == 1


def test_mmmus_own_output_holds_options_and_answers(tmp_path):
    row = {"id": "validation_Art_1", "question_type": "multiple-choice", "answer": "B", "response": "A"}
    row |= {"all_choices": ["A", "B"], "index2ans": {"A": "oil", "B": "ink"}}
    files = write(tmp_path, output__json=[row])
    import_tasks("mmmu", files, tmp_path / "tasks")
    (sample,) = samples_of(tmp_path / "tasks/mmmu")
    assert (sample.meta["choices"], sample.meta["answers"]) == (["oil", "ink"], ["B"])


def test_mmmus_answers_by_id(tmp_path):
    answers = {
        "validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "E"},
        "validation_Art_2": {"question_type": "short-answer", "ground_truth": ["7", "seven"]},
    }
    files = write(tmp_path, answer_dict_val__json=answers)
    import_tasks("mmmu", files, tmp_path / "tasks")
    task, (choice, free) = load_task(tmp_path / "tasks/mmmu"), samples_of(tmp_path / "tasks/mmmu")
    assert [task.scorer.score(text, task.reference_of(choice))["score"] for text in ("E", "A")] == [1, 0]
    assert [task.scorer.score(text, task.reference_of(free))["score"] for text in ("7.0", "8")] == [1, 0]
    assert Known.of(free, 0).asked == ()  # the file says no questions: answers to any with this id are to it
    with pytest.raises(DataError, match="no 'question_type'"):
        import_tasks("mmmu", write(tmp_path, a__json={"x": {"y": 1}}), tmp_path / "other")


def test_refcoco_boxes_of_both_kinds(tmp_path):
    mdetr = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50, "caption": "the cat"}],
        "annotations": [{"id": 9, "image_id": 1, "bbox": [10, 5, 20, 10]}],
    }
    line = {"img_path": "a.jpg", "expression": "the cat", "bbox": [10, 5, 30, 15], "width": 100, "height": 50}
    for name, value in (("a__json", mdetr), ("b__jsonl", [line])):
        task, (sample,) = run("refcoco", write(tmp_path, **{name: value}), tmp_path / name)
        assert sample.meta["box"] == "[10,5,30,15]"
        assert task.scorer.score("[100,100,300,300]", task.reference_of(sample))["score"] == 1
        assert task.box_frame == "auto"  # the files do not say in which frame a model answers
        files = [tmp_path / name.replace("__", ".")]
        task, (sample,) = run("refcoco", files, tmp_path / f"{name}-1", box_frame="xyxy-1")
        assert task.scorer.score("[0.1,0.1,0.3,0.3]", task.reference_of(sample))["iou"] == pytest.approx(1)

    with pytest.raises(DataError, match="no box frame 'xywh'"):
        run("refcoco", files, tmp_path / "other", box_frame="xywh")
    asked = write(tmp_path, g__json={"1": {"question": "?", "imageId": "n", "answer": "no"}})
    with pytest.raises(DataError, match="answers of gqa are no boxes"):
        run("gqa", asked, tmp_path / "other", box_frame="xyxy-1")


def test_captions_of_all_kinds_and_chair(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "caption": "a cat"}, {"image_id": 1, "caption": "one cat"}],
    }
    karpathy = {"images": [{"imgid": 4, "filename": "k.jpg", "split": "test", "sentences": [{"raw": "a dog"}]}]}
    flat = [{"image_id": "s.png", "caption": "a bird"}]
    files = write(tmp_path, c__json=coco, k__json=karpathy, f__json=flat)
    for file, expected in zip(files, (["a cat", "one cat"], ["a dog"], ["a bird"]), strict=True):
        task, (sample,) = run("captions", [file], tmp_path / "tasks")
        assert (task.scorer.name, sample.meta["answers"]) == ("cider", expected)
    instances = {"categories": [{"id": 3, "name": "dog"}], "annotations": [{"image_id": 1, "category_id": 3}]}
    words = tmp_path / "synonyms.txt"
    words.write_text("dog, pooch\ncat\n")
    pair = [files[0], *write(tmp_path, i__json=instances)]
    task, (sample,) = run("chair", pair, tmp_path / "tasks", synonyms=words)
    row = task.scorer.score("A pooch, a cat.", task.reference_of(sample))
    assert (row["named"], row["absent"]) == (2, 0)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*gone\.json"):
        import_tasks("gqa", [tmp_path / "gone.json"], tmp_path / "tasks")
    (tmp_path / "bad.json").write_text('{"a": 1}\n{"b": \n')
    with pytest.raises(DataError, match=r"bad\.json, line 2: no JSON"):
        import_tasks("vsr", [tmp_path / "bad.json"], tmp_path / "tasks")
    files = write(tmp_path, g__json={"1": {"question": "?", "imageId": "n"}})
    with pytest.raises(DataError, match=r"g\.json\['1'\]: has no 'answer'; it has \['question', 'imageId'\]"):
        import_tasks("gqa", files, tmp_path / "tasks")
    files = write(tmp_path, g__json={"1": {"question": "?", "imageId": "n", "answer": "no"}})
    with pytest.raises(DataError, match=r"there is no image n\.jpg"):
        import_tasks("gqa", files, tmp_path / "tasks", images=tmp_path)
    import_tasks("gqa", files, tmp_path / "tasks")
    with pytest.raises(DataError, match="holds a task already"):
        import_tasks("gqa", files, tmp_path / "tasks")


def test_what_a_folder_holds_already_is_never_touched(tmp_path):
    files = write(tmp_path, g__json={"1": {"question": "?", "imageId": "n", "answer": "no"}})
    tar = tmp_path / "tasks" / "gqa" / "train-000.tar"
    tar.parent.mkdir(parents=True)
    tar.write_bytes(b"precious")
    with pytest.raises(DataError, match="gqa holds files that are no task"):
        import_tasks("gqa", files, tmp_path / "tasks")
    assert tar.read_bytes() == b"precious"
    tar.unlink()
    with pytest.raises(DataError, match=r"there is no .*words\.txt"):
        import_tasks("gqa", files, tmp_path / "tasks", synonyms=tmp_path / "words.txt")
    broken = write(tmp_path, h__json={"1": {"question": "?", "imageId": "n"}})
    with pytest.raises(DataError, match="no 'answer'"):
        import_tasks("gqa", broken, tmp_path / "tasks")
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == ["gqa"]
    import_tasks("gqa", files, tmp_path / "tasks")
    assert sorted(path.name for path in tar.parent.iterdir()) == [
        "000000.stats.json",
        "000000.tar",
        "task.toml",
    ]


def test_images_are_found_by_path_or_by_a_name_that_one_has(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "n1.jpg").write_bytes(b"\xff\xd8\xff deep")
    files = write(tmp_path, g__json={"1": {"question": "?", "imageId": "n1", "answer": "no"}})
    _, (sample,) = run("gqa", files, tmp_path / "tasks", images=tmp_path / "images")
    assert sample.images[0].data == b"\xff\xd8\xff deep"
