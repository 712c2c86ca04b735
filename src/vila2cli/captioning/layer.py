"""Writing a layer of captions from end to end: claim it, caption what is missing, sum it up.

Recaptioning and rewriting differ in the task and in the settings that decide; the rest is here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.ask.fill import Part, Task, annotate
from vila2cli.ask.opening import engine_settings, open_layer_engine
from vila2cli.captioning.provenance import Provenance
from vila2cli.captioning.summary import CaptionSummary, over_budget, summarise
from vila2cli.engine import Engine, dtype_of, identify, open_engine
from vila2cli.errors import DataError, RejectBudgetError
from vila2cli.files import read_json
from vila2cli.run.folder import Worker, claim, lock, select, write_json
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.settings import WritingSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import LayerWriter, Shard, Source, open_layer
from vila2cli.text.compose import filter_inputs

MakeTask = Callable[[Recipe, Provenance], Task[Any]]


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
    round: int | None

    def provenance(self) -> Provenance:
        """Who is asked; raises ModelError when the model is not there."""
        kind = self.settings.engine
        model, sha256 = identify(kind, self.model, self.recipe.api)
        return Provenance(
            model=model,
            model_sha256=sha256,
            round=self.round,
            draw=self._draw(sha256),
            dtype=dtype_of(kind, self.model, self.settings.dtype),
        )

    def _draw(self, model_sha256: str) -> int | str:
        """What prompts and seeds are drawn by: the round, else the one after the model's own, else the model.

        So another model draws other prompts, and a model of a run the same as in that run.
        """
        if self.round is not None:
            return self.round
        lineage = Path(self.model) / "vila2.json"
        is_local = self.settings.engine != "api" and lineage.is_file()
        before = read_json(lineage).get("round") if is_local else None
        return before + 1 if isinstance(before, int) else model_sha256

    def inputs(self) -> dict[str, Any]:
        """What decides the layer's content, as its manifest holds it; raises as `provenance` does."""
        provenance = self.provenance()
        return {
            "stage": self.layer,
            "round": self.round,
            **({"draw": provenance.draw} if self.round is None else {}),
            "seed": self.recipe.seed,
            "model_sha256": provenance.model_sha256,
            **provenance.dtype,
            **self.deciding,
            **({"api": self.recipe.api.deciding()} if self.settings.engine == "api" else {}),
            "base": self.source.outline(),
            **filter_inputs(self.source.layers),
        }

    def open_engine(self, stop: Stop) -> Engine:
        """An engine that writes no layer."""
        settings = engine_settings(self.settings, self.recipe.api)
        return open_engine(self.settings.engine, self.model, settings, stop)


def write_layer(job: Job, out_dir: Path, worker: Worker) -> CaptionSummary:
    """Write the worker's part of a caption layer, going on where it stopped; the summary is of all parts.

    Raises RecipeError when `out_dir` was begun with other settings, ModelError, DataError, Interrupted
    after a signal, and RejectBudgetError when too much went wrong: once everything is written, or as soon
    as the engine fails on more than that.
    """
    provenance, max_rate = job.provenance(), job.settings.max_reject_rate
    manifest = claim(out_dir, job.inputs(), job.recipe)
    with lock(out_dir, worker), interruptible() as stop:
        layer = open_layer(out_dir, layer=job.layer, source=job.source, manifest={"digest": manifest.digest})
        with stop.at_once():
            todo = layer.missing(select(job.source.shards, worker))
        try:
            if todo:
                _write_shards(job, provenance, layer, todo, stop)
        except (DataError, RejectBudgetError) as error:  # of some shards; what the others hold is said, too
            problem = over_budget(_sum_up(job, provenance, layer), max_rate)
            raise type(error)(f"{error}; {problem}" if problem else str(error)) from error
        summary = _sum_up(job, provenance, layer)
    if problem := over_budget(summary, max_rate):
        raise RejectBudgetError(problem)
    return summary


def _sum_up(job: Job, provenance: Provenance, layer: LayerWriter) -> CaptionSummary:
    """Gather the rejects of the shards that are done, by all workers, and write summary.json."""
    layer.finish()
    with layer.alone():
        summary = summarise(
            layer.folder, stage=job.layer, source=job.source, provenance=provenance, cost=job.recipe.cost
        )
        write_json(layer.folder / "summary.json", summary.to_json())
    return summary


def _write_shards(
    job: Job, provenance: Provenance, layer: LayerWriter, todo: Sequence[Shard], stop: Stop
) -> None:
    task = job.make_task(job.recipe, provenance)
    engine = open_layer_engine([layer], job.model, job.settings, job.recipe.api, stop)
    provenance.engine = engine.name
    rate = job.settings.max_reject_rate
    annotate(engine, [Part(layer, task, todo)], title=job.layer, stop=stop, max_reject_rate=rate)
