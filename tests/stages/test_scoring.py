"""`--score-only`: answers of other tools joined with tasks, every one of them accounted for."""

import json

import pytest

from vila2cli.cli.app import main
from vila2cli.errors import DataError, RejectBudgetError
from vila2cli.evaluation.comparing import compare_headlines
from vila2cli.formats.benchmarks.write import import_tasks
from vila2cli.score.stats import cautious_share
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter
from vila2cli.stages.evaluate import evaluate
from vila2cli.stages.score_only import score_answers

ANSWERS = ("yes", "no", "yes", "no")


@pytest.fixture
def pope(tmp_path):
    """A POPE task of four questions about two images, numbered from 1."""
    rows = [
        {"question_id": n, "image": f"i{n % 2}.jpg", "text": f"Is there a thing {n}?", "label": label}
        for n, label in enumerate(ANSWERS, 1)
    ]
    path = tmp_path / "coco_pope_random.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    import_tasks("pope", [path], tmp_path / "tasks")
    return tmp_path / "tasks" / "pope-random"


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def llava(number, text, **more):
    return {"question_id": number, "prompt": f"Is there a thing {number}?\nAnswer.", "text": text, **more}


def run(answers, tasks, out, *sets):
    return score_answers(
        load_recipe(None, ["eval.num_bootstrap=20", *sets]), answers=[answers], tasks=[tasks], out=out
    ).to_json()


def test_llavas_answers_are_joined_by_id(pope, tmp_path):
    file = lines(tmp_path / "a.jsonl", *(llava(n, text) for n, text in enumerate(("Yes", "No", "No", "No"), 1)))
    entry = run(file, pope, tmp_path / "out")["tasks"]["pope-random"]
    assert entry["metrics"]["accuracy"]["value"] == 0.75
    assert entry["metrics"]["f1"]["value"] == pytest.approx(2 / 3)
    assert (entry["official"], entry["doubts"]) == (True, [])
    assert entry["answers"] == {
        "joined_by": "question id",
        "num_joined": 4,
        "num_repeated": 0,
        "num_disagreeing": 0,
    }


def test_questions_of_one_image_are_resampled_together(pope, tmp_path):
    file = lines(tmp_path / "a.jsonl", *(llava(n, "Yes") for n in (1, 2, 3, 4)))
    metrics = run(file, pope, tmp_path / "out", "eval.num_bootstrap=400")["tasks"]["pope-random"]["metrics"]
    # i1 has the two with yes, i0 the two with no: that is what two trials say, not four
    assert metrics["accuracy"]["low"] < 0.05
    assert metrics["accuracy"]["high"] > 0.95


def test_lmms_evals_samples_are_joined_by_document(pope, tmp_path):
    rows = [
        {"doc_id": n - 1, "target": "x", "filtered_resps": ["Yes"], "input": f"Is there a thing {n}?\nAnswer."}
        for n in (1, 2, 3, 4)
    ]
    entry = run(lines(tmp_path / "s.jsonl", *rows), pope, tmp_path / "out")["tasks"]["pope-random"]
    assert (entry["answers"]["joined_by"], entry["metrics"]["yes_ratio"]["value"]) == ("document number", 1.0)
    older = {"logs": [{"doc_id": n, "doc": {"question_id": n + 1}, "resps": [["No"]]} for n in range(4)]}
    (tmp_path / "older.json").write_text(json.dumps(older))
    entry = run(tmp_path / "older.json", pope, tmp_path / "older")["tasks"]["pope-random"]
    assert (entry["answers"]["joined_by"], entry["metrics"]["yes_ratio"]["value"]) == ("question id", 0.0)


def test_what_is_missing_repeated_contradicted_or_of_no_sample_is_counted_and_named(pope, tmp_path):
    file = lines(
        tmp_path / "a.jsonl",
        llava(1, "Yes"),
        llava(1, "Yes"),
        llava(2, "No"),
        llava(2, "Yes"),
        llava(3, "Yes") | {"prompt": "Is there a cat?"},
        llava(99, "Yes"),
    )
    with pytest.raises(
        RejectBudgetError, match=r"3 of 4 samples .*\(ambiguous 1, unanswered 2\).* not official"
    ):
        run(file, pope, tmp_path / "out")
    metrics = run(file, pope, tmp_path / "out", "eval.max_reject_rate=0.75")
    entry = metrics["tasks"]["pope-random"]
    assert (entry["num_samples"], entry["rejected"]) == (1, {"ambiguous": 1, "unanswered": 2})
    assert not entry["official"]
    assert "only 1 of 4 samples are scored" in entry["doubts"][0]
    assert (entry["answers"]["num_repeated"], entry["answers"]["num_disagreeing"]) == (2, 1)
    assert (metrics["answers"]["num_unused"], metrics["answers"]["unused"]) == (2, ["3", "99"])
    rejects = [
        json.loads(line) for line in (tmp_path / "out/pope-random/rejects.jsonl").read_text().splitlines()
    ]
    assert [reject["key"] for reject in rejects] == ["000000001", "000000002", "000000003"]
    assert "row 3" in rejects[0]["error"]


