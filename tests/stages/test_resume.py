"""A training that is killed or told to stop goes on to the very weights it would have had."""

import hashlib
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forks import Forked, Forks
from vila2cli.errors import DataError, Interrupted, RecipeError
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.stages.sft import sft
from vila2cli.world.write import write_world

SETS = [
    "sft.batch_size=2",
    "sft.epochs=3",
    "sft.learning_rate=5e-4",
    "sft.packing=true",
    "sft.pack_length=400",
    "trainer.checkpoint_every=9",
    "trainer.log_every=1",
]
NUM_STEPS = 24  # three passes over 16 samples


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("resume")
    sizes = {"pretrain": 1, "interleaved": 0, "text": 5, "sft": 11, "specialist": 1, "dev": 1, "eval": 1}
    sets = [*SETS, "world.samples_per_shard=4", f'data.sft="{folder}/sft"', f'data.text="{folder}/text"']
    loaded = load_recipe(None, [*sets, *(f"world.num_{name}={num}" for name, num in sizes.items() if num)])
    write_world(loaded, folder)
    (folder / "recipe.toml").write_text(
        f'data.sft = "{folder}/sft"\ndata.text = "{folder}/text"\n'
        + "\n".join(text.replace("=", " = ", 1) for text in SETS)
    )
    return load_recipe(folder / "recipe.toml")


@pytest.fixture(scope="module")
def dropping(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with dropout in the LLM's attention, so that random states count."""
    folder = tmp_path_factory.mktemp("dropping") / "checkpoint"
    folder.mkdir()
    for path in tiny_checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.1
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def start(forks: Forks, recipe: Recipe, model: Path, out: Path, count: int) -> list[Forked]:
    """The processes of a training, as a launcher starts them."""
    assert recipe.path is not None
    words = ["-m", "vila2cli", "sft", "--recipe", str(recipe.path), "--model", str(model), "--out", str(out)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    launched = {**where, "WORLD_SIZE": str(count)} if count > 1 else {}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if launched else {} for rank in range(count)]
    return [forks.start(words, launched | rank) for rank in ranks]


def finish(processes: list[Forked]) -> str:
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said[0]


def wait_for(path: Path, process: Forked) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "vila2.json").read_text())


@pytest.fixture(scope="module")
def straight(forks: Forks, recipe: Recipe, dropping: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All steps in one go, on two processes."""
    out = tmp_path_factory.mktemp("straight") / "out"
    finish(start(forks, recipe, dropping, out, 2))
    return out


@pytest.mark.slow
def test_killed_after_step_9_the_weights_are_bit_for_bit_the_same(
    forks: Forks, recipe: Recipe, dropping: Path, straight: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    processes = start(forks, recipe, dropping, out, 2)
    wait_for(partial / "checkpoint-0-9", processes[0])
    for process in processes:
        process.kill()
    assert not out.exists()
    assert not any(path.suffix in (".pt", ".bin", ".pkl", ".distcp") for path in partial.rglob("*"))
    said = finish(start(forks, recipe, dropping, out, 2))
    assert "going on after step 9" in said
    ours, theirs = weights(out), weights(straight)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [one["step"] for one in steps] == list(range(1, NUM_STEPS + 1))
    assert [p.name for p in out.iterdir() if p.is_dir()] == []
    for key in ("num_steps", "num_samples", "num_tokens", "final_loss", "seen", "padding"):
        assert summary(out)["phases"][0][key] == summary(straight)["phases"][0][key]
    assert summary(out)["phases"][0]["num_steps"] == NUM_STEPS


@pytest.mark.slow
def test_told_to_stop_two_processes_are_gone_on_with_by_one(
    forks: Forks, recipe: Recipe, dropping: Path, straight: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    processes = start(forks, recipe, dropping, out, 2)
    wait_for(partial / "checkpoint-0-9", processes[0])
    processes[0].send_signal(signal.SIGUSR1)  # one is enough
    assert [process.wait() for process in processes] == [Interrupted.exit_code] * 2
    marker = json.loads((partial / "requeue.json").read_text())
    assert (marker["processes"], marker["phase"]) == (2, 0)
    assert (partial / f"checkpoint-0-{marker['step']}").is_dir()
    said = finish(start(forks, recipe, dropping, out, 1))
    assert f"going on after step {marker['step']}" in said
    assert summary(out)["phases"][0]["seen"] == summary(straight)["phases"][0]["seen"]
    assert summary(out)["processes"] == 1
    assert not partial.exists()


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_and_exit_code_75(
    forks: Forks, recipe: Recipe, dropping: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    (process,) = start(forks, recipe, dropping, out, 1)
    wait_for(partial / "steps.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == Interrupted.exit_code, said
    assert "stopped by SIGTERM; run the same command again to go on" in said
    assert (partial / "requeue.json").exists()
    assert list(partial.glob("checkpoint-0-*"))
    assert recipe.path is not None
    other = load_recipe(recipe.path, ["sft.learning_rate=1e-4"])
    with pytest.raises(
        RecipeError, match=r"made with other settings: settings\.learning_rate was 0\.0005, now"
    ):
        sft(other, model=str(dropping), shards=None, out=out, round=None)


@pytest.mark.slow
def test_a_shard_that_is_replaced_meanwhile_ends_the_training(
    forks: Forks, recipe: Recipe, dropping: Path, tmp_path: Path
) -> None:
    """Its images are read by their places in the tar: others would be trained on under the old digest."""
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    (tar, *_) = (
        path for path in sorted(Path(recipe.data.sft[0]).glob("*.tar")) if b".jpg" in path.read_bytes()
    )
    data = tar.read_bytes()
    (process,) = start(forks, recipe, dropping, out, 1)
    wait_for(partial / "steps.jsonl", process)
    tar.write_bytes(data.replace(b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1"))
    try:
        _, said = process.communicate()
        assert process.returncode == DataError.exit_code, said
        assert said.splitlines()[-1].startswith(f"vila2: {tar} has changed while it is trained on")
        assert not out.exists()
    finally:
        tar.write_bytes(data)
    finish(start(forks, recipe, dropping, out, 1))  # only its time is another one now
    assert summary(out)["data"]["sft"][tar.stem] == hashlib.sha256(data).hexdigest()
