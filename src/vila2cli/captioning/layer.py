"""Writing a layer of captions from end to end: claim it, caption what is missing, sum it up.

Recaptioning and rewriting differ in the task and in the settings that decide; the rest is here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.captioning.provenance import Provenance
from vila2cli.captioning.summary import CaptionSummary, check_budget, summarise
from vila2cli.engine import Engine, EngineSettings, dtype_of, identify, open_engine
from vila2cli.engine.annotator import Annotator, Task
from vila2cli.progress import Progress
from vila2cli.recipe import Recipe
from vila2cli.run import Worker, api_key, claim, lock, select, write_json
from vila2cli.settings import WritingSettings
from vila2cli.shards import LayerWriter, Shard, Source, expected_samples, open_layer
from vila2cli.stopping import Stop, interruptible

MakeTask = Callable[[Recipe, Provenance], Task]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One layer to write: its name and settings, the task, and what of the recipe decides the captions."""

    layer: str
    recipe: Recipe
    settings: WritingSettings
    make_task: MakeTask
    deciding: Mapping[str, Any]
    source: Source
    model: str
    round: int

    def provenance(self) -> Provenance:
        """Who is asked; raises ModelError when the model is not there."""
        kind = self.settings.engine
        model, sha256 = identify(kind, self.model, self.recipe.api)
        dtype = dtype_of(kind, self.model, self.settings.dtype)
        return Provenance(model=model, model_sha256=sha256, round=self.round, dtype=dtype)

    def open_engine(self, stop: Stop) -> Engine:
        settings = EngineSettings(
            dtype=self.settings.dtype,
            batch_size=self.settings.batch_size,
            max_images=1,
            api=self.recipe.api,
            api_key=api_key(self.recipe.api),
        )
        return open_engine(self.settings.engine, self.model, settings, stop)


def write_layer(job: Job, out_dir: Path, worker: Worker) -> CaptionSummary:
    """Write the worker's part of a caption layer, going on where it stopped; the summary is of all parts.

    Raises RecipeError when `out_dir` was begun with other settings, ModelError, DataError, Interrupted
    after a signal, and RejectBudgetError once everything is written when too much went wrong.
    """
    provenance = job.provenance()
    inputs = {
        "stage": job.layer,
        "round": job.round,
        "seed": job.recipe.seed,
        "model_sha256": provenance.model_sha256,
        **provenance.dtype,
        **job.deciding,
        **({"api": job.recipe.api.deciding()} if job.settings.engine == "api" else {}),
        "base": job.source.outline(),
    }
    manifest = claim(out_dir, inputs, job.recipe)
    with lock(out_dir, worker), interruptible() as stop:
        layer = open_layer(out_dir, layer=job.layer, source=job.source, manifest={"digest": manifest.digest})
        with stop.at_once():
            todo = layer.missing(select(job.source.shards, worker))
        if todo:
            _write_shards(job, provenance, layer, todo, stop)
        layer.finish()
        with layer.alone():
            summary = summarise(
                out_dir, stage=job.layer, source=job.source, provenance=provenance, cost=job.recipe.cost
            )
            write_json(out_dir / "summary.json", summary.to_json())
    check_budget(summary, job.settings.max_reject_rate)
    return summary


def _write_shards(
    job: Job, provenance: Provenance, layer: LayerWriter, todo: Sequence[Shard], stop: Stop
) -> None:
    task = job.make_task(job.recipe, provenance)
    engine = job.open_engine(stop)
    provenance.engine = engine.name
    total, is_exact = expected_samples(todo)
    log_path = layer.folder / "log.jsonl"
    with Progress(job.layer, total, log_path=log_path, is_estimate=not is_exact) as progress:
        Annotator(engine, layer, task, stop=stop, progress=progress).run(todo)
