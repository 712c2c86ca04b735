"""The runs in a folder as tables for the terminal: rounds, states of their stages, headline figures."""

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from vila2cli.report.json_reader import JsonReader
from vila2cli.report.markdown import figure_text
from vila2cli.report.records import when
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, RoundResult, read_results
from vila2cli.report.run_folder import RunRecord, Stage, read_run
from vila2cli.report.wording import visible
from vila2cli.text.printable import printable

SHOWN = {"recaption": "recaption", "pretrain": "pretrain", "sft": "sft", "eval": "eval", "judge": "judge"}
"""Stages with a column; a specialist's training stands under pretrain, its answers under recaption."""
SPECIALIST = {"relabel": "recaption", "checkpoint": "pretrain"}
MEASURES = {PRECISION: "precision %", RECALL: "recall %", QA_MEAN: "QA mean %"}
STATES = {"done": "done", "partial": "begun", "missing": "-"}
STYLES = {"done": "green", "partial": "yellow", "missing": "dim"}


def find_runs(runs_dir: Path) -> list[Path]:
    """The run folders in a folder, or the folder itself where it is one."""
    if _is_run(runs_dir):
        return [runs_dir]
    return sorted(path for path in runs_dir.iterdir() if path.is_dir() and _is_run(path))


def _is_run(folder: Path) -> bool:
    return any((path / stage).exists() for path in folder.glob("round*") for stage in SHOWN)


def run_table(run_dir: Path) -> Group:
    """One run: a line for every round, for each specialist, for the final model and its controls."""
    reader = JsonReader(run_dir)
    run = read_run(run_dir, reader)
    results = {result.group: result for result in read_results(run)}
    table = Table(box=None, pad_edge=False)
    for name in ("", *SHOWN.values(), *MEASURES.values()):
        table.add_column(name, no_wrap=name not in MEASURES.values())
    for group in dict.fromkeys(stage.group for stage in run.stages):
        table.add_row(Text(printable(group)), *_states(run, group), *_figures(results.get(group)))
    return Group(_title(run, reader), table)


def _title(run: RunRecord, reader: JsonReader) -> Text:
    changed = when(run.newest)
    parts = [visible(run.run_dir, 120), f"changed {changed}" if changed else "nothing finished yet"]
    if num := len(set(reader.damaged)):
        parts.append(f"{num} files cannot be read")
    return Text(printable(", ".join(parts)), style="bold")


def _states(run: RunRecord, group: str) -> list[Text]:
    found: dict[str, Stage] = {}
    for stage in run.stages:
        if stage.group == group:
            found[SPECIALIST.get(stage.name, stage.name)] = stage
    return [_state(found.get(name)) for name in SHOWN]


def _state(stage: Stage | None) -> Text:
    if stage is None:
        return Text("")
    text = STATES[stage.state]
    if stage.state == "partial" and stage.num_expected:
        text = f"{stage.num_shards}/{stage.num_expected}"
    return Text(text, style=STYLES[stage.state])


def _figures(result: RoundResult | None) -> list[Text]:
    if result is None:
        return [Text("") for _ in MEASURES]
    return [Text(figure_text(result.measure(name), 100, 1)) for name in MEASURES]