def test_null_is_no_answer_and_the_reference_beside_it_none_either(pope, tmp_path):
    rows = [llava(1, "Yes"), *(llava(n, None, answer="yes") for n in (2, 3, 4))]
    entry = run(lines(tmp_path / "a.jsonl", *rows), pope, tmp_path / "out", "eval.max_reject_rate=0.75")[
        "tasks"
    ]["pope-random"]
    assert (entry["num_samples"], entry["rejected"]) == (1, {"unanswered": 3})


def test_a_task_without_a_readable_sample_is_named(pope, tmp_path):
    with TarWriter(pope / "000000.tar") as tar:
        tar.write_sample("000000000", {"json": b"[1]"})
    with pytest.raises(DataError, match=r"none of its samples in .* can be read"):
        run(lines(tmp_path / "a.jsonl", llava(1, "Yes")), pope, tmp_path / "out")


def test_answers_of_something_else_are_refused(pope, tmp_path):
    with pytest.raises(DataError, match=r"pope-random: none of 1 answers .* 'x1', the first sample '1'"):
        run(lines(tmp_path / "a.jsonl", llava("x1", "Yes")), pope, tmp_path / "out")
    with pytest.raises(DataError, match="row 1 has no answer that is known"):
        run(lines(tmp_path / "b.jsonl", {"question_id": 1}), pope, tmp_path / "out")
    (tmp_path / "c.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no answers"):
        run(tmp_path / "c.jsonl", pope, tmp_path / "out")


def test_textvqa_is_joined_by_image_and_question(tmp_path):
    rows = [
        {"question_id": 10 + n, "image_id": "ab", "question": text, "answers": [text] * 10}
        for n, text in enumerate(("what brand?", "which word?"))
    ]
    (tmp_path / "t.json").write_text(json.dumps({"data": rows}))
    import_tasks("textvqa", [tmp_path / "t.json"], tmp_path / "tasks")
    file = lines(
        tmp_path / "a.jsonl",
        {"question_id": "ab", "text": "Which word", "prompt": "Which word?\nReference OCR token: x\nAnswer."},
        {"question_id": "ab", "text": "no", "prompt": "OCR tokens: x. Question: What brand? Short answer:"},
    )
    entry = run(file, tmp_path / "tasks", tmp_path / "out")["tasks"]["textvqa"]
    assert (entry["answers"]["joined_by"], entry["metrics"]["accuracy"]["value"]) == ("image and question", 0.5)


def test_captions_are_joined_by_image(tmp_path):
    references = [
        {"image_id": "a.png", "caption": "a cat sits"},
        {"image_id": "b.png", "caption": "a dog runs"},
    ]
    (tmp_path / "refs.json").write_text(json.dumps(references))
    import_tasks("captions", [tmp_path / "refs.json"], tmp_path / "tasks")
    (tmp_path / "c.json").write_text(json.dumps(references))
    entry = run(tmp_path / "c.json", tmp_path / "tasks", tmp_path / "out")["tasks"]["captions-refs"]
    assert entry["metrics"]["cider"]["value"] == pytest.approx(7.5)
    assert entry["official"], entry["doubts"]


def test_the_command_prints_figures_and_whether_they_are_official(pope, tmp_path, capsys):
    file = lines(tmp_path / "a.jsonl", *(llava(n, "Yes") for n in (1, 2, 3)))
    words = ["eval", "--score-only", str(file), "--tasks", str(pope), "--out", str(tmp_path / "out")]
    assert main(words) == 3
    printed = capsys.readouterr()
    assert "f1 0.8000" in printed.out
    assert "official: no, only 3 of 4" in printed.out
    assert "eval.max_reject_rate" in printed.err
    assert main([*words, "--model", "x"]) == 2


def test_questions_without_their_images_are_not_asked(pope, tiny_checkpoint, tmp_path):
    with pytest.raises(RejectBudgetError, match=r"4 of 4 .*\(task 4\)"):
        evaluate(
            load_recipe(None, ["eval.engine=hf"]), model=tiny_checkpoint, tasks=[pope], out=tmp_path / "out"
        )
    assert "without --images" in (tmp_path / "out/pope-random/rejects.jsonl").read_text()


REGIONS = [
    {"question_id": str(n), "image": f"{n}.jpg", "expression": "the cat", "width": 640, "height": 480}
    | {"bbox": [64, 48, 320, 240 + n]}
    for n in range(30)
]


