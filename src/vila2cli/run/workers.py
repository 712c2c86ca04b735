"""Which worker of how many this is, and which shards are its part."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vila2cli.errors import RecipeError
from vila2cli.ranks import launched_worker, number

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Worker:
    """Worker `index` of `count`."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_worker(text: str | None = None, environ: Mapping[str, str] = os.environ) -> Worker:
    """Read `i/n`; without it take the Slurm array task and what `launched_worker` says, else 0/1.

    `auto/n` is this, too, and says how many there are. Raises RecipeError when the text is not `i/n` with
    0 <= i < n, when another number is counted, when the array has gaps, and as `launched_worker` does.
    """
    wanted = text.removeprefix("auto/") if text is not None and text.startswith("auto/") else ""
    if text is not None and not (wanted.isdecimal() and int(wanted)):
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise RecipeError(f"--worker {text}: write it as i/n with i from 0 to n-1, for example 0/4")
        return Worker(int(index), int(count))
    array = _array_task(environ) if "SLURM_ARRAY_TASK_ID" in environ else Worker()
    task = launched_worker(environ, count=int(wanted) // array.count if wanted else None)
    worker = Worker(array.index * task.count + task.index, array.count * task.count)
    if wanted and worker.count != int(wanted):
        counted = f"there are {worker.count}" if worker.count > 1 else "nothing says which of them this is"
        raise RecipeError(f"--worker {text}: {counted}; write it as i/n")
    return worker


def who_counts(worker: Worker, environ: Mapping[str, str] = os.environ) -> str:
    """Where the numbers of a worker come from, "" where it is the only one and nothing says otherwise."""
    try:
        by_itself = parse_worker(f"auto/{worker.count}" if worker.count > 1 else None, environ)
    except RecipeError:  # of which --worker is the way out
        return "--worker"
    if worker != by_itself:
        return "--worker"
    array = _array_task(environ) if "SLURM_ARRAY_TASK_ID" in environ else Worker()
    in_array = f"task {array} of a Slurm array" if array.count > 1 else ""
    task = launched_worker(environ, count=worker.count // array.count)
    return ", ".join(filter(None, (in_array, task.how)))


def _array_task(environ: Mapping[str, str]) -> Worker:
    task = number(environ, "SLURM_ARRAY_TASK_ID")
    first = number(environ, "SLURM_ARRAY_TASK_MIN")
    step = max(1, number(environ, "SLURM_ARRAY_TASK_STEP", 1))
    count = number(environ, "SLURM_ARRAY_TASK_COUNT", 1)
    index = (task - first) // step
    if not 0 <= index < count:
        raise RecipeError(
            f"Slurm array task {task} is not one of {count} tasks counted from {first}: "
            "an array with gaps cannot be split evenly; give --worker i/n"
        )
    return Worker(index, count)


def select(shards: Sequence[T], worker: Worker) -> list[T]:
    """The worker's part: every n-th shard from its index on."""
    return list(shards[worker.index :: worker.count])
