"""What a layer of captions holds so far: counts, decisions, words and cost, from its stats files."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.ask.provenance import Provenance
from vila2cli.captioning.captioner import NOT_SELECTED
from vila2cli.captioning.rewriter import NOTHING
from vila2cli.run.cost import Cost, cost_of
from vila2cli.settings import CostSettings
from vila2cli.shards import Source
from vila2cli.shards.records import read_stats

SKIPPED = (NOT_SELECTED, NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionSummary:
    """A caption layer summed over its complete shards and all workers.

    `words` and `alt_text_words` are mean and standard deviation per caption written (VILA^2 table
    1). `kept` counts captions by where they come from, `defects` failed attempts by what was wrong,
    `fallbacks` the images that got no good caption by what was wrong with the last attempt, `errors` those
    of the engine.
    """

    stage: str
    out: str
    round: int | None
    model: str
    model_sha256: str
    num_shards: int
    num_shards_done: int
    num_in: int
    num_out: int
    dropped: Mapping[str, int]
    num_rejected: int
    num_tokens: int
    num_requests: int
    num_retries: int
    num_retried: int
    words: tuple[float, float]
    alt_text_words: tuple[float, float]
    num_cut: int
    num_stripped: int
    finish_reasons: Mapping[str, int]
    prompts: Mapping[str, int]
    kept: Mapping[str, int]
    chosen_by: Mapping[str, int]
    defects: Mapping[str, int]
    fallbacks: Mapping[str, int]
    errors: Mapping[str, int]
    cost: Cost

    @property
    def num_selected(self) -> int:
        """Samples that were to get a caption: all but those left out on purpose."""
        return self.num_in - (sum(self.dropped.values()) - self.num_rejected)

    @property
    def num_fallbacks(self) -> int:
        return sum(self.fallbacks.values())

    @property
    def reject_rate(self) -> float:
        """Samples rejected or fallen back, as a share of those that were to get a caption."""
        failed = self.num_rejected + self.num_fallbacks
        return failed / self.num_selected if self.num_selected else 0.0

    def to_json(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {
            "stage": self.stage,
            "round": self.round,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "num_shards": self.num_shards,
            "num_shards_done": self.num_shards_done,
            "in": self.num_in,
            "out": self.num_out,
            "dropped": dict(self.dropped),
            "rejected": self.num_rejected,
            "reject_rate": self.reject_rate,
            "images": self.cost.num_images,
            "tokens": self.num_tokens,
            "requests": self.num_requests,
            "retries": self.num_retries,
            "retried": self.num_retried,
            "words": {"mean": self.words[0], "sd": self.words[1]},
            "alt_text_words": {"mean": self.alt_text_words[0], "sd": self.alt_text_words[1]},
            "num_cut": self.num_cut,
            "num_stripped": self.num_stripped,
            "finish_reasons": dict(self.finish_reasons),
            "prompts": dict(self.prompts),
            "kept": dict(self.kept),
            "chosen_by": dict(self.chosen_by),
            "defects": dict(self.defects),
            "fallbacks": dict(self.fallbacks),
            "errors": dict(self.errors),
            "cost": self.cost.to_json(),
        }

    def lines(self) -> list[str]:
        """The summary for the terminal."""
        return [
            f"{self.num_out:,} captions of {self.num_in:,} samples in {self.out} "
            f"({self.num_shards_done} of {self.num_shards} shards); dropped: {_counts(self.dropped)}",
            f"{self.words[0]:.1f} +- {self.words[1]:.1f} words (alt-text {self.alt_text_words[0]:.1f}), "
            f"{self.num_cut:,} cut back to a full sentence",
            f"kept: {_counts(self.kept)}; {self.num_retries:,} retries after {_counts(self.defects)}; "
            f"fell back: {_counts(self.fallbacks)}",
            self.cost.line(),
        ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"


def summarise(
    out_dir: Path, *, stage: str, source: Source, provenance: Provenance, cost: CostSettings
) -> CaptionSummary:
    """Sum the stats files of a caption layer."""
    names = [shard.name for shard in source.shards if (out_dir / f"{shard.name}.stats.json").is_file()]
    total: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for name in names:
        stats = read_stats(out_dir / f"{name}.stats.json")
        dropped.update(stats.get("dropped", {}))
        total.update({key: value for key, value in stats.items() if isinstance(value, int | float)})
    return CaptionSummary(
        stage=stage,
        out=str(out_dir),
        round=provenance.round,
        model=provenance.model,
        model_sha256=provenance.model_sha256,
        num_shards=len(source.shards),
        num_shards_done=len(names),
        num_in=total["in"],
        num_out=total["out"],
        dropped=dict(sorted(dropped.items())),
        num_rejected=total["rejected"],
        num_tokens=total["tokens"],
        num_requests=total["requests"],
        num_retries=total["retries"],
        num_retried=total["retried"],
        words=_mean_sd(total["captions"], total["words"], total["words_squared"]),
        alt_text_words=_mean_sd(total["captions"], total["alt_words"], total["alt_words_squared"]),
        num_cut=total["cut"],
        num_stripped=total["stripped"],
        finish_reasons=_with_prefix(total, "finish_"),
        prompts=_with_prefix(total, "prompt_"),
        kept=_with_prefix(total, "kept_"),
        chosen_by=_with_prefix(total, "by_"),
        defects=_with_prefix(total, "defect_"),
        fallbacks=_with_prefix(total, "fallback_"),
        errors=_with_prefix(total, "error_"),
        cost=cost_of(cost, total),
    )


def _mean_sd(count: int, total: float, squares: float) -> tuple[float, float]:
    if not count:
        return 0.0, 0.0
    mean = total / count
    return mean, math.sqrt(max(0.0, squares / count - mean**2))


def _with_prefix(figures: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {key.removeprefix(prefix): value for key, value in sorted(figures.items()) if key.startswith(prefix)}


def over_budget(summary: CaptionSummary, max_reject_rate: float) -> str | None:
    """What to tell when the share without a good caption is above the recipe's limit, else None."""
    if summary.reject_rate <= max_reject_rate:
        return None
    rejected = {name: num for name, num in summary.dropped.items() if name not in SKIPPED}
    reasons = Counter(summary.fallbacks) + Counter(rejected)
    kind, num = max(summary.errors.items(), key=lambda one: one[1], default=("", 0))
    where = f"see {summary.out}/rejects.jsonl" if rejected else f"vila2 shards show {summary.out} has them"
    return (
        f"{summary.num_rejected + summary.num_fallbacks} of {summary.num_selected} samples "
        f"({summary.reject_rate:.1%}) got no good caption, above max_reject_rate {max_reject_rate:.1%}: "
        f"{_counts(reasons)}; "
        + (f"the engine's commonest error, {num} times: {kind}; " if kind else "")
        + where
    )
