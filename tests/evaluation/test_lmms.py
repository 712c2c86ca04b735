"""lmms-eval: the command line, a program that stands in the same place, and results in its published form."""

import json
import sys
from pathlib import Path

import pytest

from vila2cli.cli.app import main
from vila2cli.errors import DataError, ModelError
from vila2cli.evaluation.lmms import command_line, read_results, run_lmms, samples_of

RESULTS = {
    "results": {
        "mme": {"alias": "mme", "mme_cognition_score,none": 348.9, "mme_cognition_score_stderr,none": "N/A"},
        "pope": {
            "alias": "pope",
            "pope_accuracy,none": 0.87,
            "pope_accuracy_stderr,none": 0.01,
            "pope_f1,strict": 0.85,
            "submission,none": None,
        },
    },
    "versions": {"pope": 0.0, "mme": "Yaml"},
    "n-shot": {"pope": 0, "mme": 0},
    "n-samples": {"pope": {"original": 9000, "effective": 9000}},
    "config": {"model": "llava_hf", "batch_size": 1},
    "git_hash": "abc123",
}


def write_results(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "20260101_000000_results.json"
    path.write_text(json.dumps(RESULTS))
    (folder / "20260101_000000_samples_pope.jsonl").write_text("")
    return path


def test_results_become_tasks_with_intervals_where_errors_are_known(tmp_path):
    path = write_results(tmp_path)
    entries = read_results(path)
    assert list(entries) == ["lmms:mme", "lmms:pope"]
    pope = entries["lmms:pope"]["metrics"]
    assert pope["pope_accuracy"]["value"] == 0.87
    assert pope["pope_accuracy"]["high"] - 0.87 == pytest.approx(0.0196, abs=1e-5)
    assert pope["pope_f1,strict"] == {"value": 0.85}
    assert entries["lmms:mme"]["metrics"] == {"mme_cognition_score": {"value": 348.9}}
    assert (entries["lmms:pope"]["num_samples"], entries["lmms:pope"]["version"]) == (9000, "0.0")
    assert [one.name for one in samples_of(path)] == ["20260101_000000_samples_pope.jsonl"]


def test_another_file_is_no_result(tmp_path):
    (tmp_path / "x_results.json").write_text('{"scores": {}}')
    with pytest.raises(DataError, match="holds no 'results'"):
        read_results(tmp_path / "x_results.json")


def line(program, out):
    return command_line(
        program, model="llava_hf", model_args="pretrained=ckpt", tasks=["mme", "pope"], out=out, num_fewshot=4
    )


def test_the_command_line(tmp_path):
    words = line(f"{sys.executable} -m lmms_eval", tmp_path)
    assert words[1:] == (
        "-m lmms_eval --model llava_hf --model_args pretrained=ckpt --tasks mme,pope --batch_size 1 "
        f"--num_fewshot 4 --log_samples --output_path {tmp_path}"
    ).split(" ")


def test_a_program_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(ModelError, match="install lmms-eval into an environment of its own"):
        line("no-such-lmms-eval", tmp_path)


def test_a_program_that_fails_shows_the_end_of_its_log(tmp_path):
    fails = [sys.executable, "-c", "import sys; print('out of luck'); sys.exit(3)"]
    with pytest.raises(ModelError, match=r"ended with 3; .*out of luck"):
        run_lmms(fails, tmp_path)
    with pytest.raises(ModelError, match="wrote no"):
        run_lmms([sys.executable, "-c", "pass"], tmp_path)


def test_results_are_added_to_an_eval(tmp_path, capsys):
    results = write_results(tmp_path / "lmms")
    out = tmp_path / "eval"
    out.mkdir()
    (out / "metrics.json").write_text(json.dumps({"tasks": {"own": {"metrics": {}}}, "qa_mean": None}))
    assert main(["eval", "lmms", "--results", str(results), "--out", str(out)]) == 0
    assert "pope_accuracy 0.8700 (0.8504 to 0.8896)" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["tasks"]) == ["own", "lmms:mme", "lmms:pope"]
    assert metrics["lmms_eval"]["config"]["model"] == "llava_hf"
    words = ["eval", "lmms", "--model", "ckpt", "--tasks", "mme", "--out", str(out)]
    assert main([*words, "--set", "eval.lmms_command=no-such-lmms-eval"]) == 5
    assert main(["eval", "lmms", "--out", str(out)]) == 2
