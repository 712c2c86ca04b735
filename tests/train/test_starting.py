"""A training starts its processes itself: weights as under torchrun, one error, nothing left behind."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from forks import Forked, Forks
from vila2cli.errors import Interrupted, OutOfMemory, RankError, RecipeError
from vila2cli.ranks import is_launched
from vila2cli.settings import TrainerSettings, TrainSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.train.memory import naming_what_to_lower
from vila2cli.train.starting import num_processes

ENVIRON = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LONG = ("--set", "sft.epochs=2000", "--set", "trainer.log_every=1")


@pytest.fixture
def sft(recipe: Path, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a training of two processes."""

    def words(out: str, *more: str) -> list[str]:
        named = ["sft", "--recipe", str(recipe), "--model", str(tiny_checkpoint), "--out", str(tmp_path / out)]
        return [*named, "--set", "trainer.processes=2", *more]

    return words


def begun(forks: Forks, words: list[str], out: Path) -> tuple[Forked, list[int]]:
    """A training after its first steps, and the numbers of its processes."""
    process = forks.start(["-m", "vila2cli", *words, *LONG], ENVIRON)
    steps = out.with_name(f"{out.name}.partial") / "steps.jsonl"
    while not steps.is_file() or not steps.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    return process, [int(child) for child in children]


def await_end_of(pids: list[int]) -> None:
    for pid in pids:
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)


def test_the_weights_are_those_of_torchrun(forks: Forks, sft: Callable[..., list[str]], tmp_path: Path) -> None:
    own = forks.start(["-m", "vila2cli", *sft("own"), "--json"], ENVIRON)
    printed, said = own.communicate()
    assert own.returncode == 0, said
    assert json.loads(printed)["processes"] == 2
    assert json.loads((tmp_path / "own" / "vila2.json").read_text())["processes"] == 2
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vila2cli"]
    theirs = forks.start([*torchrun, *sft("theirs")], ENVIRON)
    _, said = theirs.communicate()
    assert theirs.returncode == 0, said
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("own", "theirs")]
    assert weights[0] == weights[1]


def test_an_error_of_both_is_said_once(forks: Forks, sft: Callable[..., list[str]]) -> None:
    words = sft("out", "--set", "sft.mixture.nobody.epochs=0.5")
    ended = forks.start(["-m", "vila2cli", *words], ENVIRON)
    _, said = ended.communicate()
    assert ended.returncode == RecipeError.exit_code
    assert said == "vila2: sft: mixture.nobody is none of its sources (sft, text)\n"


def test_a_signal_saves_and_stops_all(forks: Forks, sft: Callable[..., list[str]], tmp_path: Path) -> None:
    process, children = begun(forks, sft("out"), tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == Interrupted.exit_code
    assert said.splitlines()[-1] == "vila2: stopped by SIGTERM; run the same command again to go on"
    assert said.count("vila2:") == 1
    await_end_of(children)
    (checkpoint,) = (tmp_path / "out.partial").glob("checkpoint-0-*")
    assert (checkpoint / "state.json").is_file()


def test_a_signal_behind_the_last_step_stops_nothing(
    forks: Forks, sft: Callable[..., list[str]], tmp_path: Path
) -> None:
    process = forks.start(["-m", "vila2cli", *sft("late")], ENVIRON)
    while not (tmp_path / "late.partial" / "config.json").is_file() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert (tmp_path / "late" / "vila2.json").is_file()


def test_the_processes_save_and_end_when_the_first_command_is_killed(
    forks: Forks, sft: Callable[..., list[str]], tmp_path: Path
) -> None:
    process, children = begun(forks, sft("out"), tmp_path / "out")
    process.kill()
    process.communicate()
    await_end_of(children)
    assert list((tmp_path / "out.partial").glob("checkpoint-0-*"))


def test_a_process_that_is_killed_is_named(forks: Forks, sft: Callable[..., list[str]], tmp_path: Path) -> None:
    process, children = begun(forks, sft("out"), tmp_path / "out")
    os.kill(children[1], signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == RankError.exit_code
    assert "process 1" in said.splitlines()[-1]
    assert said.count("vila2:") == 1
    await_end_of(children)


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_again(
    forks: Forks, sft: Callable[..., list[str]], tmp_path: Path
) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    longer = ("sft.epochs=8", "trainer.log_every=1", "trainer.checkpoint_every=1")
    more = [word for one in longer for word in ("--set", one)]
    process = forks.start([*torchrun, "-m", "vila2cli", *sft("out", *more)], ENVIRON)
    while not (tmp_path / "out.partial" / "checkpoint-0-1").is_dir():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "going on after step" in said
    assert json.loads((tmp_path / "out" / "vila2.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("environ", "is_there"),
    [
        ({}, False),
        ({"RANK": "0", "WORLD_SIZE": "1"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, True),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, True),
    ],
)
def test_nothing_is_started_under_a_launcher(environ: dict[str, str], is_there: bool, tmp_path: Path) -> None:
    assert is_launched(environ, tmp_path) is is_there
    if "SLURM_JOB_ID" not in environ:
        assert num_processes(TrainerSettings(processes=2), environ) == (1 if is_there else 2)


def test_auto_is_one_process_without_a_gpu() -> None:
    assert num_processes(TrainerSettings(), {"ACCELERATE_USE_CPU": "true"}) == 1


def test_out_of_memory_names_what_to_lower() -> None:
    settings = TrainSettings(batch_size=64, micro_batch_size=16)
    with (
        pytest.raises(
            OutOfMemory, match=r"^sft: out of main memory; set sft\.micro_batch_size = 8 .*\(now 16\)"
        ),
        naming_what_to_lower("sft", "sft", settings, Recipe(), 1),
    ):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shape"), naming_what_to_lower("sft", "sft", settings, Recipe(), 1):
        torch.ones(2) @ torch.ones(3, 1)
