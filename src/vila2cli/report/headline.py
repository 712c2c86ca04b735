"""The headline table, one row a round, and the tiles above it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vila2cli.report.caption_layers import Words
from vila2cli.report.figures import Figure, scale_of
from vila2cli.report.judgements import Judgement
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, RoundResult, task_names
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.tables import Cell, TableRow
from vila2cli.report.wording import duration, number
from vila2cli.score.stats import TOO_FEW

WORDS_NOTE = (
    "Words are of every caption that a round wrote, those of round 0 of the alt-texts of the pictures that "
    "round 1 captioned."
)


@dataclass(frozen=True, slots=True)
class Column:
    """A measurement of every round."""

    name: str
    unit: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class HeadlineTable:
    """Columns in named groups, each with its number of columns; the row of a final model is set `apart`."""

    groups: tuple[tuple[str, int], ...]
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Tile:
    name: str
    value: str
    note: str


def common_prefix(names: Sequence[str]) -> str:
    """The first word of all task names and its dash: "world-" of world-ocr and world-count, else ""."""
    firsts = {name.partition("-")[0] for name in names if "-" in name[:-1]}
    return f"{firsts.pop()}-" if len(firsts) == 1 and all("-" in name[:-1] for name in names) else ""


def headline_table(
    run: RunRecord, results: Sequence[RoundResult], words: Mapping[str, Words], judgements: Sequence[Judgement]
) -> HeadlineTable:
    """One row per round and one for `final`, one group of columns per kind of measurement."""
    names = task_names(results)
    prefix = common_prefix(names)
    groups = {
        "training captions": [_words_column(results, words)],
        "caption task": [
            _measure_column(results, PRECISION, "precision"),
            _measure_column(results, RECALL, "recall"),
        ],
        "questions": [
            _measure_column(results, QA_MEAN, "QA mean"),
            *(_measure_column(results, name, name.removeprefix(prefix)) for name in names),
        ],
        f"preferred to {baseline_name(judgements)}": _win_columns(results, judgements),
        "": [_time_column(run, results)],
    }
    columns = [column for group in groups.values() for column in group]
    rows = tuple(
        TableRow(result.group, tuple(cells), _row_note(result), "" if result.is_round else "apart")
        for result, *cells in zip(results, *(column.cells for column in columns), strict=True)
    )
    spans = [("", 1), *((name, len(group)) for name, group in groups.items() if group)]
    return HeadlineTable(tuple(spans), (Column("", "", ()), *columns), rows, _table_note(results))


def _row_note(result: RoundResult) -> str:
    if result.group == "round 0":
        return "original captions"
    if result.is_control:
        return "control of the final model"
    return "recaptioned" if result.is_round else "after the specialists"


def _table_note(results: Sequence[RoundResult]) -> str:
    sizes = {task.num_samples for result in results for task in result.tasks.values() if task.num_samples}
    text = "Small print under a value is its 95% interval over the evaluation images; "
    text += "it does not cover a repeat of the training. Bold is the best of a column."
    if sizes:
        span = f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
        text += f" {span} samples per task."
    return f"{text} {WORDS_NOTE}"


def _words_column(results: Sequence[RoundResult], words: Mapping[str, Words]) -> Column:
    cells = []
    for counted in (words.get(result.group) for result in results):
        more = "" if counted is None or counted.is_all else f", first {counted.num_captions:,}"
        note = f"± {number(counted.sd, 1)}{more}" if counted else ""
        cells.append(Cell(number(counted.mean, 1), note) if counted else Cell())
    return Column("words", "mean ± sd", tuple(cells))


def _measure_column(results: Sequence[RoundResult], measure: str, name: str) -> Column:
    figures = [result.measure(measure) for result in results]
    scale = scale_of(figures)
    values = [figure.value for figure in figures if figure is not None]
    best = max(values) if len(values) > 1 else None
    headlines = {result.tasks[measure].headline for result in results if measure in result.tasks}
    unit = ", ".join([*sorted(headlines), *(["%"] if scale == 100 else [])])
    return Column(name, unit, tuple(_figure_cell(figure, scale, best) for figure in figures))


def _figure_cell(figure: Figure | None, scale: int, best: float | None = None) -> Cell:
    if figure is None:
        return Cell()
    shown = figure.scaled(scale)
    return Cell(number(shown.value, 1), shown.span(), "best" if figure.value == best else "")


def _win_columns(results: Sequence[RoundResult], judgements: Sequence[Judgement]) -> list[Column]:
    """One column per judge: the newest captions against the oldest of that round's comparison."""
    rates = {(given.judge, given.group): given.rate for given in reversed(judgements)}
    columns = []
    for judge in dict.fromkeys(given.judge for given in judgements):
        cells = (_figure_cell(rates.get((judge, result.group)), 100) for result in results)
        columns.append(Column(f"by {judge}", "%", tuple(cells)))
    return columns


