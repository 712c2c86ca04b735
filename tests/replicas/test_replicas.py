"""Two replicas of one core each write what one engine writes, whatever happens to them on the way."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from replica_data import NUM_SAMPLES, NUM_SHARDS, is_alive, open_heavy, replicas_of, tars

from forks import Forked, Forks
from vila2cli.ask import replicas
from vila2cli.engine.placing import EnginePlan
from vila2cli.errors import ModelError
from vila2cli.run.stopping import interruptible
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import load_recipe
from vila2cli.stages.recaption import recaption

SETS = ("recaption.engine=hf", "recaption.max_new_tokens=32", "recaption.max_reject_rate=1.0")
TWO = "engine.replicas=2"


Write = Callable[..., dict[str, bytes]]
Begin = Callable[[], Forked]


@pytest.fixture(scope="session")
def alone(shards: Path, random_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one engine writes."""
    out = tmp_path_factory.mktemp("alone")
    recaption(load_recipe(None, SETS), shards=[str(shards)], model=random_vlm, out=out, round=1)
    return tars(out)


@pytest.fixture
def write(shards: Path, random_vlm: Path, tmp_path: Path) -> Write:
    def call(*sets: str) -> dict[str, bytes]:
        recipe = load_recipe(None, [*SETS, *sets])
        recaption(recipe, shards=[str(shards)], model=random_vlm, out=tmp_path / "out", round=1)
        return tars(tmp_path / "out")

    return call


@pytest.fixture
def begin(forks: Forks, shards: Path, random_vlm: Path, tmp_path: Path) -> Begin:
    """Start the command with two replicas."""

    def call() -> Forked:
        words = ["--shards", str(shards), "--model", str(random_vlm), "--out", str(tmp_path / "out")]
        words += ["--round", "1", *(word for one in (*SETS, TWO) for word in ("--set", one))]
        return forks.start(["-m", "vila2cli", "recaption", *words])

    return call


def until(holds: Callable[[], object], process: Forked) -> None:
    """Wait until something is so, or the process has ended."""
    while not holds() and process.poll() is None:
        time.sleep(0.02)


def num_done(out: Path) -> int:
    return len(list(out.glob("*.stats.json")))


def test_the_layer_is_that_of_one_engine_with_one_log_and_one_account(
    write: Write, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    assert write(TWO) == alone
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    engine, batch, waited = [line["note"] for line in log if "note" in line]
    assert (engine, batch) == ("engine: hf (as set)", "batch size 128 (as set)")
    assert waited.startswith("the model waited ")
    assert log[-1]["done"] == log[-1]["total"] == NUM_SHARDS * NUM_SAMPLES
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cost"]["num_devices"] == 2, "cores"
    assert summary["num_shards_done"] == NUM_SHARDS


def test_a_replica_that_is_killed_is_started_again(
    begin: Begin, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    process = begin()
    until(lambda: num_done(tmp_path / "out"), process)
    killed = replicas_of(process.pid)
    assert len(killed) == 2
    os.kill(killed[0], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "ended by SIGKILL and is started again" in errors
    assert tars(tmp_path / "out") == alone
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["done"] == NUM_SHARDS * NUM_SAMPLES, "nothing is counted twice"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda one: one.name)
def test_replicas_end_with_the_command_which_goes_on_where_it_stopped(
    begin: Begin,
    write: Write,
    number: signal.Signals,
    tmp_path: Path,
    alone: dict[str, bytes],
) -> None:
    out, random = tmp_path / "out", Random(number)
    process = begin()
    # While they load, or some shards later.
    least = random.randrange(3)
    until(lambda: len(replicas_of(process.pid)) == 2 and num_done(out) >= least, process)
    running = replicas_of(process.pid)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 75)
    for _ in range(500):
        if not any(map(is_alive, running)):
            break
        time.sleep(0.01)
    assert not any(map(is_alive, running)), "no process is left behind"
    assert all(alone[name] == data for name, data in tars(out).items())
    assert write() == alone, "one engine goes on where two stopped"
    assert not list(out.glob("*.partial"))


def test_what_a_replica_cannot_do_is_the_error_of_the_command(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"engine\.quantization is for the vllm engine"):
        write(TWO, "engine.quantization=fp8")
    assert not list((tmp_path / "out").glob("*.tar.gz"))
    assert not replicas_of(os.getpid())


def test_a_replica_ends_without_freeing_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes seconds with torch, in which it would outlive a parent that is killed."""
    monkeypatch.setattr(replicas, "_GRACE_S", 60)
    plan = EnginePlan(1, 1, "core")
    with interruptible() as stop, replicas.Replicas(open_heavy, plan, Worker(), stop) as started:
        assert started.name == "heavy"
        (replica,) = started._processes
    assert replica.process.returncode == 0, "not killed"
