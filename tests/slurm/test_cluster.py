"""A round on a real Slurm, disturbed in every way that a cluster knows, against the same round undisturbed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_until

from vila2cli.cli.app import main
from vila2cli.run.slurm.queue import submit_job, tasks_of
from vila2cli.settings.recipe import load_recipe, resolved_lines

REPO = Path(__file__).parents[2]
SETS = [
    "rounds=1",
    "world.num_pretrain=24",
    "world.num_interleaved=1",
    "world.num_text=2",
    "world.num_sft=4",
    "world.num_specialist=1",
    "world.num_dev=1",
    "world.num_eval=2",
    "world.samples_per_shard=6",
    "recaption.max_new_tokens=16",
    "recaption.retry_temperatures=[]",
    "recaption.max_reject_rate=1.0",
    "recaption.batch_size=2",
    "pretrain.align.epochs=1.0",
    "pretrain.main.epochs=1.0",
    "pretrain.main.batch_size=12",
    "sft.epochs=1.0",
    "judge.num_samples=2",
    'judge.judges=["oracle"]',
    'eval.tasks=["data/world/eval/ocr"]',
    "eval.num_bootstrap=10",
    "eval.max_new_tokens=8",
    "slurm.array=2",
    "slurm.stages.eval.array=1",
    "slurm.max_kills=2",
]
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def prepare(folder: Path) -> Path:
    """A folder with a small recipe; the paths inside it are the same wherever it is."""
    program = f"slurm.program={sys.executable} -m vila2cli"
    recipe = load_recipe(REPO / "recipes" / "world.toml", [*SETS, program])
    lines = [line.rpartition("  # ")[0] for line in resolved_lines(recipe)]
    (folder / "tiny.toml").write_text("\n".join(lines) + "\n")
    return folder


def vila2(*words: str) -> None:
    assert main([*words, "--recipe", "tiny.toml"]) == 0, words


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 1 without Slurm."""
    folder = prepare(tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        vila2("world")
        for stage in ("pretrain", "sft", "eval"):
            vila2(stage, "--round", "0")
        for stage in ("recaption", "pretrain", "sft", "eval", "judge"):
            vila2(stage, "--round", "1")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of the layers and weights of a run."""
    run = folder / "runs" / "world"
    files = [file for suffix in ("tar", "tar.gz", "safetensors") for file in run.rglob(f"*.{suffix}")]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class Run:
    """`LAUNCH=slurm make round1` in a folder, and what became of its jobs."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.slurm = folder / "runs" / "world" / "slurm"

    def submit(self) -> str:
        """The output of make, which finds the package installed and the data drawn."""
        words = ["make", "-f", str(REPO / "Makefile"), "round1", "LAUNCH=slurm", "RECIPE=tiny.toml"]
        words += [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/installed", "-o", "data/world/world.json"]
        environ = {**os.environ, "SLURM_CONF": str(self.cluster.config)}
        found = subprocess.run(words, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        return found.stdout

    def job(self, stage: str) -> str:
        """The number of the last job of a stage."""
        return str(json.loads((self.slurm / f"{stage}.json").read_text())["jobs"][-1]["job"])

    def state(self, stage: str, task: int | None = None) -> str:
        name = self.job(stage) if task is None else f"{self.job(stage)}_{task}"
        return self.cluster.states().get(name, "UNKNOWN")

    def await_state(self, stage: str, *states: str, task: int | None = None) -> None:
        """Wait until a job is in one of the states; it failing meanwhile ends the test with its log."""

        def holds() -> bool:
            state = self.state(stage, task)
            assert state not in ("FAILED", "CANCELLED") or state in states, self.log(stage)
            return state in states

        try:
            wait_until(holds, f"{stage} in {states}", timeout_s=900, every_s=0.2)
        except TimeoutError as error:
            raise AssertionError(f"{error}; {self.cluster.states()}; {self.log(stage)}") from error

    def log(self, stage: str) -> str:
        return "\n".join(path.read_text() for path in self.slurm.glob(f"logs/{stage}-*.log"))

    def exists(self, name: str) -> bool:
        return (self.folder / "runs" / "world" / name).exists()


@pytest.fixture(scope="module")
def run(cluster: Cluster, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same round on Slurm: preempted, killed, its node taken down, one job cancelled, and tried again."""
    folder = prepare(tmp_path_factory.mktemp("disturbed"))
    shutil.copytree(undisturbed / "data", folder / "data")
    run = Run(folder, cluster)
    first = run.submit()
    assert first.count("submitted as") == 8, first
    assert "in the queue" in (again := run.submit()), again
    assert "submitted as" not in again
    preempt(run, "round0-pretrain")
    kill_a_task(run)
    lose_the_node(run, "round1-sft")
    cancel(run, "round1-eval")
    for task in range(2):
        run.await_state("round1-judge", "COMPLETED", task=task)
    return run


def preempt(run: Run, stage: str) -> None:
    """Take all nodes from a training by a job of a partition that goes first."""
    wait_until(lambda: run.exists("round0/pretrain.partial"), "training", timeout_s=900, every_s=0.02)
    words = ["sbatch", "--parsable", "--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null"]
    urgent = run.cluster.run([*words, "--wrap", "sleep 1"])
    wait_until(lambda: run.cluster.states()[urgent] == "COMPLETED", "urgent job", timeout_s=300)
    assert run.cluster.field(run.job(stage), "Restarts") == "1", run.log(stage)


def kill_a_task(run: Run) -> None:
    """End one task of the array as the kernel does when memory is used up."""
    run.await_state("round1-recaption", "RUNNING", task=1)
    job = f"{run.job('round1-recaption')}_1"
    wait_until(
        lambda: ".0" in run.cluster.run(["squeue", "-h", "-s", "-j", job]), "a step of the task", timeout_s=300
    )
    run.cluster.run(["scancel", "--signal=KILL", f"{job}.0"])
    run.await_state("round1-recaption", "COMPLETED", task=1)
    assert run.cluster.field(job, "Restarts") == "1"


def lose_the_node(run: Run, stage: str) -> None:
    """Take the node of a running job down, and give it back."""
    run.await_state(stage, "RUNNING")
    node = run.cluster.field(run.job(stage), "NodeList")
    run.cluster.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"])
    wait_until(lambda: run.state(stage) != "RUNNING", "requeueing", timeout_s=300)
    # A node that answers may be back by itself, and resuming it is then an error.
    run.cluster.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)
    run.await_state(stage, "COMPLETED")
    assert run.cluster.field(run.job(stage), "Restarts") == "1"


def cancel(run: Run, stage: str) -> None:
    """Cancel a running job, which must not come back by itself."""
    run.await_state(stage, "RUNNING")
    run.cluster.run(["scancel", run.job(stage)])
    run.await_state(stage, "CANCELLED")


def test_a_disturbed_run_ends_with_the_same_layers_and_weights(run: Run, undisturbed: Path) -> None:
    expected = {
        name: sha256
        for name, sha256 in contents(undisturbed).items()
        if not name.startswith("round1/eval")  # which was cancelled
    }
    assert {name.rpartition("/")[0] for name in expected} >= {"round0/sft", "round1/recaption", "round1/sft"}
    assert contents(run.folder) == expected


def test_retry_submits_what_is_missing_alone(
    run: Run, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.folder)
    vila2("slurm", "status")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.pop("round1-eval").startswith(f"job {run.job('round1-eval')}: cancelled")
    assert set(lines.values()) == {"complete"}
    vila2("slurm", "retry")
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if not line.endswith(": complete")] == [
        f"round1-eval: submitted as {run.job('round1-eval')}"
    ]
    run.await_state("round1-eval", "COMPLETED")
    vila2("slurm", "retry")
    assert {line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()} == {"complete"}
    assert contents(run.folder) == contents(undisturbed)


def test_single_tasks_of_an_array_are_submitted_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.folder)
    layer = Path("runs/world/round1/recaption")
    before = (layer / "000001.tar.gz").read_bytes()
    (layer / "000001.tar.gz").unlink()
    vila2("slurm", "retry")
    line = next(line for line in capsys.readouterr().out.splitlines() if "recaption" in line)
    assert line.endswith(", 1 of 2 tasks")
    run.await_state("round1-recaption", "COMPLETED", task=1)
    assert (layer / "000001.tar.gz").read_bytes() == before
    assert f"{run.job('round1-recaption')}_0" not in run.cluster.states()


def test_a_stage_whose_predecessor_fails_is_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\n#SBATCH --kill-on-invalid-dep=yes\nexit 4\n")
    first = submit_job(script)
    second = submit_job(script, after=[str(first)])
    wait_until(lambda: not any(task.is_alive for task in tasks_of([first, second])), "the end of both")
    states = {task.job: task.state for task in tasks_of([first, second])}
    assert states == {first: "FAILED", second: "CANCELLED"}
