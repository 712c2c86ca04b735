"""A run as jobs that wait for each other: what is complete or in the queue already is not submitted again."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vila2cli.errors import RecipeError
from vila2cli.files import read_json, refuse_foreign
from vila2cli.run.folder import write_json, write_text
from vila2cli.run.results import StageResult
from vila2cli.run.slurm.emit import num_workers, script, submission, workers_per_task
from vila2cli.run.slurm.queue import QueuedTask, cancel, submit_job, tasks_of
from vila2cli.run.stages import Stage
from vila2cli.settings.slurm import SlurmSettings


@dataclass(frozen=True, slots=True)
class Submitted:
    """One job of a stage: its number, which tasks of an array it is (if it is one), and what it waits for."""

    job: int
    tasks: tuple[int, ...] = ()
    after: tuple[str, ...] = ()
    time: str = ""

    def names(self, alive: Sequence[QueuedTask]) -> list[str]:
        """How a dependency names it: as a whole, or, of an array, by those of its tasks that are `alive`."""
        if len(alive) == max(1, len(self.tasks)):
            return [str(self.job)]
        return [f"{self.job}_{task.number}" for task in alive]

    def waits_for(self, after: Sequence[str]) -> bool:
        """Whether it waits for all of these jobs and tasks, an array as a whole being all of its tasks."""
        return all({name, name.partition("_")[0]} & set(self.after) for name in after)


@dataclass(frozen=True, slots=True)
class Record:
    """runs/NAME/slurm/STAGE.json: the jobs that a stage was submitted as, the oldest first."""

    path: Path
    jobs: tuple[Submitted, ...] = field(default=())

    @classmethod
    def read(cls, folder: Path, stage: Stage) -> "Record":
        path = folder / f"{stage.name}.json"
        if not path.is_file():
            return cls(path)
        rows = read_json(path)["jobs"]
        jobs = (Submitted(row["job"], tuple(row["tasks"]), tuple(row["after"]), row["time"]) for row in rows)
        return cls(path, tuple(jobs))

    def write(self, jobs: Sequence[Submitted]) -> None:
        write_json(self.path, {"jobs": [asdict(job) for job in jobs]})


@dataclass(frozen=True, slots=True)
class Scripts(StageResult):
    """The sbatch scripts that were written, in the order of their stages; submit.sh lies beside them."""

    scripts: Sequence[Path]

    def lines(self) -> Iterator[str]:
        yield from map(str, self.scripts)
        yield f"submit them all with: bash {shlex.quote(str(self.scripts[0].parent / 'submit.sh'))}"


@dataclass(frozen=True, slots=True)
class StageStates(StageResult):
    """What was done with each stage, or how far it is, by its name."""

    stages: Mapping[str, str]

    def lines(self) -> Iterator[str]:
        width = max(map(len, self.stages))
        return (f"{name:<{width}}  {state}" for name, state in self.stages.items())


def write_scripts(
    stages: Sequence[Stage],
    slurm: SlurmSettings,
    *,
    run_dir: Path,
    flags: Sequence[str],
    folder: Path | None = None,
) -> Scripts:
    """Write STAGE.sbatch of every stage, and submit.sh for all of them, into `folder` or `run_dir/slurm`."""
    folder = folder or run_dir / "slurm"
    paths = [folder / f"{stage.name}.sbatch" for stage in stages]
    for path in (*paths, folder / "submit.sh"):
        refuse_foreign(path, "ade by `vila2 slurm emit`")
    for stage, path in zip(stages, paths, strict=True):
        write_text(path, script(stage, slurm, run_dir=run_dir, flags=flags))
    write_text(folder / "submit.sh", submission(list(zip(stages, paths, strict=True)), run_dir=run_dir))
    return Scripts(paths)


def submit(stages: Sequence[Stage], slurm: SlurmSettings, folder: Path) -> Iterator[tuple[str, str]]:
    """Submit `folder/STAGE.sbatch` of each stage that is neither complete nor in the queue, in their order.

    Of an array only the tasks are submitted that have shards left and are not in the queue. A job that
    waits for one that had to be submitted again is submitted again, too. Yields each stage by name with what
    was done. Raises RecipeError with the message of sbatch.
    """
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    records = {stage.name: Record.read(folder, stage) for stage in stages}
    known = tasks_of(job.job for record in records.values() for job in record.jobs)
    waited_for: dict[str, list[str]] = {}
    for stage in stages:
        if stage.is_complete():
            yield stage.name, "complete"
            continue
        after = [name for before in stage.after for name in waited_for.get(before, [])]
        jobs, line = _submit_stage(stage, slurm, records[stage.name], known, after, folder)
        waited_for[stage.name] = jobs
        yield stage.name, line


def _submit_stage(
    stage: Stage,
    slurm: SlurmSettings,
    record: Record,
    known: Sequence[QueuedTask],
    after: list[str],
    folder: Path,
) -> tuple[list[str], str]:
    """What later stages wait for, and what was done."""
    alive = {job: [task for task in known if task.job == job.job and task.is_alive] for job in record.jobs}
    kept = [job for job in record.jobs if alive[job] and job.waits_for(after)]
    cancel(str(job.job) for job in record.jobs if alive[job] and job not in kept)
    names = [name for job in kept for name in job.names(alive[job])]
    count = num_workers(stage, slurm) // workers_per_task(stage, slurm)
    if count == 1:
        if kept:
            return names, f"in the queue as {', '.join(names)}"
        missing: list[int] = []
    else:
        running = {task.number for job in kept for task in alive[job]}
        workers = stage.missing_workers(num_workers(stage, slurm))
        missing = sorted({worker // workers_per_task(stage, slurm) for worker in workers} - running)
        if kept and not missing:
            return names, f"in the queue as {', '.join(names)}"
    path = folder / f"{stage.name}.sbatch"
    if not path.is_file():
        raise RecipeError(f"there is no {path}; write it with `vila2 slurm emit`")
    _check_split(path, num_workers(stage, slurm))
    # What a person wrote of the array, such as how many run at once, counts as long as all of it is due.
    job = submit_job(path, after=after, array=missing if len(missing) < count else ())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = Submitted(job, tuple(missing), tuple(after), now)
    record.write([*kept, new])
    of_all = f", {len(missing)} of {count} tasks" if missing else ""
    waits = f", after {', '.join(after)}" if after else ""
    return [*names, str(job)], f"submitted as {job}{of_all}{waits}"


def _check_split(path: Path, num_workers: int) -> None:
    """Raise RecipeError for a script of before [slurm] was changed, whose workers would take other shards."""
    match = re.search(r'--worker "[^"]*/(\d+)"', path.read_text(encoding="utf-8"))
    written = int(match[1] if match else 1)
    if written != num_workers:
        raise RecipeError(
            f"{path} shares the work among {written} workers, and [slurm] now asks for "
            f"{num_workers}; set slurm.array and gpus back, or write it again with `vila2 slurm submit`"
        )


def remember(folder: Path, target: str, sets: Sequence[str]) -> None:
    """Note what a run was submitted as, so that `status` and `retry` need not be told."""
    write_json(folder / "run.json", {"target": target, "sets": list(sets)})


def remembered(folder: Path) -> dict[str, Any]:
    """What `remember` noted; raises RecipeError when nothing was submitted."""
    path = folder / "run.json"
    if not path.is_file():
        raise RecipeError(f"nothing was submitted in {folder}; begin with `vila2 slurm submit`")
    return read_json(path)
