"""DeepSpeed's ZeRO: what its engine has to be told, and how its parts are read and written whole.

Stages 1 and 2 part the optimizer's state, stage 3 the weights as well. Every function is for all processes
together.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

_MOMENTS = ("exp_avg", "exp_avg_sq")


def settle(accelerator: Accelerator, objective: Any, max_grad_norm: float) -> None:
    """Fill in what DeepSpeed's config leaves to the trainer; batches are the recipe's, not DeepSpeed's."""
    config = accelerator.deepspeed_plugin.deepspeed_config
    config |= {
        "train_batch_size": accelerator.num_processes,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
    }
    objective.config = objective.model.config.get_text_config()  # buckets of size auto go by its width


def begin(engine: Any) -> None:
    """Make the optimizer's state, as torch does in its first step, so that a checkpoint's has its place."""
    partitioned = engine.optimizer
    optimizer = partitioned.optimizer
    is_fused = bool(optimizer.defaults.get("fused"))
    for flat in _flats(partitioned):
        device = flat.device if is_fused else torch.device("cpu")
        optimizer.state[flat] = {
            "step": torch.zeros((), device=device),
            **{name: torch.zeros_like(flat) for name in _MOMENTS},
        }
    # Stages 1 and 2 link it after a first step only.
    if hasattr(partitioned, "single_partition_of_fp32_groups"):
        from deepspeed.utils import lazy_init_hp_params_optimizer_state as link

        for parameters, flat in zip(partitioned.bit16_groups, _flats(partitioned), strict=True):
            link(parameters, flat, optimizer.state)


def _flats(partitioned: Any) -> list[Tensor]:
    """The part of this process, in float32, one vector for each group of parameters."""
    flats = getattr(partitioned, "single_partition_of_fp32_groups", None)
    return list(partitioned.fp32_partitioned_groups_flat if flats is None else flats)


def is_in_parts(tensor: Tensor) -> bool:
    """Whether ZeRO has parted a parameter or its optimizer's state."""
    return hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping")


def whole(parameter: Tensor) -> Tensor:
    """A parameter's values, in float32 where it is trained."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad:
        values: Tensor = safe_get_full_fp32_param(parameter)
        return values
    with GatheredParameters([parameter]):
        return parameter.detach().clone()


def put(parameter: Tensor, values: Tensor) -> None:
    """Set a parameter's values, here and in the float32 copy that is trained."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_set_full_fp32_param

    with GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
        parameter.copy_(values)
    if parameter.requires_grad:
        safe_set_full_fp32_param(parameter, values)


def whole_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of a parameter as torch's AdamW has it, whole; empty where it is not trained."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if not parameter.requires_grad:
        return {}
    values = {name: safe_get_full_optimizer_state(parameter, name) for name in _MOMENTS}
    return {"step": next(iter(optimizer.state.values()))["step"], **values}


def put_state(optimizer: torch.optim.Optimizer, parameter: Tensor, name: str, values: Tensor) -> None:
    """Set a parameter's part of the optimizer's state; all have taken as many steps."""
    from deepspeed.utils import safe_set_full_optimizer_state

    if name in _MOMENTS:
        safe_set_full_optimizer_state(parameter, values.to(parameter.device), name)
        return
    for state in optimizer.state.values():
        state[name].copy_(values)
