"""Do judges and evaluation point the same way? For every two captionings that were judged, what each judge
prefers beside how much better the models are that were trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from vila2cli.report.json_reader import JsonReader
from vila2cli.report.judges import Judgement
from vila2cli.report.paired import MAIN_MEASURES, MEASURE_NAMES, Change, compare_two
from vila2cli.report.results import Figure, RoundResult
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.wording import NOT_RUN, number, points

BASELINES = {"alt-text": "round 0"}
"""What the model of a row was trained on that has no captions of its own."""
EVEN = 0.5


@dataclass(frozen=True, slots=True)
class DirectionCell:
    """How far one judge or measure is from undecided, in points, and which way: gain, loss, even or empty."""

    text: str
    note: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class DirectionRow:
    captions: str
    cells: tuple[DirectionCell, ...]
    says: str


@dataclass(frozen=True, slots=True)
class DirectionTable:
    columns: tuple[str, ...]
    rows: tuple[DirectionRow, ...]


def direction_table(
    run: RunRecord,
    results: Sequence[RoundResult],
    judgements: Sequence[Judgement],
    reader: JsonReader,
    *,
    num_bootstrap: int,
    seed: int,
) -> DirectionTable:
    """One row for every two captionings that were judged; the measures are of the models trained on them."""
    judges = tuple(dict.fromkeys(one.judge for one in judgements))
    by_group = {result.group: result for result in results}
    rows = []
    for layer, against in dict.fromkeys((one.layer, one.against) for one in judgements):
        said = {one.judge: one for one in reversed(judgements) if (one.layer, one.against) == (layer, against)}
        after, before = by_group.get(layer), by_group.get(BASELINES.get(against, against))
        changes = {}
        if after is not None and before is not None:
            compared = compare_two(run, before, after, reader, num_bootstrap=num_bootstrap, seed=seed)
            changes = dict(compared.changes)
        cells = [_judge_cell(said.get(judge)) for judge in judges]
        cells += [_change_cell(changes.get(name)) for name in MAIN_MEASURES]
        rows.append(DirectionRow(f"{layer} over {against}", tuple(cells), _says(cells)))
    measures = tuple(MEASURE_NAMES.get(name, name) for name in MAIN_MEASURES)
    return DirectionTable((*(f"{judge} judge" for judge in judges), *measures), tuple(rows))


def _judge_cell(one: Judgement | None) -> DirectionCell:
    if one is None:
        return DirectionCell(NOT_RUN)
    rate = one.rate
    return _cell(
        Figure(
            rate.value - EVEN,
            None if rate.low is None else rate.low - EVEN,
            None if rate.high is None else rate.high - EVEN,
        )
    )


def _change_cell(change: Change | None) -> DirectionCell:
    return DirectionCell(NOT_RUN) if change is None else _cell(change.figure)


def _cell(figure: Figure) -> DirectionCell:
    span = ""
    if figure.low is not None and figure.high is not None:
        span = f"{number(100 * figure.low, 1)} to {number(100 * figure.high, 1)}"
    return DirectionCell(points(figure.value), span, Change(figure).verdict)


def _says(cells: Sequence[DirectionCell]) -> str:
    verdicts = [cell.verdict for cell in cells if cell.verdict]
    clear = {verdict for verdict in verdicts if verdict != "even"}
    if len(clear) > 1:
        return "they disagree"
    if not clear:
        return "none can tell"
    way = "better" if clear == {"gain"} else "worse"
    num_clear = sum(verdict != "even" for verdict in verdicts)
    return f"all say {way}" if num_clear == len(verdicts) else f"{num_clear} of {len(verdicts)} say {way}"
