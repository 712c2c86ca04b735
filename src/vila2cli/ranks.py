"""Which of the processes of one training this is, as torchrun, accelerate or srun started it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rank:
    """Process `index` of `count`, the `local`-th on its node; `address` is where the first one listens."""

    index: int = 0
    count: int = 1
    local: int = 0
    address: str = ""


def parse_rank(environ: Mapping[str, str] | None = None) -> Rank:
    """Read what torchrun and `accelerate launch` set, else the tasks of a Slurm job step, else one process.

    MASTER_ADDR and MASTER_PORT say where the first process listens; under srun they default to the step's
    first node and a port made from the job's number.
    """
    environ = os.environ if environ is None else environ
    if "RANK" in environ and "WORLD_SIZE" in environ:
        local = int(environ.get("LOCAL_RANK", "0"))
        return Rank(int(environ["RANK"]), int(environ["WORLD_SIZE"]), local, "env://")
    count = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if count == 1:
        return Rank()
    host = environ.get("MASTER_ADDR") or first_node(environ.get("SLURM_STEP_NODELIST", "localhost"))
    port = environ.get("MASTER_PORT") or str(20000 + int(environ.get("SLURM_JOB_ID", "0")) % 20000)
    local = int(environ.get("SLURM_LOCALID", "0"))
    return Rank(int(environ["SLURM_PROCID"]), count, local, f"tcp://{host}:{port}")


def first_node(nodes: str) -> str:
    """The first name of a Slurm node list: `gpu[07-09,12],cpu1` begins with `gpu07`."""
    found = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes
