"""`--score-only`: reasoning before an answer is left out, empty and cut answers are counted."""

import json

import pytest

from vila2cli.cli.app import main
from vila2cli.formats.benchmarks.write import import_tasks
from vila2cli.settings.recipe import load_recipe
from vila2cli.stages.score_only import score_answers

ANSWERS = ("yes", "no")


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def llava(number, text):
    return {"question_id": number, "prompt": f"Is there a thing {number}?\nAnswer.", "text": text}


def run(answers, tasks, out):
    return score_answers(
        load_recipe(None, ["eval.num_bootstrap=20"]), answers=[answers], tasks=[tasks], out=out
    ).to_json()


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
    import_tasks("pope", [path], tmp_path / "tasks")
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
    import_tasks("pope", [path], tmp_path / "tasks")
    for num_empty, is_official in ((1, True), (2, False)):
        rows = [llava(n, "" if n <= num_empty else "Yes") for n in range(1, 101)]
        file = lines(tmp_path / f"{num_empty}.jsonl", *rows)
        entry = run(file, tmp_path / "tasks", tmp_path / f"out{num_empty}")["tasks"]["pope-random"]
        assert (entry["num_empty"], entry["official"]) == (num_empty, is_official)