@pytest.mark.parametrize(
    ("text", "sets", "frame_from", "doubt"),
    [
        ("<box>[[100, 100, 500, 530]]</box>", [], "the notation", ""),
        ("<loc0102><loc0102><loc0542><loc0512> cat", [], "the notation", ""),
        ("[0.1, 0.1, 0.5, 0.53]", ["eval.box_frame=xyxy-1"], "box_frame", ""),
        ("[0.1, 0.1, 0.5, 0.53]", [], "the numbers", "taken for xyxy-1 "),
        ('{"bbox_2d": [64, 48, 320, 254], "label": "cat"}', ["eval.box_frame=xyxy-pixel"], "box_frame", ""),
        ('{"bbox_2d": [64, 48, 320, 254], "label": "cat"}', [], "the numbers", "taken for xyxy-pixel "),
        ("(100,100),(500,530)", ["eval.box_frame=auto"], "the numbers", "taken for xyxy-1000 "),
    ],
)
def test_boxes_are_read_in_the_notation_of_their_model(text, sets, frame_from, doubt, tmp_path):
    (tmp_path / "refcoco.jsonl").write_text("\n".join(map(json.dumps, REGIONS)))
    import_tasks("refcoco", [tmp_path / "refcoco.jsonl"], tmp_path / "tasks")
    texts = [text] * 29 + ["<box>[[1, 1, 999, 1000]]</box>"]
    file = lines(tmp_path / "a.jsonl", *({"question_id": str(n), "text": one} for n, one in enumerate(texts)))
    entry = run(file, tmp_path / "tasks", tmp_path / "out", *sets)["tasks"]["refcoco"]
    assert entry["metrics"]["iou_at_50"]["value"] == pytest.approx(29 / 30)
    assert entry["boxes"]["frame_from"] == frame_from
    assert entry["boxes"]["num_unparsed"] == 0
    assert entry["official"] == (not doubt)
    assert [doubt in said for said in entry["doubts"]] == ([True] if doubt else [])


def test_answers_without_a_box_are_counted_and_not_official(tmp_path):
    (tmp_path / "refcoco.jsonl").write_text("\n".join(map(json.dumps, REGIONS)))
    import_tasks("refcoco", [tmp_path / "refcoco.jsonl"], tmp_path / "tasks")
    texts = ["<box>[[100, 100, 500, 530]]</box>"] * 28 + ["I cannot see a cat.", "<box>[[100, 100,"]
    file = lines(tmp_path / "a.jsonl", *({"question_id": str(n), "text": one} for n, one in enumerate(texts)))
    entry = run(file, tmp_path / "tasks", tmp_path / "out")["tasks"]["refcoco"]
    assert entry["boxes"]["notations"] == {"<box>": 28}
    assert entry["boxes"]["num_unparsed"] == 2
    assert entry["metrics"]["unparsed_ratio"]["value"] == pytest.approx(2 / 30)
    assert not entry["official"]
    assert entry["doubts"] == ["2 of 30 answers hold no box that can be read"]


def test_boxes_of_another_frame_are_not_official(tmp_path):
    row = {"image": "a.jpg", "expression": "the cat", "bbox": [10, 5, 30, 15], "width": 100, "height": 50}
    (tmp_path / "refcoco.jsonl").write_text(json.dumps(row | {"question_id": "7"}))
    files = [tmp_path / "refcoco.jsonl"]
    import_tasks("refcoco", files, tmp_path / "tasks", box_frame="xyxy-999")
    file = lines(tmp_path / "a.jsonl", {"question_id": "7", "text": "[0.1,0.1,0.3,0.3]"})
    entry = run(file, tmp_path / "tasks", tmp_path / "out")["tasks"]["refcoco"]
    assert entry["metrics"]["iou_at_50"]["value"] == 0
    assert not entry["official"]
    assert "1 of 1 boxes lie within 0-1" in entry["doubts"][0]


def choice_task(folder, num, category=lambda n: "all"):
    """Questions of MMMU's form whose answer is B, each about an image of its own."""
    folder.mkdir(parents=True)
    with TarWriter(folder / "000000.tar") as tar:
        for n in range(num):
            meta = {"question_id": f"q{n}", "question": f"What is {n}?", "answers": ["B"], "image": f"{n}.jpg"}
            meta |= {"choices": ["red", "blue"], "category": category(n)}
            tar.write_sample(f"{n:06d}", {"json": json.dumps(meta).encode()})
    (folder / "task.toml").write_text('answer_type = "choice"\nscorer = "mmmu"\n')
    return folder


def answer_all(path, texts):
    return lines(path, *({"question_id": f"q{n}", "text": text} for n, text in enumerate(texts)))


