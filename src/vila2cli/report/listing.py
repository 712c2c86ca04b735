"""The runs in a folder as tables for the terminal: rounds, states of their stages, headline figures."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from vila2cli.errors import DataError
from vila2cli.files import PARTIAL
from vila2cli.report.bookkeeping import when
from vila2cli.report.figures import figure_text
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.own_recipe import own_recipe
from vila2cli.report.paired import bootstrap_of, compare_rounds
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, RoundResult, read_results
from vila2cli.report.run_folder import ROUND_STAGES, RunRecord, StageRecord, read_run
from vila2cli.report.saturation import verdict
from vila2cli.report.wording import visible
from vila2cli.settings.recipe import Recipe
from vila2cli.text.printable import printable

SHOWN = ("recaption", "pretrain", "sft", "eval", "judge")
"""Stages with a column; a specialist's training is under pretrain, its answers under recaption."""
SPECIALIST = {"relabel": "recaption", "checkpoint": "pretrain"}
MAX_NAMED = 5
"""Runs named in a message."""
MAX_DAMAGED = 8
"""Files named that cannot be read."""
UNBOUNDED = 10_000
"""Columns that no table needs."""
MEASURES = {PRECISION: "precision %", RECALL: "recall %", QA_MEAN: "QA mean %"}
STATES = {"done": "done", "partial": "begun", "missing": "-"}
STYLES = {"done": "green", "partial": "yellow", "missing": "dim"}


def find_runs(runs_dir: Path) -> list[Path]:
    """The run folders in a folder, or the folder itself where it is one."""
    if not runs_dir.is_dir():
        return []
    if _is_run(runs_dir):
        return [runs_dir]
    return sorted(path for path in runs_dir.iterdir() if path.is_dir() and _is_run(path))


def check_is_run(folder: Path) -> None:
    """Raise DataError for a folder that is no run folder, naming the runs that are in it or beside it."""
    if folder.is_dir() and _is_run(folder):
        return
    said = f"{folder} holds no run" if folder.is_dir() else f"there is no run folder {folder}"
    runs: list[Path] = []
    with contextlib.suppress(OSError):  # one of the folders may be closed to us
        runs = find_runs(folder) or find_runs(folder.parent)
    if runs:
        more = f" and {len(runs) - MAX_NAMED} more" if len(runs) > MAX_NAMED else ""
        raise DataError(f"{said}; name one, as in vila2 report {', '.join(map(str, runs[:MAX_NAMED]))}{more}")
    raise DataError(f"{said}; run a stage first (vila2 run), or name the folder of a run, such as runs/world")


def _is_run(folder: Path) -> bool:
    """Whether a stage of a run has begun here: a round's folder, the specialists' or the final training's."""
    groups = [*folder.glob("round[0-9]*"), *folder.glob("final*"), *folder.glob("specialists/*")]
    names = (*ROUND_STAGES, *SPECIALIST)
    return any((path / f"{name}{end}").exists() for path in groups for name in names for end in ("", PARTIAL))


@dataclass(frozen=True, slots=True)
class RunTable:
    """One run: a line for every round, each specialist, the final model and its controls, then the verdict.

    Where the lines do not fit the figures are a second table; nothing is cut off.
    """

    title: Text
    rows: tuple[tuple[str, list[Text], RoundResult | None], ...]
    verdict: str
    damaged: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same for a program: states by stage, and of each measure its value and 95% interval."""
        return {
            "run": self.title.plain,
            "rows": [
                {
                    "name": name,
                    "stages": {stage: shown.plain for stage, shown in zip(SHOWN, states, strict=True)},
                    "figures": _measures(result),
                }
                for name, states, result in self.rows
            ],
            "verdict": self.verdict,
            "damaged": list(self.damaged),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.title
        figures = tuple(MEASURES.values())
        lines = [(name, [*shown, *_figures(result)]) for name, shown, result in self.rows]
        table = _table((*SHOWN, *figures), lines)
        # The width that it would take, which a measure within the terminal would cut.
        if console.measure(table, options=options.update_width(UNBOUNDED)).maximum <= options.max_width:
            yield table
        else:
            yield _table(SHOWN, [(name, shown) for name, shown, _ in self.rows], gap=1)
            measured = [
                (name, _figures(result, "\n"))
                for name, _, result in self.rows
                if result and any(map(result.measure, MEASURES))
            ]
            if measured:
                yield Text()
                yield _table(figures, measured, gap=1)
        if self.verdict:
            yield Text(printable(self.verdict))
        for line in self.damaged[:MAX_DAMAGED]:
            yield Text(printable(f"cannot be read: {line}"))
        if len(self.damaged) > MAX_DAMAGED:
            yield Text(f"and {len(self.damaged) - MAX_DAMAGED} more files cannot be read")


def run_table(run_dir: Path, given: Recipe | None = None, *, with_verdict: bool = False) -> RunTable:
    """What is known of a run, and if asked the verdict of its report on another round."""
    reader = JsonReader(run_dir)
    run = read_run(run_dir, reader)
    results = read_results(run)
    by_group = {result.group: result for result in results}
    by_name: dict[str, dict[str, StageRecord]] = {}
    for stage in run.stages:
        by_name.setdefault(stage.group, {})[SPECIALIST.get(stage.name, stage.name)] = stage
    rows = tuple(
        (printable(group), [_state(stages.get(name)) for name in SHOWN], by_group.get(group))
        for group, stages in by_name.items()
    )
    if not with_verdict:
        return RunTable(_title(run, reader), rows, "")
    own = own_recipe(run, given, reader)
    loop = [result for result in results if result.is_round]
    comparisons = compare_rounds(run, loop, reader, **bootstrap_of(own.recipe))
    sentence = verdict(comparisons, results, own.flags)[0]
    return RunTable(_title(run, reader), rows, sentence, tuple(dict.fromkeys(reader.damaged)))


def _table(columns: Sequence[str], lines: Sequence[tuple[str, list[Text]]], gap: int = 2) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for name in ("", *columns):
        table.add_column(name, overflow="fold")
    for name, cells in lines:
        table.add_row(Text(name), *cells)
    return table


def _title(run: RunRecord, reader: JsonReader) -> Text:
    changed = when(run.newest)
    parts = [visible(run.run_dir, 120), f"changed {changed}" if changed else "nothing finished yet"]
    if num := len(set(reader.damaged)):
        parts.append("1 file cannot be read" if num == 1 else f"{num} files cannot be read")
    return Text(printable(", ".join(parts)), style="bold")


def _state(stage: StageRecord | None) -> Text:
    if stage is None:
        return Text("")
    text = STATES[stage.state]
    if stage.state == "partial" and stage.num_expected:
        text = f"{stage.num_shards}/{stage.num_expected}"
    return Text(text, style=STYLES[stage.state])


def _figures(result: RoundResult | None, between: str = " ") -> list[Text]:
    """The main measures, each with `between` before its interval."""
    if result is None:
        return [Text("") for _ in MEASURES]
    figures = [result.measure(name) for name in MEASURES]
    texts = (figure_text(figure and figure.scaled(100), 1) for figure in figures)
    return [Text(text.replace(" [", f"{between}[")) for text in texts]


def _measures(result: RoundResult | None) -> dict[str, Any]:
    figures = {name: result.measure(name) for name in MEASURES} if result is not None else {}
    return {name: asdict(figure) for name, figure in figures.items() if figure is not None}
