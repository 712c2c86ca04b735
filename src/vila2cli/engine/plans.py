"""The plan of a model's engines on this machine, which a stage goes by and `vila2 check` tells."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from vila2cli.devices import Gpu, gpus
from vila2cli.engine import EngineSettings, choose_engine, dtype_of
from vila2cli.engine.placing import EnginePlan, Shape, plan_cores, plan_gpus
from vila2cli.model.adapter import base_of
from vila2cli.model.checkpoint import resolve_model
from vila2cli.model.loading import outline
from vila2cli.model.tiles import most_tokens


def plan_engines(
    kind: str,
    model: str,
    settings: EngineSettings,
    *,
    is_worker: bool = False,
    devices: Sequence[Gpu] | None = None,
) -> EnginePlan | None:
    """How many engines of which devices ask a model; None for a server's. `devices` stand for this machine's.

    Raises ModelError as `plan_gpus` does, and for a model that is not there. Weights are not read.
    """
    if kind == "api":
        return None
    found = gpus() if devices is None else devices
    if not found:
        return plan_cores(settings.machine, torch.get_num_threads())
    folder = resolve_model(base_of(model))
    return plan_gpus(
        Shape.of(outline(folder), most_tokens(folder)),
        found,
        settings.machine,
        kind=choose_engine(kind, folder, settings.adapters).kind,
        batch_size=settings.batch_size,
        itemsize=4 if dtype_of(kind, model, settings.dtype)["dtype"] == "float32" else 2,
        is_worker=is_worker,
    )


def of_one(settings: EngineSettings, plan: EnginePlan | None) -> EngineSettings:
    """The settings of one engine of a plan, which sees the devices that it was given."""
    if plan is None or plan.device == "core":
        return settings
    own = {"gpus": "all", "replicas": 1, "tensor_parallel": plan.per_replica}
    return replace(settings, machine=settings.machine.model_copy(update=own))