def baseline_name(judgements: Sequence[Judgement]) -> str:
    """What the captions are preferred to: the same in all rounds, else the first captions of each."""
    names = set({given.group: given.against for given in reversed(judgements)}.values())
    return names.pop() if len(names) == 1 else "the first captions"


def _time_column(run: RunRecord, results: Sequence[RoundResult]) -> Column:
    cells = []
    for result in results:
        groups = [result.group]
        if result.group == "final":
            groups += [stage.group for stage in run.stages if stage.group.startswith("specialist ")]
        times = [s.seconds for s in run.stages if s.group in groups and s.seconds is not None]
        cells.append(Cell(duration(sum(times))) if times else Cell())
    return Column("time", "all stages", tuple(cells))


def tiles(
    results: Sequence[RoundResult],
    words: Mapping[str, Words],
    judgements: Sequence[Judgement],
    cost: Tile | None,
) -> list[Tile]:
    """The few figures that sum up the run; those that are not there are left out."""
    rounds = [result for result in results if result.is_round]
    all_tiles = [
        _change_tile("Caption precision", rounds, PRECISION),
        _change_tile("Caption recall", rounds, RECALL),
        _change_tile("QA mean", rounds, QA_MEAN),
        _words_tile(rounds, words),
        _win_tile(judgements),
        cost,
    ]
    return [tile for tile in all_tiles if tile is not None]


def _change_tile(name: str, rounds: Sequence[RoundResult], measure: str) -> Tile | None:
    known = [(r.group, figure) for r in rounds if (figure := r.measure(measure)) is not None]
    if not known:
        return None
    scale = scale_of([figure for _, figure in known])
    values = [number(scale * figure.value, 1) for _, figure in (known[0], known[-1])]
    unit = "%, " if scale == 100 else ""
    if len(known) == 1:
        return Tile(name, values[0], f"{unit}{known[0][0]}")
    return Tile(name, f"{values[0]} → {values[1]}", f"{unit}{known[0][0]} to {known[-1][0]}")


def _words_tile(rounds: Sequence[RoundResult], words: Mapping[str, Words]) -> Tile | None:
    known = [(r.group, words[r.group]) for r in rounds if r.group in words]
    if not known:
        return None
    (first, before), (last, after) = known[0], known[-1]
    if first == last:
        return Tile("Words per caption", number(before.mean, 1), first)
    value = f"{number(before.mean, 1)} → {number(after.mean, 1)}"
    return Tile("Words per caption", value, f"{'alt-text' if first == 'round 0' else first} to {last}")


def _win_tile(judgements: Sequence[Judgement]) -> Tile | None:
    """The last judged round against its baseline."""
    last = [given for given in judgements if given.group == judgements[-1].group]
    if not last:
        return None
    win, *others = [given for given in last if given.pair == last[0].pair]
    rates = [f"{other.judge} judge {number(100 * other.rate.value, 0)} %" for other in others]
    few = f", {win.num_pairs} pairs" if win.num_pairs is not None and win.num_pairs < TOO_FEW else ""
    note = "; ".join([f"{win.judge} judge, {win.layer}{few}", *rates])
    return Tile(f"Preferred to {win.against}", f"{number(100 * win.rate.value, 0)} %", note)
