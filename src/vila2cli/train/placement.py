"""A training's objective and optimizer as accelerate places them: whole (DDP), or in parts (FSDP2, ZeRO)."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    patch_environment,
)
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Idefics3ForConditionalGeneration
from transformers.integrations import unset_hf_deepspeed_config

from vila2cli.errors import RecipeError, one_line
from vila2cli.ranks import Rank
from vila2cli.train import zero
from vila2cli.train.launch import Launch

_BF16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
"""As under autocast, gradients are summed and the loss is given in float32; accelerate's has bfloat16 there."""


def open_accelerator(rank: Rank, device: torch.device, launch: Launch) -> Accelerator:
    """The accelerator of a training whose processes have met already, in place of an earlier training's."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with patch_environment(**_variables(rank, device, launch)):
        if launch.strategy == "zero":
            with contextlib.redirect_stdout(sys.stderr):  # where its logger writes from then on
                return _open_zero(launch)
        if launch.strategy == "fsdp2" and rank.count > 1:
            return _open_fsdp2(device, launch)
        # A whole model is in bfloat16 by autocast, which `prepare` puts around its forward pass.
        return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if launch.is_bf16 else "no")


def _variables(rank: Rank, device: torch.device, launch: Launch) -> dict[str, Any]:
    """What accelerate goes by: it knows torchrun's variables and those of MPI, and nothing of Slurm's."""
    is_alone = rank.count == 1 and launch.strategy != "zero"
    return {
        "RANK": rank.index,
        "WORLD_SIZE": rank.count,
        "PMI_SIZE": rank.count,  # which it asks first, and may be of a shell around this process
        # DDP takes it for the device, of which a task of Slurm's may see one alone.
        "LOCAL_RANK": -1 if is_alone else rank.local if device.index is None else device.index,
        "LOCAL_WORLD_SIZE": rank.count,
        "OMP_NUM_THREADS": torch.get_num_threads(),  # else it sets a number of its own
        "ACCELERATE_TORCH_DEVICE": device,
        "ACCELERATE_USE_CPU": device.type == "cpu" and launch.strategy != "zero",
        "ACCELERATE_USE_DEEPSPEED": str(launch.strategy == "zero").lower(),
        "ACCELERATE_USE_FSDP": str(launch.strategy == "fsdp2").lower(),
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }


@contextlib.contextmanager
def _reading_the_config() -> Iterator[None]:
    """Raise RecipeError for what accelerate itself refuses of its config file."""
    try:
        yield
    except (ValueError, KeyError) as error:
        raise RecipeError(f"the config of `accelerate launch`: {one_line(error)}") from None


def _open_fsdp2(device: torch.device, launch: Launch) -> Accelerator:
    with _reading_the_config():
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="TRANSFORMER_BASED_WRAP",
            cpu_ram_efficient_loading=True,  # the weights of the first process, handed out one by one
            mixed_precision_policy=_BF16 if launch.is_bf16 else None,
        )
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", fsdp_plugin=plugin)
    if device.type == "cpu":
        # accelerate 1.15 drops FSDP on CPUs without a word: two processes with `distributed_type: FSDP` come
        # out as MULTI_CPU.
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def _open_zero(launch: Launch) -> Accelerator:
    import deepspeed  # noqa: F401

    # With torch 2.13 DeepSpeed 0.19 warns in every step of functions that it calls itself.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    with _reading_the_config():
        plugin = DeepSpeedPlugin()
    precision = "bf16" if launch.is_bf16 else "no"
    plugin.deepspeed_config["bf16"] = {"enabled": launch.is_bf16}
    # Without a named backend accelerate 1.15 starts no process group for DeepSpeed on CPUs (from its source).
    backend = InitProcessGroupKwargs(backend="nccl" if torch.cuda.is_available() else "gloo")
    accelerator = Accelerator(mixed_precision=precision, deepspeed_plugin=plugin, kwargs_handlers=[backend])
    unset_hf_deepspeed_config()  # with stage 3 transformers would part every model that is loaded from here on
    return accelerator


class Wrapped:
    """An objective and its optimizer, placed on the device, whose gradients are those of all processes."""

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        *,
        max_grad_norm: float,
    ) -> None:
        """Wrap `objective`, whose `model` is a transformers model; parameters become other objects."""
        self.optimizer = optimizer
        self._accelerator, self._max_grad_norm = accelerator, max_grad_norm
        accelerator.free_memory()
        is_zero = accelerator.distributed_type == DistributedType.DEEPSPEED
        if is_zero:
            names = os.environ.get("ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES", "").split(",")
            _check_classes(objective, filter(None, names), "deepspeed_moe_layer_cls_names")
            zero.settle(accelerator, objective, max_grad_norm)
        elif accelerator.distributed_type == DistributedType.FSDP:
            _name_layers(accelerator.state.fsdp_plugin, objective)
        else:
            # Others may have layers whose output nothing uses.
            uses_all = isinstance(objective.model, Idefics3ForConditionalGeneration)
            accelerator.ddp_handler = DistributedDataParallelKwargs(
                gradient_as_bucket_view=True, find_unused_parameters=not uses_all
            )
        said = contextlib.redirect_stdout(sys.stderr) if is_zero else contextlib.nullcontext()
        with said, _without_saved_buffers(objective, accelerator.is_fsdp2):
            self.objective, _ = accelerator.prepare(objective, optimizer)
        self._engine = self.objective if is_zero else None
        if is_zero:
            zero.begin(self._engine)

    @contextlib.contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Exchange gradients in the backward pass of a step's last micro-batch only."""
        if self._engine is not None:
            self._engine.set_gradient_accumulation_boundary(is_last)
        is_synced = is_last or self._engine is not None
        with contextlib.nullcontext() if is_synced else self._accelerator.no_sync(self.objective):
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch."""
        if self._engine is None:
            self._accelerator.backward(loss)
        else:
            # accelerate's own takes DeepSpeed's step at once, before the loss of all processes is known.
            self._engine.backward(loss)

    def step(self) -> float:
        """Clip the gradients, take a step and forget them; returns their norm."""
        if self._engine is not None:
            self._engine.step()
            return float(self._engine.get_global_grad_norm())
        fill_gradients(self.optimizer)
        norm = self._accelerator.clip_grad_norm_(self.objective.parameters(), self._max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def release(self) -> None:
        """Take the hooks off a whole model; one in parts needs them until its weights are gathered."""
        if self._engine is None:
            del self.objective
            self._accelerator.free_memory()


def _name_layers(plugin: FullyShardedDataParallelPlugin, objective: nn.Module) -> None:
    """Gather and give up each layer of the tower and the LLM for itself, the rest as one.

    Unless the config names classes; those that models name themselves may be of no module that they have,
    as Idefics3DecoderLayer is, and accelerate refuses them.
    """
    of_layers = {type(layer).__name__ for layer in layers(objective)}
    named = plugin.transformer_cls_names_to_wrap or sorted(of_layers)
    _check_classes(objective, named, "fsdp_transformer_layer_cls_to_wrap")
    plugin.transformer_cls_names_to_wrap = named


def _check_classes(objective: nn.Module, names: Iterable[str], key: str) -> None:
    """Raise RecipeError where none of the model's modules is of a class that the config names under `key`."""
    there = {type(module).__name__ for module in objective.modules()}
    if missing := [name for name in names if name not in there]:
        raise RecipeError(f"{key}: the model has no {', '.join(missing)}")


@contextlib.contextmanager
def _without_saved_buffers(objective: nn.Module, is_fsdp2: bool) -> Iterator[None]:
    """Keep buffers out of what accelerate's FSDP2 hands out: it takes them for parameters in parts."""
    changed: list[tuple[nn.Module, set[str]]] = []
    for module in objective.modules() if is_fsdp2 else ():
        changed.append((module, module._non_persistent_buffers_set))
        module._non_persistent_buffers_set = set(module._buffers)
    try:
        yield
    finally:
        for module, names in changed:
            module._non_persistent_buffers_set = names


def layers(model: nn.Module) -> list[nn.Module]:
    """The members of the model's lists of modules: the layers of its tower and of its LLM."""
    return [layer for module in model.modules() if isinstance(module, nn.ModuleList) for layer in module]


def fill_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Make a step's gradients zero where none of its forward passes had any, as other steps have them.

    Between processes a stand-in for the pictures sees to that.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if all(parameter.grad is None for parameter in parameters):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
