"""Layers from end to end: claim them, ask what is missing, sum up, and say whether too much went wrong.

Recaptioning, rewriting, relabelling and scoring differ in what a `Job` says; the rest is here.
"""

import dataclasses
import gc
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from vila2cli.ask.annotate import annotate
from vila2cli.ask.fill import Part, SampleTask, Together
from vila2cli.ask.kept_answers import ANSWERS_FILE, Answers, Kept
from vila2cli.ask.opening import engine_settings, open_layer_engine
from vila2cli.ask.pool import LayerOpener, open_layers
from vila2cli.ask.replicas import Replicas
from vila2cli.engine import Engine, EngineSettings, open_engine
from vila2cli.errors import DataError, RejectBudgetError
from vila2cli.model.adapter import read_adapter
from vila2cli.run.cost import Cost, cost_of
from vila2cli.run.folder import claim, digest, write_json
from vila2cli.run.locks import lock
from vila2cli.run.results import StageResult, key
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.run.workers import Worker, select
from vila2cli.run.written import LayerCounts, layer_counts
from vila2cli.settings import AskedSettings, AskingStage, CostSettings, FilterSettings, WritingSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import LayerWriter, Source, done, folder_figures, folder_stats, open_layer

Summary = TypeVar("Summary", bound=StageResult)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Summary]):
    """A layer to write over `source`: what decides it, who is asked what, and how it is summed up.

    `stage` says which [engine] holds, and `inputs` is what the layer's manifest holds. `settings` are those of
    the engine; where there is no `model` none is opened, and no task may ask. `asked` is for a model that is
    not asked as they say. Jobs of one `pass_of` are asked together, and one that `uses` layers of others waits
    for them sample by sample. `make_task` is given the engine's name, "" without one. What `summarise` returns
    is written to summary.json; `problem` says in one line why it is too little, None where it is not.
    `max_reject_rate` is that of the recipe's `table`.
    """

    layer: str
    stage: AskingStage
    recipe: Recipe
    source: Source
    inputs: Mapping[str, Any]
    model: str | None
    adapter: str = ""
    settings: WritingSettings | FilterSettings
    asked: AskedSettings | None = None
    pass_of: str = ""
    uses: tuple[str, ...] = ()
    make_task: Callable[[str], SampleTask[Any]]
    together: Together | None = None
    summarise: Callable[[LayerWriter], Summary]
    problem: Callable[[Summary], str | None]
    max_reject_rate: float = 1.0
    table: str = ""
    title: str
    note: str = ""
    log_path: Path | None = None
    may_grow: bool = False


def open_for(jobs: Sequence[Job[Any]], stop: Stop) -> Engine:
    """An engine for jobs of one pass that writes no layer."""
    first = jobs[0]
    assert first.model is not None, "there is somebody to ask"
    return open_engine(first.settings.engine, first.model, together_settings(jobs), stop)


_Claimed = tuple[Job[Summary], LayerWriter]


def write_layers(jobs: Sequence[tuple[Job[Summary], Path]], worker: Worker | None = None) -> list[Summary]:
    """Write the worker's part of each job's layer into its folder, going on where it stopped.

    The summaries are of all workers' parts. Adapters of one checkpoint, and caption layers of one command, are
    asked together, in one engine and one pass over the shards, and write what each would write alone; a job
    that fails does not keep the others from being done. Raises RecipeError when a folder was begun with other
    settings, ModelError, DataError, BudgetError, Interrupted after a signal, and RejectBudgetError when too
    much went wrong: once everything is written, or as soon as the engine fails on more than that. Of several
    errors the first is raised.
    """
    worker = worker or Worker()
    errors: list[DataError | RejectBudgetError] = []
    with ExitStack() as held:
        stop = held.enter_context(interruptible())
        claimed = [(job, _claim(job, out, worker, held)) for job, out in jobs]
        groups = _groups(claimed)
        for group in groups:
            try:
                _ask_missing(group, worker, stop)
            except (DataError, RejectBudgetError) as error:  # what the others hold is summed up all the same
                error.__context__ = error.__cause__ = None  # they, and the traceback, would hold the engine
                errors.append(error.with_traceback(None))
            gc.collect()  # the next group's engine may need the memory of this one's
        summaries = [_sum_up(job, layer) for job, layer in claimed]
        for group in groups:
            _forget_answers(group)
    told = (job.problem(summary) for (job, _), summary in zip(jobs, summaries, strict=True))
    problems = [problem for problem in told if problem]
    if errors:
        raise type(errors[0])("; ".join([str(errors[0]), *problems])) from errors[0]
    if problems:
        raise RejectBudgetError(problems[0])
    return summaries


def _claim(job: Job[Summary], out: Path, worker: Worker, held: ExitStack) -> LayerWriter:
    manifest = claim(out, job.inputs, job.recipe, model=job.adapter or job.model or "")
    held.enter_context(lock(out, worker))
    return open_layer(
        out,
        layer=job.layer,
        source=job.source,
        manifest={"digest": manifest.digest},
        may_grow=job.may_grow,
        is_packed=job.recipe.data.compress_layers,
    )


