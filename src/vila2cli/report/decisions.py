"""How captions and samples of a run came to be kept: tries, fallbacks and cuts, from the layers' summaries."""

from collections.abc import Mapping
from dataclasses import dataclass

from vila2cli.report.json_reader import real, whole
from vila2cli.report.run_folder import RunRecord, Stage
from vila2cli.report.wording import NOT_RUN, number, visible

FROM_MODEL = ("model", "merged")
"""Sources of a caption that a model wrote; the others are fallbacks, or needed no model."""
DECISIONS_NOTE = (
    "A caption that fails a check is asked for again with other sampling; where every try fails, the captions "
    "that were there before are kept. Each decision is in its annotation."
)

FILTER_NOTE = (
    "What vila2 filter keeps of each round, why it dropped the rest, and the worst score kept. A round is "
    "trained on it where pretrain.filtered says so."
)


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One layer: counts as text, and the defects met and the sources kept as `3 truncated, 1 refusal`."""

    stage: str
    cells: tuple[str, ...]
    defects: str
    sources: str


def decision_rows(run: RunRecord) -> list[DecisionRow]:
    """One row per layer of captions whose summary tells."""
    layers = [stage for stage in run.stages if stage.name in ("recaption", "rewrite")]
    return [_row(stage) for stage in layers if _counts(stage.summary.get("kept"))]


def _row(stage: Stage) -> DecisionRow:
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
    )
    return DecisionRow(stage.label, cells, _text(_counts(summary.get("defects"))), _text(kept))


@dataclass(frozen=True, slots=True)
class FilterRow:
    """One filter layer: counts as text, its drops as `3 duplicate, 1 refusal`, and its cuts in words."""

    stage: str
    cells: tuple[str, ...]
    dropped: str
    cuts: tuple[str, ...]


def filter_rows(run: RunRecord) -> list[FilterRow]:
    """One row per filter layer that has been decided."""
    return [_filter_row(stage) for stage in run.stages if stage.name == "filter" and stage.num_in]


def _filter_row(stage: Stage) -> FilterRow:
    cuts = stage.summary.get("cuts")
    ranked_by = visible(stage.summary.get("rank_by", ""), 40)
    return FilterRow(
        stage.label,
        (f"{stage.num_in:,}", f"{stage.num_out:,}", f"{100 * stage.num_out / stage.num_in:.1f} %"),
        _text(stage.dropped),
        tuple(_cut(cut, ranked_by) for cut in cuts if isinstance(cut, dict)) if isinstance(cuts, list) else (),
    )


def _cut(cut: Mapping[str, object], ranked_by: str) -> str:
    worst, first = real(cut.get("worst_kept")), whole(cut.get("from_tokens"))
    bucket = f" from {first:,} tokens on" if first else ""
    kept = f"{whole(cut.get('out')):,} of {whole(cut.get('in')):,} kept"
    return f"{ranked_by}{bucket}: {kept}" + (f", cut at {number(worst, 3)}" if worst is not None else "")


def _counts(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {visible(name, 60): whole(count) for name, count in value.items() if whole(count)}


def _text(counts: Mapping[str, int]) -> str:
    largest = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count:,} {name}" for name, count in largest) or "none"
