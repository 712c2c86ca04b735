"""Checkpoints to go on from: a moment is kept once, and one that was stopped says so."""

import json
from pathlib import Path

import torch

from vila2cli.ranks import Rank
from vila2cli.train.distribution import Ranks
from vila2cli.train.resume import MARKER, Checkpoints


def opened(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder, Ranks(Rank(), torch.device("cpu"), 0.0))
    checkpoints.open({"stage": "sft"})
    return checkpoints


def test_a_stop_right_after_a_checkpoint_leaves_it_and_the_marker(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoints = opened(tmp_path)
    checkpoints.cursor.step = 4
    checkpoints.save(net, optimizer)
    written = (tmp_path / "checkpoint-0-4" / "model.safetensors").stat().st_mtime_ns
    checkpoints.save(net, optimizer, stopped="SIGTERM")
    assert (tmp_path / "checkpoint-0-4" / "model.safetensors").stat().st_mtime_ns == written
    assert json.loads((tmp_path / MARKER).read_text())["step"] == 4
    checkpoints.cursor.step = 5
    checkpoints.save(net, optimizer)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-0-5"]
    assert opened(tmp_path).cursor.step == 5
