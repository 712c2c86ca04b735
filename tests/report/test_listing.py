"""Runs in the terminal: states, figures, and nothing that a file could make the terminal obey."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vila2cli.cli.app import main
from vila2cli.report import build_page
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.listing import find_runs, run_table
from vila2cli.report.results import read_results
from vila2cli.report.run_folder import read_run
from vila2cli.run.stages import plan_stages

MakeRun = Callable[..., Any]
HOSTILE = "[bold]a[/bold] \x1b[31mred\x1b]0;title\x07 \u202e<script>"


def shown(run_dir: Path, width: int = 400) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, markup=False, emoji=False).print(run_table(run_dir))
    return stream.getvalue()


def in_terminal(width: int, *command: str) -> str:
    """What a command writes to a terminal of that many columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        written = b""
        try:
            while data := os.read(ours, 65536):
                written += data
        except OSError:  # Linux says so where the other end is closed
            pass
    os.close(ours)
    return written.decode()


@pytest.mark.parametrize("width", [60, 100, 40])
def test_a_narrow_terminal_cuts_nothing_off(make_run: MakeRun, width: int) -> None:
    run = make_run(2, num_samples=8, num_questions=12)
    reader = JsonReader(run.run_dir)
    figures = [result.measure("qa_mean") for result in read_results(read_run(run.run_dir, reader))]
    text = in_terminal(width, sys.executable, "-m", "vila2cli", "runs", str(run.run_dir))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert text != plain  # the states have colours
    assert "\N{HORIZONTAL ELLIPSIS}" not in plain
    assert max(len(line) for line in plain.splitlines()) <= width
    numbers = re.findall(r"\d+\.\d", plain)
    for figure in figures:
        assert figure is not None
        for value in (figure.value, figure.low, figure.high):
            assert f"{100 * value:.1f}" in numbers
    assert plain.split().count("done") == 3 + 2 * 5


def test_a_stage_that_was_only_tried_makes_no_round(make_run: MakeRun) -> None:
    run = make_run(1)
    before = read_run(run.run_dir, JsonReader(run.run_dir))
    for place in ("round2/limit-4/recaption", "specialists/maps/limit-4/relabel"):
        (run.run_dir / place).mkdir(parents=True)
    assert read_run(run.run_dir, JsonReader(run.run_dir)) == before
    (run.run_dir / "round2" / "recaption.partial").mkdir()
    assert read_run(run.run_dir, JsonReader(run.run_dir)) != before


def test_a_pipe_gets_whole_lines_without_colours(make_run: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    run = make_run(1)
    assert main(["runs", str(run.run_dir.parent)]) == 0
    text = capfd.readouterr().out
    assert "\x1b" not in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("round 1")]
    assert len(re.findall(r"\d+\.\d", line)) == 9


