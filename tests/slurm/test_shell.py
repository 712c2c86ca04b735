"""Shells and jobs of a real Slurm in which only one process runs commands, and steps in which all do."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_until

TELL = f"""\
{sys.executable} - "$@" <<'PYTHON'
import json, os, sys
from vila2cli.errors import RecipeError
from vila2cli.ranks import parse_rank
from vila2cli.run.workers import parse_worker, who_counts
try:
    worker, rank = parse_worker(), parse_rank()
    found = [str(worker), who_counts(worker), [rank.index, rank.count]]
except RecipeError as error:
    found = ["refused", str(error), []]
open(sys.argv[1], "a").write(json.dumps(found) + chr(10))
PYTHON
"""


@pytest.fixture
def tell(tmp_path: Path) -> Path:
    script = tmp_path / "tell.sh"
    script.write_text(TELL)
    return script


def told(path: Path, count: int = 1) -> list[tuple[str, str, list[int]]]:
    """What processes said of themselves, once all of them did."""
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= count, f"{count} lines", timeout_s=120)
    return sorted(tuple(json.loads(line)) for line in path.read_text().splitlines())


def typed(words: list[str], lines: list[str], written: list[Path]) -> None:
    """Type lines at a terminal, each when the file of the one before is there, and wait for the end."""
    with subprocess.Popen(
        ["script", "--quiet", "--command", shlex.join(words), "/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdin is not None
        for line, path in zip(lines, written, strict=True):
            program.stdin.write(f"{line}\n")
            program.stdin.flush()
            wait_until(path.exists, str(path), timeout_s=120)
        program.stdin.write("exit\n")
        program.stdin.flush()
        assert program.wait(60) == 0


@pytest.mark.slurm
def test_the_shell_of_a_step_does_all_of_the_work(cluster: Cluster, tmp_path: Path, tell: Path) -> None:
    shell, nested = tmp_path / "shell", tmp_path / "nested"
    lines = [
        f"bash {tell} {shell} </dev/null",
        f"srun -n 2 --overlap bash {tell} {nested} </dev/null",
    ]
    typed(["srun", "-n", "4", "--pty", "bash", "--norc"], lines, [shell, nested])
    ((worker, how, rank),) = told(shell)
    assert (worker, rank) == ("0/1", [0, 1])
    assert "of the 4 tasks" in how
    assert [(worker, rank) for worker, _, rank in told(nested, 2)] == [("0/2", [0, 2]), ("1/2", [1, 2])]


@pytest.mark.slurm
def test_what_left_the_shells_session_is_refused(cluster: Cluster, tmp_path: Path, tell: Path) -> None:
    path = tmp_path / "left"
    typed(["srun", "-n", "4", "--pty", "bash", "--norc"], [f"setsid -f bash {tell} {path} </dev/null"], [path])
    ((worker, error, _),) = told(path)
    assert worker == "refused"
    assert "unset SLURM_STEP_NUM_TASKS" in error


@pytest.mark.slurm
def test_so_does_the_shell_of_an_allocation(cluster: Cluster, tmp_path: Path, tell: Path) -> None:
    shell, step = tmp_path / "shell", tmp_path / "step"
    typed(["salloc", "-n", "3"], [f"bash {tell} {shell}", f"srun bash {tell} {step} </dev/null"], [shell, step])
    assert [worker for worker, *_ in told(shell)] == ["0/1"]
    assert [worker for worker, *_ in told(step, 3)] == ["0/3", "1/3", "2/3"]


@pytest.mark.slurm
def test_a_batch_script_is_alone_and_its_steps_are_not(cluster: Cluster, tmp_path: Path, tell: Path) -> None:
    batch, step = tmp_path / "batch", tmp_path / "step"
    job = tmp_path / "job"
    job.write_text(f"#!/bin/sh\nbash {tell} {batch}\nsrun -n 3 bash {tell} {step}\n")
    stale = ["SLURM_STEP_NUM_TASKS=8", "SLURM_STEP_ID=0", "SLURM_PTY_PORT=1", "SLURM_TASK_PID=1"]
    cluster.run(["env", *stale, "sbatch", "-n", "3", "--output=/dev/null", str(job)])
    ((worker, how, rank),) = told(batch)
    assert (worker, rank) == ("0/1", [0, 1])
    assert "batch" in how
    assert [worker for worker, *_ in told(step, 3)] == ["0/3", "1/3", "2/3"]


@pytest.mark.slurm
def test_steps_within_an_array_and_over_several_jobs(cluster: Cluster, tmp_path: Path, tell: Path) -> None:
    array, several = tmp_path / "array", tmp_path / "several"
    words = ["sbatch", "-n", "2", "--array=0-1", "--output=/dev/null", f"--wrap=srun -n 2 bash {tell} {array}"]
    cluster.run(words)
    assert [worker for worker, *_ in told(array, 4)] == ["0/4", "1/4", "2/4", "3/4"]
    cluster.run(
        ["srun", "-n", "1", "bash", str(tell), str(several), ":", "-n", "2", "bash", str(tell), str(several)]
    )
    assert [worker for worker, *_ in told(several, 3)] == ["0/3", "1/3", "2/3"]
