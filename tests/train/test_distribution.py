"""Several processes on one machine: they train as one, and say which of them is missing."""

import json
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forks import Forks
from vila2cli.errors import RecipeError
from vila2cli.ranks import Rank, first_node, parse_rank
from vila2cli.shards import TarWriter, open_source
from vila2cli.train.distribution import own_gpu

SCRIPT = Path(__file__).with_name("processes.py")
SIZES = {"a": 7, "b": 1, "c": 4, "d": 2, "e": 3}


def launch(
    forks: Forks,
    scenario: str,
    count: int,
    checkpoint: Path,
    out: Path,
    expected: int | None = None,
    **environ: str,
) -> list[dict[str, Any]]:
    """What each process of a scenario found; waits for the first `expected` of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(exist_ok=True)
    arguments = [str(count), str(port), str(checkpoint), str(out)]
    started = [forks.start([str(SCRIPT), scenario, str(rank), *arguments], environ) for rank in range(count)]
    try:
        for process in started[:expected]:
            _, said = process.communicate()
            assert process.returncode == 0, said
            sys.stderr.write(said)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads((out / f"{scenario}-{rank}.json").read_text()) for rank in range(expected or count)]


def assert_close(one: Path, other: Path) -> None:
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name.endswith("k_proj.bias"):
            continue  # shifts all scores of a query alike: its gradient is rounding alone, which Adam scales up
        torch.testing.assert_close(
            value, theirs[name], rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.fixture(scope="module")
def alone(forks: Forks, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    launch(forks, "uneven", 1, tiny_checkpoint, out)
    return out


@pytest.fixture(scope="module")
def pair(forks: Forks, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pair")
    launch(forks, "uneven", 2, tiny_checkpoint, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
def test_uneven_sources_on_several_processes(
    count: int, forks: Forks, tiny_checkpoint: Path, alone: Path, pair: Path, tmp_path: Path
) -> None:
    """Text alone in some passes, short last batches, and as many samples as one process would see."""
    out = pair if count == 2 else tmp_path
    if count > 2:
        launch(forks, "uneven", count, tiny_checkpoint, out)
    found = [json.loads((out / f"uneven-{rank}.json").read_text()) for rank in range(count)]
    assert {one["steps"] for one in found} == {3}
    read = Counter(i for one in found for i in one["read"])
    assert read == dict.fromkeys(range(17), 1)
    assert {name: seen["samples"] for name, seen in found[0]["seen"].items()} == SIZES
    assert len({json.dumps(one["seen"]) for one in found}) == 1
    assert_close(out / "weights.safetensors", alone / "weights.safetensors")


@pytest.mark.slow
def test_sharded_weights_train_and_resume_as_whole_ones(
    forks: Forks, tiny_checkpoint: Path, alone: Path, tmp_path: Path
) -> None:
    first, second = launch(forks, "sharded", 2, tiny_checkpoint, tmp_path)
    assert_close(tmp_path / "weights.safetensors", alone / "weights.safetensors")
    weights, resumed = load_file(tmp_path / "weights.safetensors"), load_file(tmp_path / "resumed.safetensors")
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    assert (first["gathered"], second["gathered"]) == (len(weights), 0)
    assert first["tied"]
    assert second["tied"]
    assert first["later"] == second["later"] < first["loss"]


@pytest.mark.slow
def test_each_process_digests_its_share(forks: Forks, tiny_checkpoint: Path, tmp_path: Path) -> None:
    names = {"many": 5, "few": 2}
    for name, num in names.items():
        for i in range(num):
            with TarWriter(tmp_path / name / f"{i:06}.tar") as tar:
                tar.write_sample(f"{name}{i}", {"txt": b"text"})
    first, second = launch(forks, "digested", 2, tiny_checkpoint, tmp_path)
    assert first["found"] == second["found"]
    assert first["found"]["data"] == {name: open_source([str(tmp_path / name)]).digest() for name in names}
    assert (len(first["read"]), len(second["read"])) == (4, 3)


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named(
    forks: Forks, tiny_checkpoint: Path, pair: Path, tmp_path: Path
) -> None:
    read = json.loads((pair / "uneven-1.json").read_text())["read"]
    slow = {"SLOW": str(read[3]), "TIMEOUT": "5"}
    (first,) = launch(forks, "stalled", 2, tiny_checkpoint, tmp_path, expected=1, **slow)
    assert "before step 2: process 1 does not answer (this is process 0 of 2)" in first["error"]


@pytest.mark.slow
def test_a_process_that_stops_within_a_step_is_named_before_the_group_gives_up(
    forks: Forks, tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (first,) = launch(forks, "held", 2, tiny_checkpoint, tmp_path, expected=1, TIMEOUT="5")
    said = capfd.readouterr().err
    assert "step 2: process 1 has not come as far as the others (after 5 seconds)" in said
    assert "step 2: process 1 does not answer (this is process 0 of 2)" in first["error"]


@pytest.mark.parametrize(("place", "where"), [("any", "before step 1"), ("checkpoint", "writing a checkpoint")])
def test_a_process_that_ends_between_two_steps_is_named(
    forks: Forks, tiny_checkpoint: Path, tmp_path: Path, place: str, where: str
) -> None:
    (first,) = launch(forks, "gone", 3, tiny_checkpoint, tmp_path, expected=1, WHERE=place)
    assert f"{where}: process 1, 2 does not answer (this is process 0 of 3)" in first["error"]
    assert "start all of them again" in first["error"]


@pytest.mark.slow
def test_a_process_that_ends_when_all_have_met_is_not_waited_for_days(
    forks: Forks, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (first,) = launch(forks, "lost", 2, tiny_checkpoint, tmp_path, expected=1)
    assert "process 0 of 2 found no others at tcp://127.0.0.1:" in first["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("Wrapped", "handing out the weights"),
        ("put", "reading a checkpoint"),
        ("_gathered", "gathering the weights"),
    ],
)
def test_a_process_that_ends_while_parts_are_exchanged_is_named(
    forks: Forks, tiny_checkpoint: Path, tmp_path: Path, place: str, where: str
) -> None:
    (first,) = launch(forks, "parted", 2, tiny_checkpoint, tmp_path, expected=1, WHERE=place)
    assert f"{where}: process 1 does not answer (this is process 0 of 2)" in first["error"]
    assert "start all of them again" in first["error"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Rank()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(3, 8, 1, "env://")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, Rank()),
        (
            {
                "SLURM_PROCID": "5",
                "SLURM_STEP_NUM_TASKS": "8",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_NODELIST": "gpu[07-09,12]",
                "SLURM_JOB_ID": "40123",
            },
            Rank(5, 8, 1, "tcp://gpu07:20123"),
        ),
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "MASTER_ADDR": "10.0.0.1",
                "MASTER_PORT": "29500",
            },
            Rank(1, 2, 0, "tcp://10.0.0.1:29500"),
        ),
    ],
)
def test_the_launchers_say_which_process_this_is(environ: dict[str, str], expected: Rank) -> None:
    assert parse_rank(environ) == expected


@pytest.mark.parametrize(
    ("nodes", "first"), [("n1", "n1"), ("n1,n2", "n1"), ("gpu[07-09,12]", "gpu07"), ("a[1,3]-ib,b", "a1-ib")]
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_more_processes_than_gpus_are_refused() -> None:
    assert [own_gpu(local, ["0", "3"]) for local in range(2)] == [0, 1]
    assert own_gpu(3, ["0"]) == 0, "each task of Slurm's sees one of its own"
    with pytest.raises(RecipeError, match=r"process 2 of this node has no GPU .* 2 are visible, 0,3; start"):
        own_gpu(2, ["0", "3"])
