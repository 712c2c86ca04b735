"""What a layer of captions holds so far: counts, decisions, words and cost, from its stats files."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from vila2cli.ask.job import AskedLayer, counts_of
from vila2cli.ask.provenance import Provenance
from vila2cli.captioning.captioner import NOT_SELECTED
from vila2cli.captioning.rewriter import NOTHING
from vila2cli.run.cost import fewer_tiles_lines
from vila2cli.run.results import key
from vila2cli.run.written import empty_shards
from vila2cli.settings import CostSettings
from vila2cli.shards import Source, folder_figures
from vila2cli.shards.records import GROUPS
from vila2cli.shards.rejects import are_too_many

SKIPPED = (NOT_SELECTED, NOTHING)


@dataclass(frozen=True, kw_only=True)
class WordCount:
    """Words per caption written (VILA^2 table 1)."""

    mean: float
    sd: float

    @classmethod
    def of(cls, count: int, total: float, squares: float) -> "WordCount":
        """From the number of captions, the sum of their words and that of the squares."""
        mean = total / count if count else 0.0
        return cls(mean=mean, sd=math.sqrt(max(0.0, squares / count - mean**2)) if count else 0.0)


@dataclass(frozen=True, kw_only=True)
class CaptionSummary(AskedLayer):
    """A caption layer summed over its complete shards and all workers; the content of summary.json.

    `kept` counts captions by where they come from, `defects` failed attempts by what was wrong, `fallbacks`
    the images that got no good caption by what was wrong with the last attempt, `errors` those of the engine.
    The `reject_rate` is of those that were to get a caption, and counts fallbacks as well.
    """

    folder: Path = field(metadata={"key": ""})
    stage: str
    round: int | None
    model: str
    model_sha256: str
    num_requests: int = key("requests")
    num_retries: int = key("retries")
    num_retried: int = key("retried")
    words: WordCount
    alt_text_words: WordCount
    num_cut: int
    num_stripped: int
    finish_reasons: Mapping[str, int]
    prompts: Mapping[str, int]
    kept: Mapping[str, int]
    chosen_by: Mapping[str, int]
    defects: Mapping[str, int]
    fallbacks: Mapping[str, int]
    errors: Mapping[str, int]

    @property
    def num_selected(self) -> int:
        """Samples that were to get a caption: all but those left out on purpose."""
        return self.num_in - (sum(self.dropped.values()) - self.num_rejected)

    @property
    def num_fallbacks(self) -> int:
        return sum(self.fallbacks.values())

    def lines(self) -> list[str]:
        """The summary for the terminal."""
        return [
            f"{self.num_out:,} captions of {self.num_in:,} samples in {self.folder} "
            f"({self.num_shards_done} of {self.num_shards} shards); dropped: {_counts(self.dropped)}"
            f"{empty_shards(self.num_empty_shards)}",
            f"{self.words.mean:.1f} ± {self.words.sd:.1f} words (alt-text {self.alt_text_words.mean:.1f}), "
            f"{self.num_cut:,} cut back to a full sentence",
            f"kept: {_counts(self.kept)}; {self.num_retries:,} retries after {_counts(self.defects)}; "
            f"fell back: {_counts(self.fallbacks)}",
            *fewer_tiles_lines({"fewer_tiles": self.num_fewer_tiles}),
            self.cost.line(),
        ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"


def summarise(
    out_dir: Path, *, stage: str, source: Source, provenance: Provenance, cost: CostSettings
) -> CaptionSummary:
    """Sum the stats files of a caption layer."""
    names = [shard.name for shard in source.shards]
    total, counts = folder_figures(out_dir, names), counts_of(out_dir, names, cost)
    groups: dict[str, Any] = {name: dict(sorted((total[name] or {}).items())) for name in GROUPS}
    summary = CaptionSummary(
        **{**counts, **groups},
        folder=out_dir,
        stage=stage,
        round=provenance.round,
        model=provenance.model,
        model_sha256=provenance.model_sha256,
        num_requests=total["requests"],
        num_retries=total["retries"],
        num_retried=total["retried"],
        words=WordCount.of(total["captions"], total["words"], total["words_squared"]),
        alt_text_words=WordCount.of(total["captions"], total["alt_words"], total["alt_words_squared"]),
        num_cut=total["cut"],
        num_stripped=total["stripped"],
    )
    failed = summary.num_rejected + summary.num_fallbacks
    return replace(summary, reject_rate=failed / summary.num_selected if failed else 0.0)


def over_budget(summary: CaptionSummary, max_reject_rate: float, table: str) -> str | None:
    """What to tell when more got no good caption than this table of the recipe allows, else None."""
    num_failed = summary.num_rejected + summary.num_fallbacks
    if not are_too_many(summary.reject_rate, num_failed, max_reject_rate):
        return None
    rejected = {name: num for name, num in summary.dropped.items() if name not in SKIPPED}
    reasons = Counter(summary.fallbacks) + Counter(rejected)
    kind, num = max(summary.errors.items(), key=lambda one: one[1], default=("", 0))
    is_cut = 2 * reasons["truncated"] > reasons.total()
    where = (
        f"see {summary.folder}/rejects.jsonl"
        if rejected
        else f"vila2 shards show {quote(str(summary.folder))} has them"
    )
    return (
        f"{num_failed} of {summary.num_selected} samples "
        f"({summary.reject_rate:.1%}) got no good caption, above {table}.max_reject_rate "
        f"{max_reject_rate:.1%}: {_counts(reasons)}; "
        + (f"most were cut off at {table}.max_new_tokens, which can be raised; " if is_cut else "")
        + (f"the engine's commonest error, {num} times: {kind}; " if kind else "")
        + where
    )
