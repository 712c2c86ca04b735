"""How far the jobs of a run are, from Slurm and from the files themselves."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vila2cli.run.slurm.queue import QueuedTask, tasks_of
from vila2cli.run.slurm.submit import Record
from vila2cli.run.stages import Stage


def states(stages: Sequence[Stage], folder: Path) -> Iterator[tuple[str, str]]:
    """Of each stage by name: complete, the states of its tasks, or that none is left and where its log is."""
    records = {stage.name: Record.read(folder, stage) for stage in stages}
    known = tasks_of(job.job for record in records.values() for job in record.jobs)
    for stage in stages:
        numbers = [job.job for job in records[stage.name].jobs]
        tasks = [task for task in known if task.job in numbers]
        yield stage.name, _state(stage, tasks, numbers, folder)


def _state(stage: Stage, tasks: Sequence[QueuedTask], numbers: Sequence[int], folder: Path) -> str:
    if stage.is_complete():
        return "complete"
    if not numbers:
        return "not submitted"
    jobs = ", ".join(map(str, numbers))
    counts = Counter(task.state.lower() for task in tasks)
    alive = any(task.is_alive for task in tasks)
    if len(tasks) == 1:
        reason = f" ({tasks[0].reason})" if tasks[0].reason not in ("", "None") else ""
        text = f"{tasks[0].state.lower()}{reason}"
    else:
        text = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    hint = "" if alive else f"; see {folder / 'logs' / stage.name}-*.log, then `vila2 slurm retry`"
    return f"job {jobs}: {text or 'gone from the queue'}{hint}"
