"""Which of the processes started together this is, as torchrun, srun, mpirun, SkyPilot or Kubernetes say it.

What Slurm says is checked against the processes above this one, as its variables outlive what they were
set for: a shell of `srun --pty` has those of a task, and so has a job that is submitted from one.
"""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vila2cli.errors import RankError, RecipeError

_PROC = Path("/proc")
_SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh"))
_STEP = re.compile(r"slurmstepd: \[(\d+)\.(\w+)\]")


@dataclass(frozen=True, slots=True)
class Variables:
    """Those in which a launcher numbers its processes: which, of how many, which on the node, of how many."""

    index: str
    count: str
    local: str = ""
    num_local: str = ""


_OPEN_MPI = Variables(
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
_MPICH = Variables("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_TORCHRUN = Variables("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_SKYPILOT = Variables("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES")
_KUBERNETES = "JOB_COMPLETION_INDEX"
"""The pod of an indexed job; of how many it is, no variable says."""
FIRST_PORT, NUM_PORTS = 20000, 10000
"""Below those that the kernel hands out by itself."""


def num_cores() -> int:
    """The processor cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Rank:
    """Process `index` of `count`, the `local`-th on its node; `address` is where the first one listens.

    `name` tells this training from others that may listen there, and `how` says who counted.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    address: str = ""
    name: str = field(default="", compare=False)
    how: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Launched:
    """Process `index` of `count` that a launcher started, the `local`-th of those on its node.

    `name` is that of the start, `is_local` whether all of them are known to be on this node.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    name: str = ""
    how: str = ""
    is_local: bool = False
    num_nodes: int = 0
    """How many nodes they are on, 0 where nothing says so."""


def launched(environ: Mapping[str, str] = os.environ, proc: Path = _PROC) -> Launched:
    """Which task of a Slurm step, else of an mpirun, this is; alone where no task is told of.

    Raises RecipeError for variables that contradict each other, or of which nobody can tell whether they
    are still true.
    """
    by_mpi = [task for names in (_OPEN_MPI, _MPICH) if (task := _by_variables(environ, names))]
    if by_mpi and _OPEN_MPI.index in environ:  # whose daemons may be tasks of a step of their own
        return by_mpi[0]
    count = number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if count > 1:
        return _by_slurm(environ, count, proc)
    return by_mpi[0] if by_mpi else Launched()


def launched_worker(
    environ: Mapping[str, str] = os.environ, proc: Path = _PROC, *, count: int | None = None
) -> Launched:
    """Which of the workers that split shards this is: by torchrun, else as `launched` has it, else by SkyPilot.

    Where several launchers count, each of the others must count the same processes, or the nodes of the first.
    In the pod of an indexed Kubernetes job without another launcher this is worker JOB_COMPLETION_INDEX of
    `count`, which has to be given. Raises RecipeError where they contradict each other, and as `launched`.
    """
    task = launched(environ, proc)
    by_torch = _by_variables(environ, _TORCHRUN)
    if (_SKYPILOT.index in environ) != (_SKYPILOT.count in environ):
        raise RecipeError(
            f"only one of {_SKYPILOT.index} and {_SKYPILOT.count} is there; unset it, or give both"
        )
    found = [one for one in (by_torch, task, _by_variables(environ, _SKYPILOT)) if one and one.count > 1]
    for other in found[1:]:
        _check_agree(found[0], other)
    if environ.get(_KUBERNETES, "").strip():
        return _in_kubernetes(number(environ, _KUBERNETES), found, count)
    return found[0] if found else task


def _in_kubernetes(pod: int, found: list[Launched], count: int | None) -> Launched:
    how = f"pod {pod} of an indexed Kubernetes job"
    if found:
        nodes = found[0].num_nodes or found[0].count
        if nodes == 1 or pod >= nodes:
            raise RecipeError(f"this is {how}, and {found[0].how} on {nodes} nodes; give --worker i/n")
        return found[0]
    if count is None:
        raise RecipeError(
            f"this is {how}, and nothing says how many there are; give --worker auto/N with the completions of "
            "the job, or 0/1 to do all of the work here"
        )
    if pod >= count:
        raise RecipeError(f"--worker auto/{count}: this is {how}, which has more; give its completions")
    return Launched(pod, count, how=how)


def _check_agree(first: Launched, other: Launched) -> None:
    """Raise RecipeError unless both count the same processes, or one their nodes."""
    is_same = (first.index, first.count) == (other.index, other.count)
    if not is_same and (first.num_nodes in (0, first.count) or other.count != first.num_nodes):
        raise RecipeError(f"this is {first.how}, and {other.how}, which do not agree; give --worker i/n")


def local_share(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which of how many workers that torchrun started on this node this is; (0, 1) without it."""
    if _by_variables(environ, _TORCHRUN) is None:
        return 0, 1
    local, count = number(environ, _TORCHRUN.local), number(environ, _TORCHRUN.num_local, 1)
    _check(local, count, f"{_TORCHRUN.local} and {_TORCHRUN.num_local}")
    return local, count


def is_launched(environ: Mapping[str, str] = os.environ, proc: Path = _PROC) -> bool:
    """Whether torchrun, accelerate, srun or mpirun decides how many processes there are, if only this one."""
    by_torch = "RANK" in environ and "WORLD_SIZE" in environ
    return by_torch or "ACCELERATE_MIXED_PRECISION" in environ or launched(environ, proc).count > 1


def parse_rank(environ: Mapping[str, str] = os.environ, proc: Path = _PROC) -> Rank:
    """Read what torchrun and `accelerate launch` set, else the tasks of a Slurm step or an mpirun.

    MASTER_ADDR and MASTER_PORT say where the first process listens; they default to the step's first node
    and a port made from the numbers of job and step. Raises as `launched` does.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        index, count = number(environ, _TORCHRUN.index), number(environ, _TORCHRUN.count, 1)
        _check(index, count, "RANK and WORLD_SIZE")
        return Rank(index, count, number(environ, _TORCHRUN.local), "env://" if count > 1 else "")
    task = launched(environ, proc)
    if task.count == 1:
        return Rank(how=task.how)
    host = environ.get("MASTER_ADDR") or _first_host(environ, task)
    port = environ.get("MASTER_PORT") or str(_port(task.name))
    address = f"tcp://{host}:{port}"
    return Rank(task.index, task.count, task.local, address, task.name, task.how)


def first_node(nodes: str) -> str:
    """The first name of a Slurm node list: `gpu[07-09,12],cpu1` begins with `gpu07`."""
    parts = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in parts.groups()) if parts else nodes


def number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    """A variable that holds a number; raises RecipeError for anything else in it."""
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise RecipeError(f"the environment variable {name} should hold a number, not {text!r}; unset it")
    return int(text)


def _by_variables(environ: Mapping[str, str], names: Variables) -> Launched | None:
    """What the variables of a launcher say, None where they tell of no other process."""
    if names.index not in environ or (size := number(environ, names.count, 1)) == 1:
        return None
    rank = number(environ, names.index)
    _check(rank, size, f"{names.index} and {names.count}")
    name = environ.get("PMIX_NAMESPACE") or environ.get("PMI_JOBID") or f"mpirun-{os.getppid()}"
    how = f"process {rank} of {size} by {names.count}"
    num_local = number(environ, names.num_local)
    num_nodes = number(environ, "GROUP_WORLD_SIZE") if names is _TORCHRUN else size // (num_local or size + 1)
    return Launched(rank, size, number(environ, names.local), name, how, num_local == size, num_nodes)


def _by_slurm(environ: Mapping[str, str], count: int, proc: Path) -> Launched:
    step = f"{environ.get('SLURM_JOB_ID', '0')}.{environ.get('SLURM_STEP_ID', '0')}"
    if why := _why_not_a_task(environ, count, step, proc):
        return Launched(how=why)
    index = number(environ, "SLURM_PROCID")
    _check(index, count, "SLURM_PROCID and SLURM_STEP_NUM_TASKS")
    how = f"task {index} of {count} of Slurm step {step}"
    num_nodes = number(environ, "SLURM_STEP_NUM_NODES")
    return Launched(index, count, number(environ, "SLURM_LOCALID"), step, how, num_nodes=num_nodes)


def _why_not_a_task(environ: Mapping[str, str], count: int, step: str, proc: Path) -> str:
    """Why this process is not one of the tasks that the variables tell of, "" where it is."""
    above = _processes_above(proc)
    steps = [step_of for line in above.values() if (step_of := _STEP.match(line))]
    if steps and not steps[0][2].isdecimal():  # a batch script, with variables of where it was submitted
        return f"alone: SLURM_STEP_NUM_TASKS={count} is not of this job's {steps[0][2]} step"
    task = environ.get("SLURM_TASK_PID", "")
    if task in above:
        if _has_terminal(proc / task) and _is_shell(above[task]):
            return f"alone: of the {count} tasks of Slurm step {step} only this one is a shell at a terminal"
    elif "SLURM_PTY_PORT" in environ and not steps:
        raise RecipeError(
            f"SLURM_STEP_NUM_TASKS={count} may be of a shell of `srun --pty`, or of this process, and nothing "
            "tells which; `unset SLURM_STEP_NUM_TASKS` to do all of the work here, or unset SLURM_PTY_PORT "
            f"where this is one of {count} tasks"
        )
    return ""


def _processes_above(proc: Path) -> dict[str, str]:
    """This process and those above it, as far as they can be seen: the command line of each by its number."""
    lines: dict[str, str] = {}
    pid = str(os.getpid())
    try:
        while pid not in ("0", *lines):
            status = (proc / pid / "status").read_text(errors="replace")
            lines[pid] = (proc / pid / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = re.search(r"^PPid:\s*(\d+)", status, re.MULTILINE)
            pid = parent[1] if parent else "0"
    except OSError:  # of another user, or a machine without /proc
        pass
    return lines


def _has_terminal(process: Path) -> bool:
    """Whether a process belongs to a terminal, wherever its input comes from."""
    try:
        # Its name, in brackets, may hold blanks.
        fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[4] != "0"
    except (OSError, IndexError):
        return False


def _is_shell(command_line: str) -> bool:
    """Whether a command line starts a shell that reads commands, and no script or single command."""
    program, *words = command_line.split() or [""]
    is_command = any(not word.startswith("-") or (word[1:2] != "-" and "c" in word) for word in words)
    return program.lstrip("-").rpartition("/")[2] in _SHELLS and not is_command


def _check(index: int, count: int, names: str) -> None:
    if index >= count:
        raise RecipeError(f"{names} say process {index} of {count}, which cannot be; unset them, or give both")


def _first_host(environ: Mapping[str, str], task: Launched) -> str:
    if nodes := environ.get("SLURM_STEP_NODELIST"):
        return first_node(nodes)
    if task.is_local or "SLURM_STEP_NUM_TASKS" in environ:
        return "localhost"
    raise RankError(
        f"{task.how}: nothing says where the first of them listens; export MASTER_ADDR, the name of its node"
    )


def _port(name: str) -> int:
    """A port of its own for each step of a job, and for jobs that follow each other."""
    job, dot, step = name.partition(".")
    if dot and job.isdecimal() and step.isdecimal():
        return FIRST_PORT + (int(job) + 7919 * int(step)) % NUM_PORTS
    return FIRST_PORT + zlib.crc32(name.encode()) % NUM_PORTS