@pytest.mark.parametrize("evaluated", [0, 1, 2, 3])
def test_the_verdict_is_that_of_the_page(
    make_run: MakeRun, evaluated: int, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(evaluated, num_samples=8, num_questions=12)
    run.write_recaption(evaluated + 1, num_shards=1)
    page = build_page(run.recipe(), run.run_dir)
    assert main(["runs", str(run.run_dir)]) == 0
    assert page.verdict[0] == capfd.readouterr().out.splitlines()[-1]
    assert page.verdict[0].endswith(f"Not evaluated: round {evaluated + 1}.")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\x00", b""])
def test_damaged_files_are_named_and_the_rest_is_shown(
    make_run: MakeRun, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(1)
    for name in ("eval/metrics.json", "recaption/manifest.json"):
        (run.run_dir / "round1" / name).write_bytes(content)
    assert main(["runs", str(run.run_dir)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("2 files cannot be read")
    assert sum(line.startswith("cannot be read: round1/") for line in lines) == 2
    assert any(line.startswith("round 0") and "done" in line for line in lines)


def test_a_run_on_slurm_shows_what_its_tasks_have_finished(make_run: MakeRun) -> None:
    """Workers of an array write shards side by side; the folder of the jobs is no stage."""
    run = make_run(0)
    run.write_recaption(1, num_shards=1)
    (run.run_dir / "slurm" / "logs").mkdir(parents=True)
    (run.run_dir / "slurm" / "run.json").write_text('{"target": "round1", "sets": []}')
    (run.run_dir / "round1" / "recaption" / ".vila2-000001.tar.gz.partial").write_bytes(b"half")
    (run.run_dir / "round1" / "pretrain.partial").mkdir()
    (line,) = [line for line in shown(run.run_dir).splitlines() if line.startswith("round 1")]
    assert line.split()[2:7] == ["1/2", "begun", "-", "-", "-"]
    assert not any(line.startswith("slurm") for line in shown(run.run_dir).splitlines())


def test_the_report_and_the_table_of_stages_agree_on_what_is_complete(make_run: MakeRun) -> None:
    run = make_run(1)
    stages = plan_stages(run.recipe(f"runs_dir={run.folder / 'runs'}"), "round1")

    def complete() -> dict[Path, bool]:
        return {stage.out: stage.is_complete() for stage in stages if stage.kind != "world"}

    def reported() -> dict[Path, bool]:
        found = read_run(run.run_dir, JsonReader(run.run_dir)).stages
        return {stage.folder: stage.state == "done" for stage in found}

    assert complete().items() <= reported().items()
    recaption, sft = (run.run_dir / "round1" / name for name in ("recaption", "sft"))
    assert complete()[recaption]
    assert complete()[sft]
    (recaption / "summary.json").unlink()  # as where a worker was killed before it
    (sft / "vila2.json").unlink()
    assert not complete()[recaption]
    assert not complete()[sft]
    assert complete().items() <= reported().items()


def test_no_folder_an_empty_one_and_a_file_are_one_clear_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, code, said in (("none", 2, "no folder"), ("file", 2, "no folder"), ("empty", 4, "no run in")):
        assert main(["runs", str(tmp_path / name)]) == code
        (line,) = capfd.readouterr().err.splitlines()
        assert said in line


def test_states_and_figures_of_every_round(make_run: MakeRun) -> None:
    run = make_run(1)
    run.write_recaption(2, num_shards=1)
    run.write_eval("final-direct", 0.9)
    lines = shown(run.run_dir).splitlines()
    assert lines[1].split()[:5] == ["recaption", "pretrain", "sft", "eval", "judge"]
    rows = {line[:12].strip(): line.split() for line in lines[2:]}
    assert rows["round 1"][2:7] == ["done"] * 5
    assert rows["round 2"][2:7] == ["1/2", "-", "-", "-", "-"]
    qa_mean = json.loads((run.run_dir / "round1" / "eval" / "metrics.json").read_text())["qa_mean"]
    assert f"{100 * qa_mean['value']:.1f}" in rows["round 1"]
    assert "done" in rows["final-direct"]


def test_runs_are_found_in_a_folder_or_given(make_run: MakeRun) -> None:
    run = make_run(0)
    (run.run_dir.parent / "notes").mkdir()
    assert find_runs(run.run_dir.parent) == find_runs(run.run_dir) == [run.run_dir]
    assert find_runs(run.base_dir) == []


def test_a_hostile_run_cannot_steer_the_terminal(make_run: MakeRun) -> None:
    run = make_run(0)
    name = HOSTILE.replace("/", "")
    (run.run_dir / "specialists" / name / "checkpoint").mkdir(parents=True)
    (run.run_dir / f"final-{name}" / "eval").mkdir(parents=True)
    (run.run_dir / f"final-{name}" / "eval" / "metrics.json").write_text(
        json.dumps({"qa_mean": {"value": 1e300}, "tasks": {HOSTILE: {"headline": HOSTILE}}})
    )
    text = shown(run.run_dir)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "[bold]a[bold]" in text.replace("[/bold]", "[bold]")
    assert "\\x1b[31mred" in text
