"""One training job: shards to samples, the phases of a stage one after another, a checkpoint folder.

Beside the stock transformers files a checkpoint holds `vila2.json` (what it was made from) and
`log.jsonl`, and `rejects.jsonl` when samples could not be used.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from vila2cli import __version__
from vila2cli.errors import DataError, ModelError, RejectBudgetError
from vila2cli.model.chat import Chat
from vila2cli.model.checkpoint import resolve_model
from vila2cli.model.quiet import quiet_transformers
from vila2cli.model.saving import save_checkpoint
from vila2cli.progress import Progress
from vila2cli.recipe import Recipe
from vila2cli.run import complete_folder, lock, write_json
from vila2cli.sample import Reject
from vila2cli.settings import TrainSettings
from vila2cli.shards import Source
from vila2cli.stopping import interruptible
from vila2cli.train.data import Compose, TrainSample, load_samples, num_batches
from vila2cli.train.loop import fit
from vila2cli.train.lora import adapted

LINEAGE_FILE = "vila2.json"


@dataclass(frozen=True, slots=True)
class DataSource:
    """A named source of training samples and how its samples become conversations."""

    name: str
    source: Source
    compose: Compose


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimizer run of a stage, over all its sources together."""

    name: str
    settings: TrainSettings
    sources: Sequence[DataSource]


def load_checkpoint(model: str | Path) -> tuple[PreTrainedModel, Any]:
    """A checkpoint in float32 with its processor; raises ModelError when it cannot be loaded."""
    folder = resolve_model(model)
    quiet_transformers()
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
        return loaded, AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{folder} cannot be loaded as an image-text model: {str(error).splitlines()[0]}"
        ) from None


def train_stage(
    stage: str,
    model: PreTrainedModel,
    processor: Any,
    phases: Sequence[Phase],
    *,
    recipe: Recipe,
    lineage: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Train all phases and write the checkpoint to `out`, whole or not at all.

    Returns the summary that is also in `vila2.json`. Raises RejectBudgetError above a phase's
    `max_reject_rate`, Interrupted on a signal between two steps.
    """
    with lock(out), interruptible() as stop, complete_folder(out) as partial:
        rejects: list[Reject] = []
        chat = Chat(processor)
        figures = []
        for phase in phases:
            samples, counts = _phase_samples(phase, chat, rejects, seed=recipe.seed)
            total = num_batches(
                len(samples), batch_size=phase.settings.batch_size, epochs=phase.settings.epochs
            )
            label = stage if phase.name == stage else f"{stage} {phase.name}"
            with Progress(label, total=total, unit="steps", log_path=partial / "log.jsonl") as progress:
                progress.note(_mixture_line(samples, counts))
                with adapted(model, phase.settings, partial, seed=recipe.seed):
                    result = fit(
                        model,
                        chat,
                        samples,
                        phase.settings,
                        seed=recipe.seed,
                        progress=progress,
                        mixed_precision="bf16" if recipe.base.dtype == "bfloat16" else "no",
                        check_stop=stop.check,
                    )
            figures.append({"phase": phase.name, "sources": counts, **asdict(result)})
        _save(model, processor, recipe, partial)
        if rejects:
            lines = [json.dumps(reject.to_json(), ensure_ascii=False) for reject in rejects]
            (partial / "rejects.jsonl").write_text("\n".join(lines) + "\n")
        summary = {
            "stage": stage,
            "vila2": __version__,
            "seconds": sum(f["seconds"] for f in figures),
            "num_rejected": len(rejects),
            "phases": figures,
            **lineage,
        }
        write_json(partial / LINEAGE_FILE, summary)
    return summary


def _save(model: PreTrainedModel, processor: Any, recipe: Recipe, folder: Path) -> None:
    if recipe.base.dtype == "bfloat16":
        model.bfloat16()
    save_checkpoint(model, processor, folder)


def _phase_samples(
    phase: Phase, chat: Chat, rejects: list[Reject], *, seed: int
) -> tuple[list[TrainSample], dict[str, dict[str, int]]]:
    """The samples of all sources of a phase, and what each source gave."""
    samples: list[TrainSample] = []
    counts: dict[str, dict[str, int]] = {}
    for data in phase.sources:
        before = len(rejects)
        filtered: list[str] = []
        found = load_samples(
            data.source,
            chat,
            data.compose,
            max_length=phase.settings.max_length,
            on_reject=rejects.append,
            on_filtered=filtered.append,
        )
        _check_budget(data.name, len(found), rejects[before:], phase.settings.max_reject_rate)
        limit = phase.settings.max_samples or len(found)
        samples += (chosen := found[:limit])
        counts[data.name] = {
            "samples": len(chosen),
            "tokens": sum(len(sample.ids) for sample in chosen),
            "images": sum(len(sample.images) for sample in chosen),
            "filtered": len(filtered),
            "rejected": len(rejects) - before,
        }
    if not samples:
        raise DataError(f"{phase.name}: there is nothing to train on in {', '.join(counts) or 'no sources'}")
    return samples, counts


def _check_budget(name: str, num_kept: int, rejects: Sequence[Reject], budget: float) -> None:
    if not rejects or len(rejects) <= budget * (num_kept + len(rejects)):
        return
    by_reason = Counter(reject.reason for reject in rejects).most_common()
    reasons = ", ".join(f"{count} {reason}" for reason, count in by_reason)
    first = rejects[0]
    raise RejectBudgetError(
        f"{name}: {len(rejects)} of {num_kept + len(rejects)} samples cannot be trained on ({reasons}), "
        f"more than max_reject_rate = {budget}; the first is {first.key} in {first.shard}: {first.error}"
    )


def _mixture_line(samples: Sequence[TrainSample], counts: dict[str, dict[str, int]]) -> str:
    parts = [
        f"{name} {c['samples']:,} samples, {c['tokens']:,} tokens"
        + (f" ({c['filtered']:,} filtered out)" if c["filtered"] else "")
        for name, c in counts.items()
    ]
    return f"{len(samples):,} samples: {'; '.join(parts)}"
