"""What is told of a phase's samples, and when too few of them can be used."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vila2cli.errors import RejectBudgetError
from vila2cli.model.layers import context_length
from vila2cli.run.cost import counted
from vila2cli.run.progress import minutes
from vila2cli.shards.rejects import are_too_many
from vila2cli.shards.sample import Reject
from vila2cli.train.data import Ints


def check_budget(name: str, num_kept: int, rejects: Sequence[Reject], budget: float, table: str) -> None:
    """Raise RejectBudgetError where a source has more unusable samples than `table` of the recipe allows."""
    if not rejects or not are_too_many(len(rejects) / (num_kept + len(rejects)), len(rejects), budget):
        return
    by_reason = Counter(reject.reason for reject in rejects).most_common()
    reasons = ", ".join(f"{count} {reason}" for reason, count in by_reason)
    first = rejects[0]
    raise RejectBudgetError(
        f"{name}: {len(rejects)} of {num_kept + len(rejects)} samples cannot be trained on ({reasons}), "
        f"more than {table}.max_reject_rate = {budget}; "
        f"the first is {first.key} in {first.shard}: {first.error}"
    )


def phase_line(figures: Mapping[str, Any]) -> str:
    """What a phase did, for the terminal: how much it was trained on, in what time, and its last loss."""
    text = (
        f"{figures['phase']}: {counted(figures['num_samples'], 'sample')}, {figures['num_tokens']:,} tokens in "
        f"{counted(figures['num_steps'], 'step')}, "
        f"{minutes(figures['seconds'])}; loss at the end {figures['final_loss']:.4g}"
    )
    return f"{text} (trained before, by another round)" if figures.get("trained_before") else text


def opening_lines(
    counts: Mapping[str, Mapping[str, int]], num_samples: int, batch_size: int, num_steps: int, table: str
) -> Iterator[str]:
    """What a phase is trained on, and what to set where an epoch has fewer samples than a batch takes."""
    parts = [
        f"{name} {c['samples']:,} samples, {c['tokens']:,} tokens"
        + (f" ({c['filtered']:,} filtered out)" if c["filtered"] else "")
        + (f" ({c['fewer_tiles']:,} in fewer tiles, to fit max_length)" if c.get("fewer_tiles") else "")
        for name, c in counts.items()
    ]
    yield f"{sum(c['samples'] for c in counts.values()):,} samples: {'; '.join(parts)}"
    if num_samples < batch_size:
        yield (
            f"a batch of {batch_size:,} is more than {counted(num_samples, 'sample')}, so that all of training "
            f"is {counted(num_steps, 'step')}; lower {table}.batch_size, or raise {table}.epochs"
        )


def beyond_lines(tokens: Ints, config: Any, table: str) -> list[str]:
    """How many samples, of so many tokens each, are longer than the language model has positions for."""
    context = context_length(config)
    if not (num := int((tokens > context).sum())):
        return []
    return [
        f"{counted(num, 'sample')} of up to {int(tokens.max()):,} tokens: the language model was made for "
        f"{context:,}; lower {table}.max_length to leave longer ones out"
    ]


def rejected_lines(num_rejected: int, path: str) -> list[str]:
    """How many samples could not be used and where they stand, nothing of none."""
    return [f"{counted(num_rejected, 'sample')} could not be used: {path}"] if num_rejected else []


def mixture_line(title: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Samples, tokens and images of each source, and its share of the tokens."""
    total = sum(f["tokens"] for f in figures.values()) or 1
    parts = [
        f"{name} {f['samples']:,.0f} samples, {f['tokens']:,.0f} tokens ({f['tokens'] / total:.1%}), "
        f"{f['images']:,.0f} images"
        for name, f in figures.items()
    ]
    return f"{title}: {'; '.join(parts)}"