@pytest.mark.parametrize(("scorer", "official"), [("mmmu", True), ("mmmu-random", True), ("mcq", True)])
def test_what_was_read_whole_is_official(scorer, official, tmp_path):
    """MMMU draws, and VLMEvalKit asks a language model, only where an answer has no option."""
    task = choice_task(tmp_path / "tasks/m", 6)
    (task / "task.toml").write_text(f'answer_type = "choice"\nscorer = "{scorer}"\n')
    entry = run(answer_all(tmp_path / "a.jsonl", ["B"] * 5 + ["A"]), task, tmp_path / "one")["tasks"]["m"]
    assert (entry["official"], entry["doubts"]) == (official, [])
    entry = run(answer_all(tmp_path / "b.jsonl", ["B"] * 4 + ["hm", "A"]), task, tmp_path / "two")["tasks"]["m"]
    assert not entry["official"]
    assert "1 of 6 answers are of no known form" in entry["doubts"][0]


def test_a_category_has_the_interval_of_its_own_images(tmp_path):
    """Of 150 questions 8 are of a category that is all right: no reason to be sure of it."""
    task = choice_task(tmp_path / "tasks/m", 150, lambda n: "rare" if n < 8 else "usual")
    metrics = run(
        answer_all(tmp_path / "a.jsonl", ["B"] * 100 + ["A"] * 50),
        task,
        tmp_path / "out",
        "eval.num_bootstrap=500",
    )["tasks"]["m"]["metrics"]
    rare = metrics["accuracy:rare"]
    assert (rare["value"], rare["high"]) == (1.0, 1.0)
    assert rare["low"] == pytest.approx(cautious_share(1.0, 8).low)
    assert metrics["unparsed_ratio"]["high"] == pytest.approx(cautious_share(0.0, 150).high)
    assert metrics["accuracy"]["low"] == pytest.approx(0.59, abs=0.02)


def test_the_mean_of_few_images_has_a_cautious_interval(tmp_path):
    for name in ("one", "two"):
        choice_task(tmp_path / "tasks" / name, 20)
    metrics = run(answer_all(tmp_path / "a.jsonl", ["B"] * 20), tmp_path / "tasks", tmp_path / "out")
    assert metrics["qa_mean"] == cautious_share(1.0, 20).to_json(), "both are about the same 20 images"


def test_data_sets_of_one_name_are_scored_together(tmp_path):
    """Each is named with its folder, so metrics.json, eval compare and the report tell them apart."""
    for name, num in (("coco", 30), ("gqa", 40)):
        choice_task(tmp_path / name / "pope", num)
    names = {}
    for model, wrong in (("first", 10), ("second", 5)):
        file = answer_all(tmp_path / f"{model}.jsonl", ["A"] * wrong + ["B"] * (40 - wrong))
        folders = [tmp_path / "coco", tmp_path / "gqa"]
        names[model] = score_answers(
            load_recipe(None, ["eval.num_bootstrap=50"]),
            answers=[file],
            tasks=folders if model == "first" else folders[::-1],
            out=tmp_path / "evals" / model,
        ).tasks
    assert names["first"].keys() == names["second"].keys() == {"pope@coco", "pope@gqa"}
    assert names["first"]["pope@gqa"]["num_samples"] == 40
    assert names["first"]["pope@gqa"]["folder"] == str(tmp_path / "gqa/pope")
    coco, gqa = compare_headlines(tmp_path / "evals/first", tmp_path / "evals/second")
    assert (coco.task, coco.num_samples, gqa.task, gqa.num_samples) == ("pope@coco", 30, "pope@gqa", 40)


def test_answers_that_all_differ_alike_do_not_say_how_many_are_needed(tmp_path, capsys):
    task = choice_task(tmp_path / "tasks/m", 20)
    for name, letter in (("wrong", "A"), ("right", "B")):
        run(answer_all(tmp_path / f"{name}.jsonl", [letter] * 20), task, tmp_path / name)
    (change,) = compare_headlines(tmp_path / "wrong", tmp_path / "right")
    assert (change.difference, change.high) == (1.0, 1.0)
    assert 0.7 < change.low < 1
    assert (change.smallest_visible, change.samples_needed) == (None, None)
    assert main(["eval", "compare", str(tmp_path / "wrong"), str(tmp_path / "right")]) == 0
    assert "20 samples all differ alike: how many would show it cannot be told" in capsys.readouterr().out


def test_only_contradicting_answers_are_told_of(pope, tmp_path):
    file = lines(tmp_path / "a.jsonl", *(llava(n, text) for n in (1, 2, 3, 4) for text in ("Yes", "No")))
    with pytest.raises(RejectBudgetError, match=r"none of its 4 samples has one clear answer \(ambiguous 4\)"):
        run(file, pope, tmp_path / "out", "eval.max_reject_rate=1")
    assert (tmp_path / "out/pope-random/rejects.jsonl").is_file()
