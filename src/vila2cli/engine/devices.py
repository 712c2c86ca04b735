"""The device layer: which GPUs this process may use and how much memory they have, without touching them.

Asking torch for a GPU's properties starts CUDA in the process, after which vLLM can no longer fork and half a
gigabyte of the first GPU is gone; NVIDIA's management library tells the same and starts nothing.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vila2cli.errors import RecipeError
from vila2cli.ranks import local_share

GPUS_VARIABLE = "VILA2_PLAN_GPUS"
"""GPUs to plan for in place of those of this machine, as `8x80`: how many, and GB of memory each."""
_PLANNED = re.compile(r"(\d{1,3})x(\d{1,4}(?:\.\d+)?)", re.ASCII)
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as CUDA_VISIBLE_DEVICES names it (a number or a UUID), and its memory in bytes."""

    name: str
    memory: int


def gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that this process may use, in CUDA's order; none on a machine without any."""
    return [Gpu(name, _memory(index)) for index, name in enumerate(gpu_names(environ))]


def gpu_names(environ: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES has to hold for each of the GPUs that this process may use."""
    import torch  # which takes seconds, and a command with nothing to do needs none

    count = torch.cuda.device_count()
    listed = [name.strip() for name in environ.get(_VISIBLE, "").split(",") if name.strip()]
    return (listed or [str(index) for index in range(count)])[:count]


@functools.cache
def keep_to_share() -> None:
    """Of the GPUs that this process may use, leave those of other workers that torchrun started on this node.

    Once, before CUDA is started.
    """
    local, count = local_share()
    if count > 1 and (names := gpu_names(os.environ)):
        os.environ[_VISIBLE] = ",".join(share_of(names, local, count))


def share_of(names: list[str], local: int, count: int) -> list[str]:
    """The GPUs of worker `local` of `count` on a node, as many for each; of too few, one that it shares."""
    num_each = len(names) // count
    return names[local * num_each : (local + 1) * num_each] or [names[local % len(names)]]


def planned_gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu] | None:
    """The GPUs that VILA2_PLAN_GPUS says to plan for, None without it; raises RecipeError for other words."""
    text = environ.get(GPUS_VARIABLE, "").strip()
    if not text:
        return None
    if (match := _PLANNED.fullmatch(text)) is None:
        raise RecipeError(f"{GPUS_VARIABLE}={text!r} should be NUMBERxGB, such as 8x80 for 8 GPUs of 80 GB")
    return [Gpu(str(index), int(float(match[2]) * 1e9)) for index in range(int(match[1]))]


def shown_to(devices: Sequence[Gpu]) -> dict[str, str]:
    """The environment of a process that is to see these GPUs alone."""
    return {_VISIBLE: ",".join(gpu.name for gpu in devices)}


def _memory(index: int) -> int:
    """Bytes of a GPU's memory; `index` counts the visible ones."""
    import torch

    try:
        import pynvml  # type: ignore[import-not-found,unused-ignore]

        pynvml.nvmlInit()
        # What torch itself goes by to find a device that CUDA_VISIBLE_DEVICES moved.
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda._get_nvml_device_index(index))
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except Exception:  # noqa: BLE001  (no such library, or none for this kind of GPU: torch knows)
        return int(torch.cuda.get_device_properties(index).total_memory)
