"""Which process of those started together this is, where variables outlive what they were set for."""

import os
import re
from pathlib import Path

import pytest

from vila2cli.devices import share_of
from vila2cli.errors import RankError, RecipeError
from vila2cli.ranks import Launched, launched, local_share, parse_rank
from vila2cli.run.workers import Worker, parse_worker, who_counts

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


TORCHRUN = {
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}
SKYPILOT = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
POD = {"JOB_COMPLETION_INDEX": "1"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}


@pytest.mark.parametrize(
    ("environ", "text", "worker", "how"),
    [
        (SKYPILOT, None, Worker(1, 2), "process 1 of 2 by SKYPILOT_NUM_NODES"),
        (TORCHRUN, None, Worker(9, 16), "process 9 of 16 by WORLD_SIZE"),
        (POD, "auto/8", Worker(1, 8), "pod 1 of an indexed Kubernetes job"),
        (POD, "1/8", Worker(1, 8), "pod 1 of an indexed Kubernetes job"),
        (POD, "0/1", Worker(0, 1), "--worker"),
        # torchrun on each of the nodes that another one counts
        ({**TORCHRUN, **SKYPILOT}, None, Worker(9, 16), "process 9 of 16 by WORLD_SIZE"),
        ({**TORCHRUN, **POD}, "auto/16", Worker(9, 16), "process 9 of 16 by WORLD_SIZE"),
        (
            {**TORCHRUN, **ARRAY},
            None,
            Worker(41, 48),
            "task 2/3 of a Slurm array, process 9 of 16 by WORLD_SIZE",
        ),
        (
            {**POD, **ARRAY},
            "auto/6",
            Worker(5, 6),
            "task 2/3 of a Slurm array, pod 1 of an indexed Kubernetes job",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", **SKYPILOT}, None, Worker(1, 2), "process 1 of 2 by WORLD_SIZE"),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1"}, None, Worker(), ""),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None, Worker(), ""),
        ({"RANK": "3"}, None, Worker(), ""),
    ],
)
def test_workers_are_numbered_as_a_launcher_does(
    environ: dict[str, str], text: str | None, worker: Worker, how: str
) -> None:
    assert parse_worker(text, environ) == worker
    assert who_counts(worker, environ) == how


@pytest.mark.parametrize(
    ("environ", "text", "words"),
    [
        (POD, None, "nothing says how many there are; give --worker auto/N"),
        (POD, "auto/1", "auto/1: this is pod 1 of an indexed Kubernetes job, which has more"),
        ({"JOB_COMPLETION_INDEX": "one"}, "auto/4", "JOB_COMPLETION_INDEX should hold a number, not 'one'"),
        ({}, "auto/4", "nothing says which of them this is"),
        (SKYPILOT, "auto/4", "there are 2"),
        ({"SKYPILOT_NODE_RANK": "2", "SKYPILOT_NUM_NODES": "2"}, None, "process 2 of 2, which cannot be"),
        ({"SKYPILOT_NODE_RANK": "1"}, None, "only one of SKYPILOT_NODE_RANK and SKYPILOT_NUM_NODES"),
        ({**TORCHRUN, "GROUP_WORLD_SIZE": "1", **SKYPILOT}, None, "do not agree"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", **SKYPILOT},
            None,
            "0 of 2 by WORLD_SIZE, and process 1 of 2 by SKYPILOT",
        ),
        ({**TORCHRUN, "JOB_COMPLETION_INDEX": "2"}, None, "on 2 nodes; give --worker i/n"),
        ({**SKYPILOT, "PMI_RANK": "1", "PMI_SIZE": "4"}, None, "do not agree"),
    ],
)
def test_launchers_that_do_not_agree_are_refused(environ: dict[str, str], text: str | None, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        parse_worker(text, environ)
    assert parse_worker("0/2", environ) == Worker(0, 2)


def test_a_training_under_torchrun_is_what_it_was(tmp_path: Path) -> None:
    rank = parse_rank({**TORCHRUN, **SKYPILOT, **POD}, tmp_path)
    assert (rank.index, rank.count, rank.local, rank.address) == (9, 16, 1, "env://")
    assert parse_rank({**SKYPILOT, **POD}, tmp_path).count == 1


def test_workers_that_torchrun_starts_on_a_node_share_its_gpus() -> None:
    assert local_share(TORCHRUN) == (1, 8)
    assert local_share({**SKYPILOT, **POD}) == (0, 1)
    names = ["0", "1", "2", "3", "4", "5"]
    assert [share_of(names, local, 2) for local in range(2)] == [names[:3], names[3:]]
    assert [share_of(names[:2], local, 3) for local in range(3)] == [["0"], ["1"], ["0"]]
