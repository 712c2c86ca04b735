"""Checkpoints to go on from: a moment is kept once, and one that was stopped says so."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from vila2cli.errors import DataError
from vila2cli.train.distribution import alone
from vila2cli.train.resume import MARKER, Checkpoints


def opened(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder, alone())
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


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The system's limit on the size of a file, which a write runs into as into the end of a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    net = torch.nn.Linear(64, 64)
    checkpoints = opened(tmp_path)
    checkpoints.cursor.step = 4
    checkpoints.save(net, None)
    checkpoints.cursor.step = 5
    with files_of_at_most(4096), pytest.raises(DataError, match=r"checkpoint-0-5\.partial.*too large"):
        checkpoints.save(net, None)
    assert opened(tmp_path).cursor.step == 4
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-0-4"]


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    checkpoints = opened(partial)
    shutil.rmtree(partial)
    with pytest.raises(DataError, match="No such file or directory"):
        checkpoints.save(torch.nn.Linear(2, 2), None)
