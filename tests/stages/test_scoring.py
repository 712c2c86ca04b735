"""`--score-only`: answers of other tools joined with tasks, every one of them accounted for."""

import json

import pytest

from vila2cli.cli import main
from vila2cli.errors import DataError, RejectBudgetError
from vila2cli.importers import find_format
from vila2cli.importers.write import import_tasks
from vila2cli.recipe import load_recipe
from vila2cli.shards import TarWriter
from vila2cli.stages.evaluate import evaluate
from vila2cli.stages.scoring import score_answers

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
    import_tasks(find_format("pope"), [path], tmp_path / "tasks")
    return tmp_path / "tasks" / "pope-random"


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def llava(number, text, **more):
    return {"question_id": number, "prompt": f"Is there a thing {number}?\nAnswer.", "text": text, **more}


def run(answers, tasks, out, *sets):
    return score_answers(
        load_recipe(None, ["eval.num_bootstrap=20", *sets]), answers=[answers], tasks=[tasks], out=out
    )


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
    import_tasks(find_format("textvqa"), [tmp_path / "t.json"], tmp_path / "tasks")
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
    import_tasks(find_format("captions"), [tmp_path / "refs.json"], tmp_path / "tasks")
    (tmp_path / "c.json").write_text(json.dumps(references))
    entry = run(tmp_path / "c.json", tmp_path / "tasks", tmp_path / "out")["tasks"]["captions-refs"]
    assert entry["metrics"]["cider"]["value"] == pytest.approx(7.5)
    assert not entry["official"]
    assert "PTBTokenizer" in entry["doubts"][0]


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


def test_boxes_of_another_frame_are_not_official(tmp_path):
    row = {"image": "a.jpg", "expression": "the cat", "bbox": [10, 5, 30, 15], "width": 100, "height": 50}
    (tmp_path / "refcoco.jsonl").write_text(json.dumps(row | {"question_id": "7"}))
    import_tasks(find_format("refcoco"), [tmp_path / "refcoco.jsonl"], tmp_path / "tasks")
    file = lines(tmp_path / "a.jsonl", {"question_id": "7", "text": "[0.1,0.1,0.3,0.3]"})
    entry = run(file, tmp_path / "tasks", tmp_path / "out")["tasks"]["refcoco"]
    assert entry["metrics"]["iou_at_50"]["value"] == 0
    assert not entry["official"]
    assert "1 of 1 boxes lie within 0-1" in entry["doubts"][0]


THOUGHTS = (
    "<think>No dog is here. No, wait.</think>Yes",
    "I see no dog at first. No.\n</think>\n\nYes",
    "<think>\nNot sure.\n</think>\n\n<answer>Yes</answer>",
    "◁think▷no◁/think▷Yes",
    "[THINK]no[/THINK]Yes",
    "analysisNo, not a dog.assistantfinalYes",
    "<|channel|>analysis<|message|>No.<|end|><|start|>assistant<|channel|>final<|message|>Yes",
    "<think>no</think><|begin_of_box|>Yes<|end_of_box|>",
)


@pytest.fixture
def twenty(tmp_path):
    """A POPE task of 20 questions, of which every other one is to be answered with yes."""
    rows = [
        {"question_id": n, "image": f"i{n}.jpg", "text": f"Is there a thing {n}?", "label": ANSWERS[n % 2]}
        for n in range(1, 21)
    ]
    path = tmp_path / "coco_pope_random.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    import_tasks(find_format("pope"), [path], tmp_path / "tasks")
    return tmp_path / "tasks" / "pope-random"


def test_the_answer_behind_the_reasoning_is_scored(twenty, tmp_path):
    texts = [THOUGHTS[n % len(THOUGHTS)] for n in range(20)]
    file = lines(tmp_path / "a.jsonl", *(llava(n, text) for n, text in enumerate(texts, 1)))
    entry = run(file, twenty, tmp_path / "out")["tasks"]["pope-random"]
    values = {name: figure["value"] for name, figure in entry["metrics"].items()}
    assert (values["yes_ratio"], values["f1"], values["unclear_ratio"]) == (1.0, pytest.approx(2 / 3), 0.0)
    assert (entry["num_with_reasoning"], entry["num_empty"], entry["num_cut"]) == (20, 0, 0)
    assert entry["official"] is True


def test_lmms_evals_answers_lose_their_reasoning(twenty, tmp_path):
    rows = [
        {"doc_id": n - 1, "target": "x", "resps": [[THOUGHTS[0]]], "input": f"Is there a thing {n}?"}
        for n in range(1, 21)
    ]
    entry = run(lines(tmp_path / "s.jsonl", *rows), twenty, tmp_path / "out")["tasks"]["pope-random"]
    assert entry["metrics"]["yes_ratio"]["value"] == 1.0


@pytest.mark.parametrize(
    ("row", "counts"),
    [
        ({"text": ""}, (1, 0)),
        ({"text": " \n"}, (1, 0)),
        ({"text": "<think>Is it a dog? It"}, (1, 1)),
        ({"text": "Yes, there is a", "finish_reason": "length"}, (0, 1)),
        ({"text": "<think>Yes.</think>", "finish_reason": "length"}, (1, 1)),
    ],
)
def test_empty_and_cut_answers_are_counted_and_not_official(twenty, tmp_path, row, counts, capsys):
    rows = [llava(n, "Yes") for n in range(1, 20)]
    file = lines(tmp_path / "a.jsonl", *rows, llava(20, "") | row)
    entry = run(file, twenty, tmp_path / "out")["tasks"]["pope-random"]
    assert (entry["num_empty"], entry["num_cut"]) == counts
    assert entry["official"] is False
    empty, cut = counts
    assert entry["doubts"] == [
        f"1 of 20 answers are no whole ones, more than 1% ({empty} empty, {cut} cut off)"
    ]
    sets = ["--set", "eval.num_bootstrap=20"]
    assert (
        main(["eval", "--score-only", str(file), "--tasks", str(twenty), "--out", str(tmp_path / "b"), *sets])
        == 0
    )
    assert f"{empty} answers are empty, {cut} cut off" in capsys.readouterr().out


def test_few_empty_answers_leave_a_figure_official(tmp_path):
    asked = [
        {"question_id": n, "image": f"i{n}.jpg", "text": f"Is there a thing {n}?", "label": "yes"}
        for n in range(1, 101)
    ]
    path = tmp_path / "coco_pope_random.json"
    path.write_text("\n".join(map(json.dumps, asked)))
    import_tasks(find_format("pope"), [path], tmp_path / "tasks")
    for num_empty, is_official in ((1, True), (2, False)):
        rows = [llava(n, "" if n <= num_empty else "Yes") for n in range(1, 101)]
        file = lines(tmp_path / f"{num_empty}.jsonl", *rows)
        entry = run(file, tmp_path / "tasks", tmp_path / f"out{num_empty}")["tasks"]["pope-random"]
        assert (entry["num_empty"], entry["official"]) == (num_empty, is_official)
