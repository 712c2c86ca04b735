"""What a filter kept and dropped: summary.json, its lines for the terminal, and when it is too little."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RejectBudgetError
from vila2cli.filtering.deciding import HeldOut
from vila2cli.filtering.job import FilterJob
from vila2cli.filtering.selection import Cut
from vila2cli.run.cost import cost_of, fewer_tiles_lines, three_digits
from vila2cli.run.written import LayerCounts, empty_shards, layer_counts
from vila2cli.settings import FilterSettings
from vila2cli.shards import folder_figures, folder_stats
from vila2cli.shards.rejects import are_too_many
from vila2cli.shards.sample import FILTER


@dataclass(frozen=True, kw_only=True)
class FilterSummary(LayerCounts):
    """What a filter layer kept, where the shares were cut, and the cost of its scores; summary.json.

    `held_out` counts the evaluation images it was compared with, `control` is the summary of a control drawn at
    random. What a stage returns is `decided`, by all workers.
    """

    decided: bool = False
    stage: str
    round: int | None
    model: str | None
    model_sha256: str | None
    tokens_in: int
    tokens_out: int
    held_out: Mapping[str, Any] | None
    where: Sequence[str] | None = None
    top: Mapping[str, Any] | None = None
    rank_by: str
    cuts: Sequence[Mapping[str, Any]]
    cost: Mapping[str, Any]
    control: Mapping[str, Any] | None = None

    def lines(self) -> Iterator[str]:
        """The summary for the terminal."""
        counts = f"kept {self.num_out:,} of {self.num_in:,} samples; dropped: {_dropped(self) or 'none'}"
        yield counts + empty_shards(self.num_empty_shards)
        if self.tokens_in:
            yield f"{self.tokens_out:,} of {self.tokens_in:,} caption tokens"
        yield from fewer_tiles_lines({"fewer_tiles": self.num_fewer_tiles})
        if self.held_out is not None:
            yield _held_out_line(self.held_out)
        elif self.where is not None:
            yield "evaluation images were not looked for: filter.overlap is none, as by default with conditions"
        for cut in self.cuts:
            bucket = f" from {cut['from_tokens']} tokens on" if len(self.cuts) > 1 else ""
            worst = "none" if cut["worst_kept"] is None else f"{cut['worst_kept']:.4g}"
            yield f"{self.rank_by}{bucket}: {cut['out']:,} of {cut['in']:,} kept, cut at {worst}"
        if self.control is not None:
            tokens = self.control["tokens_out"]
            yield f"random control: {self.control['out']:,} samples, {tokens:,} caption tokens"
        hours = f"{three_digits(self.cost['hours_per_1k_images'])} {self.cost['device']} per 1,000 images"
        done = "read" if self.where is not None and self.model is None else "scored"
        yield f"{done} at {three_digits(self.cost['images_per_s'])} images/s, {hours}"


def summarise(
    job: FilterJob, folder: Path, cuts: Sequence[Cut], held_out: HeldOut, scores_dir: Path | None = None
) -> FilterSummary:
    """Sum the stats files of a filter layer.

    `scores_dir` is the folder whose stats files say what that was, where it is not the layer of scores.
    """
    stats = folder_stats(folder, job.names)
    scored = folder_figures(scores_dir or job.scores_dir, job.names)
    tasks = {"tasks": list(job.tasks), **_without_num(held_out)}
    return FilterSummary(
        stage=FILTER,
        **who(job),
        **layer_counts(
            replace(stats, num_fewer_tiles=round(scored["fewer_tiles"])),
            num_shards=len(job.names),
            num_images=scored["answered"],
        ),
        tokens_in=int(scored["tokens"]),
        tokens_out=stats.tokens,
        held_out=tasks if job.settings.overlap != "none" else None,
        **_by_metadata(job.settings),
        rank_by=job.settings.rank_by,
        cuts=[_cut_json(cut, job.settings) for cut in cuts],
        cost=cost_of(job.recipe.cost, scored).to_json(),
    )


def _by_metadata(settings: FilterSettings) -> dict[str, Any]:
    if not settings.by_metadata:
        return {}
    return {"where": list(settings.where), "top": settings.top.deciding() if settings.top.field else None}


def _without_num(held_out: HeldOut) -> dict[str, int]:
    return {name.removeprefix("num_"): value for name, value in dataclasses.asdict(held_out).items()}


def who(job: FilterJob) -> dict[str, Any]:
    """What a summary says of who scored."""
    model, model_sha256 = job.provenance or job.similarity or (None, None)
    return {
        "round": job.round,
        "model": model,
        "model_sha256": model_sha256,
    }


def _cut_json(cut: Cut, settings: FilterSettings) -> dict[str, Any]:
    """One length bucket: its first length in tokens, what it kept, and the score at which it was cut."""
    edges = [0, *sorted(settings.length_buckets)]
    lowest_first = settings.rank_by in ("perplexity", "text-perplexity")
    value = cut.rank if cut.rank is None or lowest_first else -cut.rank
    return {
        "from_tokens": edges[cut.bucket],
        "out": cut.num_kept,
        "in": cut.num_ranked,
        "worst_kept": value,
    }


_NO_FILES = "their archives hold no files; give shards with samples"


def check_budget(summary: FilterSummary, out_dir: Path, max_reject_rate: float) -> None:
    """Raise RejectBudgetError when too large a share could not be scored, or when nothing is kept,
    and DataError when there was nothing to keep."""
    if are_too_many(summary.reject_rate, summary.num_rejected, max_reject_rate):
        raise RejectBudgetError(
            f"{summary.num_rejected} of {summary.num_in} samples ({summary.reject_rate:.1%}) could not be "
            f"scored, above filter.max_reject_rate {max_reject_rate:.1%}; see {out_dir}/rejects.jsonl"
        )
    if not summary.num_in:
        raise DataError(f"there is no sample in the shards of {out_dir}: {_NO_FILES}")
    if not summary.num_out:
        raise RejectBudgetError(
            f"none of {summary.num_in:,} samples is kept in {out_dir}: {_dropped(summary)}; look at them with "
            "--explain and change the settings of [filter]"
        )


def _dropped(summary: FilterSummary) -> str:
    return ", ".join(f"{num:,} {reason}" for reason, num in summary.dropped.items())


def _held_out_line(held_out: Mapping[str, Any]) -> str:
    if not held_out["tasks"]:
        return "compared with no evaluation images: eval.tasks is empty and no --tasks were given"
    line = f"compared with {held_out['images']:,} evaluation images of {len(held_out['tasks'])} tasks"
    if held_out["undecodable"]:
        line += f"; {held_out['undecodable']:,} cannot be decoded, only their exact copies are found"
    if held_out["rejected"]:
        line += f"; {held_out['rejected']:,} samples of the tasks cannot be read and were not compared"
    return line
