"""A stranger's own questions to a task, asked, shown and scored."""

import json
from pathlib import Path
from typing import Any

import pytest
from own_pictures import samples, write_table

from vila2cli.cli.app import main

QUESTIONS = [
    {"image": "a.png", "question": "What colour?", "answer": "red|crimson", "category": "colour"},
    {"image": "trip/IMG_1.jpg", "question": "And this?", "answer": "blue", "category": "colour"},
]


def test_own_questions_are_asked_shown_and_scored(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, task = write_table(tmp_path / "q.csv", QUESTIONS), tmp_path / "tasks" / "mine"
    words = ["--questions", str(table), "--images", str(photos), "--scorer", "short"]
    assert main(["eval", "new", str(task), *words]) == 0
    said = capsys.readouterr().out
    assert "mine: 2 samples, 2 images, scored by short" in said
    assert r"asked as: {question}\nAnswer the question using a single word or phrase." in said
    out = tmp_path / "eval"
    sets = ["--set", "eval.max_new_tokens=2", "--set", "eval.engine=hf", "--set", "eval.num_bootstrap=20"]
    assert main(["eval", "--model", str(tiny_checkpoint), "--tasks", str(task), "--out", str(out), *sets]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("task "))
    assert lines[start].split() == ["task", "samples", "metric", "value", "95%", "interval"]
    assert lines[start + 1].split()[:2] == ["mine", "2"]
    assert not [line for line in lines if "bootstrap" in line]
    assert "bootstrap" in json.loads((out / "metrics.json").read_text())["protocol"]["interval"]
    assert main(["shards", "show", str(out / "mine"), "-n", "1"]) == 0
    shown = capsys.readouterr().out
    assert "question: What colour?" in shown
    assert "reference: red | crimson" in shown
    assert "answer (" in shown


def test_a_task_without_a_right_answer_says_where_to_look(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"image": "a.png", "question": f"What is {n}?", "answer": "no word of a tiny model"} for n in range(10)
    ]
    table, task = write_table(tmp_path / "q.csv", rows), tmp_path / "tasks" / "mine"
    words = ["--questions", str(table), "--images", str(photos), "--prompt", "{question} Say it."]
    assert main(["eval", "new", str(task), *words]) == 0
    out = tmp_path / "eval"
    sets = ["--set", "eval.max_new_tokens=1", "--set", "eval.engine=hf", "--set", "eval.num_bootstrap=20"]
    assert main(["eval", "--model", str(tiny_checkpoint), "--tasks", str(task), "--out", str(out), *sets]) == 0
    assert (
        f"mine: none of 10 answers is right; look at them: vila2 shards show {out / 'mine'}; each question was "
        "asked as: {question} Say it."
    ) in capsys.readouterr().out


def test_options_of_a_choice_are_columns_or_one_text(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file": "a.png", "question": "Which?", "answer": "red", "A": "blue", "B": "red", "C": ""},
        {"file": "a.jpg", "question": "Which?", "answer": "A", "A": "blue", "B": "red", "C": "green"},
    ]
    words = ["--images", str(photos), "--scorer", "choice"]
    table = write_table(tmp_path / "c.csv", rows)
    assert main(["eval", "new", str(tmp_path / "one"), "--questions", str(table), *words]) == 0
    rows = [{"file": "a.png", "question": "Which?", "answer": "red", "choices": "blue | red"}]
    table = write_table(tmp_path / "d.csv", rows)
    assert main(["eval", "new", str(tmp_path / "two"), "--questions", str(table), *words]) == 0
    first, second = (next(iter(samples(tmp_path / name).values())) for name in ("one", "two"))
    assert first.meta["question"] == second.meta["question"] == "Which?\nA. blue\nB. red"
    assert first.meta["answers"] == second.meta["answers"] == ["B"]


def test_what_no_task_can_be_made_of_is_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "q.csv", QUESTIONS)
    gone = write_table(
        tmp_path / "gone.csv", [{**QUESTIONS[0], "image": name} for name in ("gone.png", "a.png", "off.png")]
    )
    base = ["eval", "new", str(tmp_path / "task"), "--images", str(photos)]
    for words, code, message in [
        (["--questions", str(table), "--scorer", "sort"], 2, "did you mean short?; known are yesno, pope"),
        (["--questions", str(table), "--scorer", "exact"], 2, "exact: no such scorer; known are yesno, pope"),
        (
            ["--questions", str(table), "--scorer", "choice"],
            4,
            "q.csv, line 2: has no options: give a column choices, with | between them, or columns A, B ...; "
            "1 row has the same fault further down",
        ),
        (["--questions", str(table), "--scorer", "vqa"], 4, "q.csv, line 3: soft accuracy needs"),
        (["--questions", str(table), "--answer", "anser"], 4, "did you mean answer?"),
        (
            ["--questions", str(gone)],
            4,
            f"gone.csv, line 2: there is no image gone.png in {photos}; 1 row has the same fault further down",
        ),
        (["--questions", str(tmp_path / "none.csv")], 4, "no such file"),
    ]:
        assert main([*base, *words]) == code
        assert message in capsys.readouterr().err
        assert not (tmp_path / "task").exists()


def test_a_dry_run_refuses_an_empty_task_folder(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["eval", "--model", str(tiny_checkpoint), "--dry-run", "--tasks"]
    assert main([*words, str(tmp_path / "empty")]) == 4
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "task.toml").write_text('answer_type = "short"\n')
    assert main([*words, str(tmp_path / "bare")]) == 4
    assert "holds no .tar files" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "later")]) == 0
    assert "missing:" in capsys.readouterr().out


def test_numbers_and_truths_of_a_table_are_what_they_say(photos: Path, tmp_path: Path) -> None:
    common = {"image": "a.png", "question": "How many?"}
    rows: list[dict[str, Any]] = [{"id": 0, **common, "A": 0, "B": 1, "answer": 0}]
    rows.append({"id": 1, **common, "A": 2, "B": 0, "answer": "B"})
    table = write_table(tmp_path / "choice.jsonl", rows)
    words = ["--questions", str(table), "--images", str(photos), "--scorer", "choice"]
    assert main(["eval", "new", str(tmp_path / "choice"), *words]) == 0
    asked = [sample.meta for sample in samples(tmp_path / "choice").values()]
    assert [meta["question_id"] for meta in asked] == ["0", "1"]
    assert [(meta["choices"], meta["answers"]) for meta in asked] == [(["0", "1"], ["A"]), (["2", "0"], ["B"])]

    rows = [{"image": "a.png", "question": "Is it?", "answer": answer} for answer in (True, False)]
    table = write_table(tmp_path / "yesno.jsonl", rows)
    words = ["--questions", str(table), "--images", str(photos), "--scorer", "yesno"]
    assert main(["eval", "new", str(tmp_path / "yesno"), *words]) == 0
    assert [sample.meta["answers"] for sample in samples(tmp_path / "yesno").values()] == [["yes"], ["no"]]
