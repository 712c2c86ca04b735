"""Which process of those started together this is, where variables outlive what they were set for."""

import os
from pathlib import Path

import pytest

from vila2cli.errors import RankError, RecipeError
from vila2cli.ranks import Launched, launched, parse_rank
from vila2cli.run.folder import Worker, parse_worker, who_counts

TASK = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "0",
    "SLURM_TASK_PID": "901",
}
AT_A_TERMINAL, WITHOUT = 34817, 0
ALONE = Launched()


def processes(folder: Path, *above: tuple[int, str, int]) -> Path:
    """A /proc with this process below those given: number, command line and terminal of each, nearest first."""
    chain = [(os.getpid(), "python vila2 recaption", above[0][2] if above else 0), *above]
    for place, (pid, words, terminal) in enumerate(chain):
        parent = chain[place + 1][0] if place + 1 < len(chain) else 1
        own = folder / str(pid)
        own.mkdir(parents=True)
        (own / "status").write_text(f"Name:\tx\nPid:\t{pid}\nPPid:\t{parent}\n")
        (own / "cmdline").write_bytes(words.replace(" ", "\0").encode())
        (own / "stat").write_text(f"{pid} (a (b) c) S {parent} {pid} {pid} {terminal} -1 0 0\n")
    return folder


@pytest.mark.parametrize(
    ("shell", "terminal", "index", "count"),
    [
        ("/bin/bash", AT_A_TERMINAL, 0, 1),
        ("-zsh", AT_A_TERMINAL, 0, 1),
        ("bash -l --norc", AT_A_TERMINAL, 0, 1),
        ("bash", WITHOUT, 0, 8),  # every task has one, and reads the same lines
        ("bash job.sh", AT_A_TERMINAL, 0, 8),
        ("bash -lc vila2", AT_A_TERMINAL, 0, 8),
        ("python wrapper.py", AT_A_TERMINAL, 0, 8),
    ],
)
def test_only_one_task_of_a_shell_at_a_terminal_runs_commands(
    tmp_path: Path, shell: str, terminal: int, index: int, count: int
) -> None:
    proc = processes(tmp_path, (901, shell, terminal), (900, "slurmstepd: [12.0]", 0))
    found = launched({**TASK, "SLURM_PTY_PORT": "4711"}, proc)
    assert (found.index, found.count) == (index, count)
    assert ("at a terminal" in found.how) == (count == 1)


def test_a_step_from_within_such_a_shell_is_split(tmp_path: Path) -> None:
    own = {**TASK, "SLURM_STEP_ID": "1", "SLURM_PROCID": "3", "SLURM_TASK_PID": str(os.getpid())}
    proc = processes(tmp_path, (950, "slurmstepd: [12.1]", 0))
    found = launched({**own, "SLURM_PTY_PORT": "4711"}, proc)
    assert (found.index, found.count, found.name) == (3, 8, "12.1")


@pytest.mark.parametrize("kind", ["batch", "interactive", "extern"])
def test_what_a_batch_job_has_from_its_submitter_does_not_count(tmp_path: Path, kind: str) -> None:
    proc = processes(tmp_path, (901, "bash slurm_script", 0), (900, f"slurmstepd: [13.{kind}]", 0))
    found = launched(TASK, proc)
    assert (found.index, found.count) == (0, 1)
    assert kind in found.how


def test_a_doubt_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A process that left the shell's session: it is not below the task, and no daemon is in sight."""
    proc = processes(tmp_path)
    environ = {**TASK, "SLURM_PTY_PORT": "4711"}
    with pytest.raises(RecipeError, match="unset SLURM_STEP_NUM_TASKS"):
        launched(environ, proc)
    with pytest.raises(RecipeError, match="unset SLURM_STEP_NUM_TASKS"):
        parse_rank(environ, proc)
    assert launched({**environ, "SLURM_STEP_NUM_TASKS": "1"}, proc) == ALONE
    # In a container of its own no other process may be seen: without a terminal's trace Slurm is believed.
    assert launched(TASK, proc).count == 8


def test_a_worker_that_is_given_needs_no_slurm() -> None:
    assert parse_worker("2/3", {**TASK, "SLURM_PROCID": "x"}) == Worker(2, 3)
    assert who_counts(Worker(2, 3), {**TASK, "SLURM_PROCID": "x"}) == "--worker"


def test_it_is_said_who_counted() -> None:
    environ = {**TASK, "SLURM_PROCID": "5", "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    worker = parse_worker(None, environ)
    assert worker == Worker(13, 16)
    assert who_counts(worker, environ) == "task 1/2 of a Slurm array, task 5 of 8 of Slurm step 12.0"
    assert who_counts(Worker(), {}) == ""


@pytest.mark.parametrize(
    "odd",
    [
        {"SLURM_PROCID": "8"},
        {"SLURM_PROCID": "-1"},
        {"SLURM_STEP_NUM_TASKS": "4(x2)"},
        {"SLURM_PROCID": "9" * 99},
    ],
)
def test_numbers_that_cannot_be_are_one_line(odd: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match=next(iter(odd))) as found:
        launched({**TASK, **odd})
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("environ", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "2"}])
def test_so_are_those_of_torchrun(environ: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="RANK"):
        parse_rank(environ)


OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "6",
    "OMPI_COMM_WORLD_LOCAL_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "6",
    "PMIX_NAMESPACE": "prterun-1",
}


def test_mpirun_counts_its_processes_within_a_step_of_its_daemons() -> None:
    daemons = {**TASK, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert parse_worker(None, {**daemons, **OPEN_MPI}) == Worker(5, 6)


def test_a_training_by_mpirun_meets_on_its_node_or_asks_where() -> None:
    rank = parse_rank(OPEN_MPI)
    assert (rank.index, rank.count, rank.local) == (5, 6, 5)
    assert rank.address.startswith("tcp://localhost:2")
    assert parse_rank({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0"}).address == rank.address
    with pytest.raises(RankError, match="MASTER_ADDR"):
        parse_rank({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "3"})


def test_tasks_of_pmi_are_those_of_the_step() -> None:
    environ = {**TASK, "SLURM_PROCID": "1", "PMI_RANK": "1", "PMI_SIZE": "8", "PMI_JOBID": "12.0"}
    assert parse_worker(None, environ) == Worker(1, 8)
    assert parse_worker(None, {"PMI_RANK": "1", "PMI_SIZE": "4"}) == Worker(1, 4)


def test_steps_of_one_job_have_ports_of_their_own() -> None:
    ports = {parse_rank({**TASK, "SLURM_STEP_ID": str(step)}).address for step in range(50)}
    assert len(ports) == 50
