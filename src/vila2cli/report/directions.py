"""Do judges and evaluation point the same way? For every two captionings that were judged, what each judge
prefers beside how much better the models are that were trained on them."""

from collections.abc import Mapping, Sequence
from typing import Unpack

from markupsafe import Markup

from vila2cli.report.figures import Figure
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.judgements import Judgement
from vila2cli.report.paired import MAIN_MEASURES, MEASURE_NAMES, compare_two
from vila2cli.report.plots import tag
from vila2cli.report.results import RoundResult
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.tables import Table, TableRow, columns
from vila2cli.report.wording import NOT_RUN, points
from vila2cli.score.stats import Bootstrap

BASELINES = {"alt-text": "round 0"}
"""What the model of a row was trained on that has no captions of its own."""
EVEN = 0.5


def direction_table(
    run: RunRecord,
    results: Sequence[RoundResult],
    judgements: Sequence[Judgement],
    reader: JsonReader,
    **bootstrap: Unpack[Bootstrap],
) -> Table:
    """One row for every two captionings that were judged; the measures are of the models trained on them."""
    judges = tuple(dict.fromkeys(judgement.judge for judgement in judgements))
    by_group = {result.group: result for result in results}
    rows = []
    for pair in dict.fromkeys(judgement.pair for judgement in judgements):
        rates = {given.judge: given for given in reversed(judgements) if given.pair == pair}
        layer, against = pair
        after, before = by_group.get(layer), by_group.get(BASELINES.get(against, against))
        changes: Mapping[str, Figure] = {}
        if after is not None and before is not None:
            changes = compare_two(run, before, after, reader, **bootstrap).changes
        figures = [_from_even(rates.get(judge)) for judge in judges]
        figures += [changes.get(name) for name in MAIN_MEASURES]
        rows.append(TableRow(f"{layer} over {against}", (*map(_cell, figures), _together(figures))))
    measures = (MEASURE_NAMES.get(name, name) for name in MAIN_MEASURES)
    named = (f"{judge} judge" for judge in judges)
    return Table(columns("Captions", *named, *measures, "Together"), tuple(rows))


def _from_even(judgement: Judgement | None) -> Figure | None:
    """How far a win rate is from undecided."""
    if judgement is None:
        return None
    rate = judgement.rate
    low, high = (None if end is None else end - EVEN for end in (rate.low, rate.high))
    return Figure(rate.value - EVEN, low, high, judgement.num_pairs)


def _cell(figure: Figure | None) -> Markup:
    """A difference in points with its interval, coloured by its direction."""
    text, span, verdict = NOT_RUN, "", ""
    if figure is not None:
        text, span, verdict = points(figure.value), figure.scaled(100).span(" to "), figure.verdict
    return Markup(" ").join((tag("span", text, class_=f"delta {verdict}"), tag("small", span)))


def _together(figures: Sequence[Figure | None]) -> str:
    """Whether all that have a direction have the same."""
    verdicts = [figure.verdict for figure in figures if figure is not None]
    clear = [verdict for verdict in verdicts if verdict in ("gain", "loss")]
    if len(set(clear)) > 1:
        return "they disagree"
    if not clear:
        return "none can tell"
    way = "better" if clear[0] == "gain" else "worse"
    return f"all say {way}" if len(clear) == len(verdicts) else f"{len(clear)} of {len(verdicts)} say {way}"
