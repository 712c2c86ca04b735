"""Runs in the terminal: states, figures, and nothing that a file could make the terminal obey."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from vila2cli.report.listing import find_runs, run_table

MakeRun = Callable[..., Any]
HOSTILE = "[bold]a[/bold] \x1b[31mred\x1b]0;title\x07 \u202e<script>"


def shown(run_dir: Path) -> str:
    stream = io.StringIO()
    Console(file=stream, width=400, highlight=False, markup=False, emoji=False).print(run_table(run_dir))
    return stream.getvalue()


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
