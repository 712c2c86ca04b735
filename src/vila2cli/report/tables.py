"""The headline table, the tiles above it, and the table of differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vila2cli.report.caption_layers import Words
from vila2cli.report.judges import Judgement
from vila2cli.report.paired import MAIN_MEASURES, MEASURE_NAMES, Change, Comparison
from vila2cli.report.plots import difference_mark
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, Figure, RoundResult
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.wording import NOT_RUN, duration, number, signed
from vila2cli.score.stats import FEW_IMAGES


@dataclass(frozen=True, slots=True)
class Cell:
    text: str = NOT_RUN
    note: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    unit: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    name: str
    span: int


@dataclass(frozen=True, slots=True)
class TableRow:
    """One round; `apart` sets off the row of the final model."""

    label: str
    note: str
    cells: tuple[Cell, ...]
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    groups: tuple[ColumnGroup, ...]
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Tile:
    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class DifferenceCell:
    text: str
    note: str
    mark: Markup
    verdict: str


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    name: str
    cells: tuple[DifferenceCell | None, ...]


@dataclass(frozen=True, slots=True)
class DifferenceTable:
    pairs: tuple[str, ...] = ()
    rows: tuple[DifferenceRow, ...] = ()
    note: str = ""


def scale_of(figures: Sequence[Figure | None]) -> int:
    """100 where all figures are shares, so that they are shown in percent, else 1."""
    return 100 if all(one.is_share for one in figures if one is not None) else 1


def task_names(results: Sequence[RoundResult]) -> list[str]:
    """All question tasks of the run in the order they first appear."""
    return list(dict.fromkeys(task.name for result in results for task in result.qa_tasks))


def common_prefix(names: Sequence[str]) -> str:
    """The first word of all task names and its dash: "world-" of world-ocr and world-count, else ""."""
    firsts = {name.partition("-")[0] for name in names if "-" in name[:-1]}
    return f"{firsts.pop()}-" if len(firsts) == 1 and all("-" in name[:-1] for name in names) else ""


def headline_table(
    run: RunRecord, results: Sequence[RoundResult], words: Mapping[str, Words], judgements: Sequence[Judgement]
) -> Table:
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
        TableRow(
            label=result.group,
            note=_row_note(result),
            cells=tuple(column.cells[i] for column in columns),
            apart=not result.is_round,
        )
        for i, result in enumerate(results)
    )
    spans = [ColumnGroup("", 1), *(ColumnGroup(name, len(group)) for name, group in groups.items() if group)]
    return Table(tuple(spans), (Column("", "", ()), *columns), rows, _table_note(results))


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
    return text


def _words_column(results: Sequence[RoundResult], words: Mapping[str, Words]) -> Column:
    cells = []
    for result in results:
        found = words.get(result.group)
        more = "" if found is None or found.is_all else f", first {found.num_captions:,}"
        cells.append(Cell(number(found.mean, 1), f"± {number(found.sd, 1)}{more}") if found else Cell())
    return Column("words", "mean ± sd", tuple(cells))


def _measure_column(results: Sequence[RoundResult], measure: str, name: str) -> Column:
    figures = [result.measure(measure) for result in results]
    scale = scale_of(figures)
    values = [one.value for one in figures if one is not None]
    best = max(values) if len(values) > 1 else None
    headlines = {result.tasks[measure].headline for result in results if measure in result.tasks}
    unit = ", ".join([*sorted(headlines), *(["%"] if scale == 100 else [])])
    return Column(name, unit, tuple(_figure_cell(one, scale, best) for one in figures))


def _figure_cell(figure: Figure | None, scale: int, best: float | None = None) -> Cell:
    if figure is None:
        return Cell()
    note = ""
    if figure.low is not None and figure.high is not None:
        note = f"{number(scale * figure.low, 1)}–{number(scale * figure.high, 1)}"
    return Cell(number(scale * figure.value, 1), note, best=figure.value == best)


def _win_columns(results: Sequence[RoundResult], judgements: Sequence[Judgement]) -> list[Column]:
    """One column per judge: the newest captions against the oldest of that round's comparison."""
    first: dict[tuple[str, str], Judgement] = {}
    for one in judgements:
        first.setdefault((one.judge, one.group), one)
    columns = []
    for judge in dict.fromkeys(one.judge for one in judgements):
        found = [first.get((judge, result.group)) for result in results]
        rates = [one.rate if one else None for one in found]
        columns.append(Column(f"by {judge}", "%", tuple(_figure_cell(rate, 100) for rate in rates)))
    return columns


def baseline_name(judgements: Sequence[Judgement]) -> str:
    """What the captions are preferred to: the same in all rounds, else the first captions of each."""
    first = {one.group: one.against for one in reversed(judgements)}
    names = set(first.values())
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
    """The few figures that say what the run achieved; those that are not there are left out."""
    rounds = [result for result in results if result.is_round]
    found = [
        _change_tile("Caption precision", rounds, PRECISION),
        _change_tile("Caption recall", rounds, RECALL),
        _change_tile("QA mean", rounds, QA_MEAN),
        _words_tile(rounds, words),
        _win_tile(judgements),
        cost,
    ]
    return [tile for tile in found if tile is not None]


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
    if not judgements:
        return None
    last = judgements[-1].group
    pair = next((one.layer, one.against) for one in judgements if one.group == last)
    win, *others = [one for one in judgements if one.group == last and (one.layer, one.against) == pair]
    rates = [f"{other.judge} judge {number(100 * other.rate.value, 0)} %" for other in others]
    note = "; ".join([f"{win.judge} judge, {win.layer}", *rates])
    return Tile(f"Preferred to {win.against}", f"{number(100 * win.rate.value, 0)} %", note)


def difference_table(comparisons: Sequence[Comparison], results: Sequence[RoundResult]) -> DifferenceTable:
    """Every measure that two rows in a row share: the change, its interval and a whisker to read it by."""
    names = [*MAIN_MEASURES, *task_names(results)]
    changes = [change for one in comparisons for change in one.changes.values()]
    ends = [
        abs(end) for change in changes for end in (change.figure.low, change.figure.high) if end is not None
    ]
    if not ends:
        return DifferenceTable()
    scales = {name: scale_of([result.measure(name) for result in results]) for name in names}
    rows = [
        DifferenceRow(
            MEASURE_NAMES.get(name, name),
            tuple(_difference_cell(one.changes.get(name), scales[name], max(ends)) for one in comparisons),
        )
        for name in names
        if any(name in one.changes for one in comparisons)
    ]
    note = (
        "In points of a percent for shares. Paired bootstrap over the evaluation images: both models answered "
        f"the same questions; shares of fewer than {FEW_IMAGES} images have the cautious interval that eval "
        "gives them. An interval that leaves out zero is coloured; the samples cannot say which is better for "
        "the grey ones. At 95% one in twenty differences looks clear by chance, and a repeat of the "
        "training is not covered."
    )
    pairs = tuple(f"{one.after} − {one.before}" for one in comparisons)
    return DifferenceTable(pairs, tuple(rows), note)


def _difference_cell(change: Change | None, scale: int, reach: float) -> DifferenceCell | None:
    if change is None or change.figure.low is None or change.figure.high is None:
        return None
    figure = change.figure
    low, high = change.figure.low, change.figure.high
    return DifferenceCell(
        text=signed(scale * figure.value, 1),
        note=f"{signed(scale * low, 1)} to {signed(scale * high, 1)}",
        mark=difference_mark(figure.value, low, high, reach),
        verdict=change.verdict,
    )
