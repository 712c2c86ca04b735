"""The device layer: which GPUs this process may use and how much memory they have, without touching them.

Asking torch for a GPU's properties starts CUDA in the process, after which vLLM can no longer fork and half a
gigabyte of the first GPU is gone; NVIDIA's management library tells the same and starts nothing.
"""

import functools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vila2cli.errors import RecipeError
from vila2cli.ranks import local_share

GPUS_VARIABLE = "VILA2_PLAN_GPUS"
"""GPUs to plan for in place of those of this machine, as `8x80`: how many, and GB of memory each."""
_PLANNED = re.compile(r"(\d{1,3})x(\d{1,4}(?:\.\d+)?)", re.ASCII)
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_WHOLE = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_PART = re.compile(r"\s+MIG \S*?(\d+)gb\S*\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")
"""Lines of `nvidia-smi -L`: a GPU, and below it each part that MIG made of it."""
_OF_ITS_NAME = 0.95
"""The share of the GB in a part's name that it has at least: 1g.18gb of an H200 has 17.2."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as CUDA_VISIBLE_DEVICES names it (a number or a UUID), and its memory in bytes."""

    name: str
    memory: int


def gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that this process may use, in CUDA's order; none on a machine without any."""
    part = _part(environ)
    return [Gpu(name, _memory(index)) for index, name in enumerate(_whole(environ))] if part is None else [part]


def gpu_names(environ: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES has to hold for each of the GPUs that this process may use."""
    part = _part(environ)
    return _whole(environ) if part is None else [part.name]


def _whole(environ: Mapping[str, str]) -> list[str]:
    """The names of the GPUs that torch counts, which are whole ones even where CUDA shows parts of them."""
    import torch  # which takes seconds, and a command with nothing to do needs none

    count = torch.cuda.device_count()
    return (_listed(environ) or [str(index) for index in range(count)])[:count]


def _listed(environ: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in environ.get(_VISIBLE, "").split(",") if name.strip()]


def _part(environ: Mapping[str, str]) -> Gpu | None:
    return first_part(_listing(), _listed(environ)) if _whole(environ) else None


@functools.cache
def _listing() -> str:
    """What `nvidia-smi -L` lists, "" where it cannot be asked."""
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout


def first_part(listing: str, listed: Sequence[str]) -> Gpu | None:
    """The part that CUDA shows to a process of GPUs that MIG has cut up, None where none of them is.

    Of the devices `listed` for it, all where none are, it shows the first part and nothing else.
    """
    parts: list[tuple[str, str, Gpu]] = []
    index = uuid = ""
    for line in listing.splitlines():
        if match := _WHOLE.match(line):
            index, uuid = match.groups()
        elif match := _PART.match(line):
            parts.append((index, uuid, Gpu(match[2], int(int(match[1]) * _OF_ITS_NAME * 1e9))))
    for name in listed or [""]:
        for index, uuid, part in parts:
            if name in (index, part.name) or uuid.startswith(name):
                return part
    return None


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