def _groups(claimed: Sequence[_Claimed[Summary]]) -> list[list[_Claimed[Summary]]]:
    """Who is asked together: adapters over one checkpoint that are asked alike, and the jobs of a pass."""
    groups: dict[Hashable, list[_Claimed[Summary]]] = {}
    for job, layer in claimed:
        key: Hashable = job.pass_of or layer.folder
        if job.adapter:
            key = read_adapter(job.adapter).base_sha256, digest(_asked(job))
        groups.setdefault(key, []).append((job, layer))
    return list(groups.values())


def _ask_missing(group: Sequence[_Claimed[Summary]], worker: Worker, stop: Stop) -> None:
    """One pass over the shards that the layers of a group lack."""
    todo = []
    for job, layer in group:
        with stop.at_once():
            missing = layer.missing(select(job.source.shards, worker))
        if missing:
            todo.append((job, layer, missing))
    if not todo:
        return
    jobs, first = [job for job, _, _ in todo], todo[0][0]
    by_name = {job.layer: layer for job, layer in group}
    with ExitStack() as held:
        num_shards = len({shard for _, _, missing in todo for shard in missing})
        home = group[0][1].folder
        engine = _open([(job, layer) for job, layer, _ in todo], home, worker, stop, held, num_shards)
        name = "" if engine is None else engine.name
        parts = [
            Part(layer, job.make_task(name), missing, tuple(by_name[one] for one in job.uses), table=job.table)
            for job, layer, missing in todo
        ]
        annotate(
            engine,
            parts,
            title=", ".join([first.title, *(job.layer for job in jobs[1:])]),
            stop=stop,
            max_reject_rate=max(job.max_reject_rate for job in jobs),
            together=first.together,
            note=first.note,
            log_path=first.log_path,
        )


def _open(
    todo: Sequence[_Claimed[Summary]], home: Path, worker: Worker, stop: Stop, held: ExitStack, num_shards: int
) -> Engine | Replicas | None:
    """The engine of these layers; answers of a server are kept in `home` until the layers are complete."""
    first, layers = todo[0][0], [layer for _, layer in todo]
    if first.model is None:
        return None
    api, adapters = first.recipe.api, [job.adapter for job, _ in todo if job.adapter]
    settings = together_settings([job for job, _ in todo], adapters)
    if first.settings.engine != "api":
        opener = LayerOpener(layers, first.settings.engine, first.model, settings)
        return open_layers(opener, worker, stop, held, num_shards)
    engine = open_layer_engine(layers, "api", first.model, settings, stop)
    answers = held.enter_context(Answers(home / ANSWERS_FILE, worker))
    if len(answers):
        engine.notes.append(f"{len(answers):,} answers of earlier runs are kept in {home}")
    # Not the address: a server that moved is the same to a layer.
    return Kept(engine, answers, {**api.deciding(), **first.recipe.data.limits(), **_asked(first)})


def together_settings(jobs: Sequence[Job[Any]], adapters: Sequence[str] = ()) -> EngineSettings:
    """What the engine of jobs that are asked in one pass needs to know."""
    first = jobs[0]
    each = [
        engine_settings(
            job.settings, job.recipe.api, job.recipe.engine_of(job.stage), adapters, job.asked or first.asked
        )
        for job in jobs
    ]
    per_image = max(len(adapters), sum(one.requests_per_image for one in each) if first.pass_of else 1)
    return dataclasses.replace(
        each[0],
        requests_per_image=max(per_image, each[0].requests_per_image),
        parts=len(jobs) if first.pass_of else 1,
    )


def _asked(job: Job[Any]) -> dict[str, Any]:
    """What is set of how a job's model is asked, for what is compared; nothing where nothing is."""
    asked = (job.asked or job.settings.asked()).inputs()
    return {"asked": asked} if asked else {}


def _sum_up(job: Job[Summary], layer: LayerWriter) -> Summary:
    """Gather the rejects of the shards that are done, by all workers, and write summary.json."""
    layer.finish()
    with layer.alone():
        summary = job.summarise(layer)
        write_json(layer.folder / "summary.json", summary.to_json())
    return summary


def _forget_answers(group: Sequence[_Claimed[Summary]]) -> None:
    """Remove the answers kept for layers, once all of them are complete."""
    if all(layer.done() >= {shard.name for shard in job.source.shards} for job, layer in group):
        for _, layer in group:
            with layer.alone():
                Answers(layer.folder / ANSWERS_FILE).remove()


@dataclass(frozen=True, kw_only=True)
class AskedLayer(LayerCounts):
    """The counts of a layer that a model was asked for, and their cost."""

    num_shards_done: int
    num_tokens: int = key("tokens")
    num_bytes: int = key("bytes")
    seconds: float
    cost: Cost


def counts_of(folder: Path, names: Sequence[str], cost: CostSettings) -> dict[str, Any]:
    """The fields of `AskedLayer`, of the shards by these names."""
    stats, figures = folder_stats(folder, names), folder_figures(folder, names)
    return {
        **layer_counts(stats, num_shards=len(names), num_images=figures["answered"]),
        "num_shards_done": len(done(folder) & set(names)),
        "num_tokens": stats.tokens,
        "num_bytes": stats.bytes,
        "seconds": stats.seconds,
        "cost": cost_of(cost, figures),
    }
