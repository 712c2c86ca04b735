"""Jobs in Slurm's queue and accounting: listed, submitted and cancelled with its own commands."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vila2cli.errors import RecipeError

_ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)
_SETS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GRES": "gres",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_NO_REQUEUE": "requeue",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_OUTPUT": "output",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_TIMELIMIT": "time",
}
"""Variables that sbatch puts above the options in a script."""
_OF_A_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
_HOPELESS = "DependencyNeverSatisfied"


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """A job, or one task of an array of them, as Slurm sees it; `number` is None outside of arrays."""

    job: int
    number: int | None
    state: str
    reason: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or may still run."""
        return self.state not in _ENDED and self.reason != _HOPELESS


def tasks_of(jobs: Iterable[int]) -> list[QueuedTask]:
    """All tasks of these jobs that Slurm still knows of: in the queue, else in the accounting where it is on.

    Raises RecipeError when Slurm does not answer.
    """
    wanted = set(jobs)
    if not wanted:
        return []
    queued = [task for task in _queued() if task.job in wanted]
    gone = wanted - {task.job for task in queued}
    return [*queued, *(_accounted(gone) if gone else [])]


def submit_job(script: Path, *, after: Sequence[str] = (), array: Sequence[int] = ()) -> int:
    """Submit a script to start when the jobs `after` have ended well, and return the number of its job.

    `array` lists the tasks of an array to submit, where not all. Raises RecipeError with the message of sbatch.
    """
    words = ["sbatch", "--parsable"]
    words += [f"--dependency=afterok:{':'.join(after)}"] if after else []
    words += [f"--array={','.join(map(str, array))}"] if array else []
    environ = to_environ(script.read_text(encoding="utf-8"), os.environ)
    text = _ask([*words, str(script)], f"{script} is not accepted", environ)
    return int(text.strip().partition(";")[0])


def to_environ(script: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment to submit a script in: its own options count, and the job is not the one that
    it may be submitted from, whose number in an array would pass for its own."""
    options = set(re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE))
    return {
        name: value
        for name, value in environ.items()
        if _SETS.get(name) not in options and (not name.startswith("SLURM_") or name.startswith(_OF_A_CLUSTER))
    }


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs or tasks (`JOB_TASK`); those that have ended already are left alone."""
    if words := list(jobs):
        _ask(["scancel", "--quiet", *words], "scancel failed")


def _queued() -> list[QueuedTask]:
    # A list of job ids would be an error as soon as Slurm has forgotten one of them.
    words = ["squeue", "--noheader", "--array", "--all", "--states=all", f"--user={os.getuid()}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    lines = _ask([*words, "--format=%F|%K|%T|%r"], "squeue failed", environ).splitlines()
    return [
        QueuedTask(int(job), int(number) if number.isdecimal() else None, state, reason)
        for job, number, state, reason in (line.split("|", 3) for line in lines)
    ]


def _accounted(jobs: Iterable[int]) -> list[QueuedTask]:
    """What sacct knows; nothing where accounting is off."""
    names = ",".join(map(str, sorted(jobs)))
    words = ["sacct", "--allocations", "--parsable2", "--noheader", f"--jobs={names}"]
    try:
        answer = subprocess.run([*words, "--format=JobID,State"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    tasks = []
    for line in answer.stdout.splitlines() if answer.returncode == 0 else ():
        name, _, state = line.partition("|")
        job, _, number = name.partition("_")
        if job.isdecimal() and (not number or number.isdecimal()):
            tasks.append(QueuedTask(int(job), int(number) if number else None, state.split()[0]))
    return tasks


def _ask(words: Sequence[str], problem: str, environ: Mapping[str, str] | None = None) -> str:
    if shutil.which(words[0]) is None:
        raise RecipeError(
            f"{words[0]} is not on PATH: run this where jobs are submitted from, "
            "or write the scripts with `vila2 slurm emit`"
        )
    answer = subprocess.run(words, capture_output=True, text=True, check=False, env=environ)
    if answer.returncode:
        message = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        hint = "; is slurm.array over the cluster's MaxArraySize?" if "array spec" in message else ""
        raise RecipeError(f"{problem}: {message}{hint}")
    return answer.stdout
