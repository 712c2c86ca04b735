"""Who fills layers: one engine in this process, or replicas where the machine has room for several."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2cli.ask.kept_answers import Answers
from vila2cli.ask.model import AskedModel
from vila2cli.ask.opening import open_layer_engine
from vila2cli.ask.replicas import Replicas
from vila2cli.engine import Engine, EngineSettings
from vila2cli.run.stopping import Stop
from vila2cli.run.workers import Worker
from vila2cli.shards import LayerWriter

if TYPE_CHECKING:
    from vila2cli.engine.placing import EnginePlan


@dataclass(frozen=True, slots=True)
class LayerOpener:
    """Opens the engine that writes layers."""

    layers: Sequence[LayerWriter]
    kind: str
    model: str
    settings: EngineSettings

    def __call__(self, worker: Worker, stop: Stop, held: ExitStack) -> Engine:
        return open_layer_engine(self.layers, self.kind, self.model, self.settings, stop)


@dataclass(frozen=True, slots=True)
class AskedOpener:
    """Opens the engine of a model that is asked; with `answers` they are kept, a file for each replica."""

    asked: AskedModel
    answers: Path | None
    limits: Mapping[str, Any]

    def __call__(self, worker: Worker, stop: Stop, held: ExitStack) -> Engine:
        engine = self.asked.open(stop)
        if self.answers is None:
            return engine
        return self.asked.keeping(engine, held.enter_context(Answers(self.answers, worker)), self.limits)


def _planned(
    kind: str, model: str, settings: EngineSettings, worker: Worker, stop: Stop, num_shards: int
) -> "tuple[EngineSettings, EnginePlan | None]":
    """The settings of one engine, and the plan of several where it takes processes of their own, else None.

    There are no more replicas than shards.
    """
    with stop.at_once():
        from vila2cli.devices import gpus, keep_to_share
        from vila2cli.engine.plans import of_one, plan_engines  # brings transformers, which takes seconds

        if worker.count > 1:  # one launcher may have started the node's other workers, whose GPUs are theirs
            keep_to_share()
        plan = plan_engines(kind, model, settings, is_worker=worker.count > 1)
    settings = of_one(settings, plan)
    if plan is None or not num_shards:
        return settings, None
    fewer = replace(plan, replicas=min(plan.replicas, num_shards))
    keeps_cores = plan.device == "core" and settings.machine.gpus != "all"
    keeps_gpus = plan.device == "gpu" and not plan.begins_with_first(gpus())
    return settings, fewer if fewer.replicas > 1 or keeps_cores or keeps_gpus else None


def open_layers(
    opener: LayerOpener, worker: Worker, stop: Stop, held: ExitStack, num_shards: int
) -> Engine | Replicas:
    """One engine for layers, or replicas of it."""
    settings, several = _planned(opener.kind, opener.model, opener.settings, worker, stop, num_shards)
    opener = replace(opener, settings=settings)
    if several is None:
        return opener(worker, stop, held)
    return held.enter_context(Replicas(opener, several, worker, stop))


def replicas_of(
    asked: AskedModel,
    worker: Worker,
    stop: Stop,
    num_shards: int,
    *,
    answers: Path | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Replicas | None:
    """Replicas that ask a model, None where one engine does."""
    if not num_shards:
        return None
    settings, several = _planned(asked.engine, asked.model, asked.settings, worker, stop, num_shards)
    if several is None:
        return None
    asked = replace(asked, settings=settings)
    return Replicas(AskedOpener(asked, answers, limits or {}), several, worker, stop)
