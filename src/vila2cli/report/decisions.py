"""How captions and samples of a run came to be kept: tries, fallbacks and cuts, from the layers' summaries."""

from collections.abc import Mapping

from markupsafe import Markup

from vila2cli.report.json_reader import real, table_of, tables_of, whole
from vila2cli.report.run_folder import RunRecord, StageRecord
from vila2cli.report.tables import Table, TableRow, columns
from vila2cli.report.wording import NOT_RUN, number, visible

FROM_MODEL = ("model", "merged")
"""Sources of a caption that a model wrote; the others are fallbacks, or needed no model."""
_COLUMNS = columns(
    "Layer",
    num=("Captions", "Requests per image", "First try", "After a retry", "Fell back"),
    long=("Defects met", "Kept from"),
)
_FILTER_COLUMNS = columns("Layer", num=("Samples", "Kept", "Share"), long=("Dropped", "Cut"))


def decision_table(run: RunRecord) -> Table:
    """Per layer of captions: counts, and defects met and sources kept as `3 truncated, 1 refusal`."""
    layers = [stage for stage in run.stages if stage.name in ("recaption", "rewrite")]
    return Table(_COLUMNS, tuple(_row(stage) for stage in layers if _counts(stage.summary.get("kept"))))


def _row(stage: StageRecord) -> TableRow:
    summary = stage.summary
    kept, images = _counts(summary.get("kept")), whole(summary.get("images"))
    written = sum(count for source, count in kept.items() if source in FROM_MODEL)
    retried = min(whole(summary.get("retried")), written)
    cells = (
        f"{sum(kept.values()):,}",
        number(whole(summary.get("requests")) / images, 2) if images else NOT_RUN,
        f"{written - retried:,}",
        f"{retried:,}",
        f"{sum(_counts(summary.get('fallbacks')).values()):,}",
        _text(_counts(summary.get("defects"))),
        _text(kept),
    )
    return TableRow(stage.label, cells)


def filter_table(run: RunRecord) -> Table:
    """Per filter layer that has been decided: counts, its drops, and its cuts in words."""
    rows = (_filter_row(stage) for stage in run.stages if stage.name == "filter" and stage.num_in)
    return Table(_FILTER_COLUMNS, tuple(rows))


def _filter_row(stage: StageRecord) -> TableRow:
    ranked_by = visible(stage.summary.get("rank_by", ""), 40)
    cuts = [_cut(cut, ranked_by) for cut in tables_of(stage.summary.get("cuts"))]
    share = f"{100 * stage.num_out / stage.num_in:.1f} %"
    counts = (f"{stage.num_in:,}", f"{stage.num_out:,}", share, _text(stage.dropped))
    return TableRow(stage.label, (*counts, Markup("<br>").join(cuts or ["none"])))


def _cut(cut: Mapping[str, object], ranked_by: str) -> str:
    worst, first = real(cut.get("worst_kept")), whole(cut.get("from_tokens"))
    bucket = f" from {first:,} tokens on" if first else ""
    kept = f"{whole(cut.get('out')):,} of {whole(cut.get('in')):,} kept"
    return f"{ranked_by}{bucket}: {kept}" + (f", cut at {number(worst, 3)}" if worst is not None else "")


def _counts(value: object) -> dict[str, int]:
    return {visible(name, 60): whole(count) for name, count in table_of(value).items() if whole(count)}


def _text(counts: Mapping[str, int]) -> str:
    largest = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count:,} {name}" for name, count in largest) or "none"
