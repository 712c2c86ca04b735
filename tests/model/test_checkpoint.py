import os
from pathlib import Path

import pytest

from vila2cli.errors import ModelError
from vila2cli.model.checkpoint import resolve_model, weights_sha256


def checkpoint(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def test_the_hash_is_of_contents_and_not_of_the_path(tmp_path: Path) -> None:
    here, there = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b" / "c")
    assert weights_sha256(here) == weights_sha256(there) == weights_sha256(str(here))
    for name in ("training.log", "lineage.json", "metrics.json", "model.safetensors.index.json"):
        (there / name).write_text("not part of it")
    assert weights_sha256(there) == weights_sha256(here)


def test_weights_config_and_template_change_the_hash(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    hashes = {weights_sha256(folder)}
    for name in ("model.safetensors", "config.json", "chat_template.jinja"):
        (folder / name).write_text("something else")
        hashes.add(weights_sha256(folder))
    assert len(hashes) == 4


def test_a_rewritten_file_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", b"1234")
    before = weights_sha256(folder)
    (folder / "model.safetensors").write_bytes(b"4321")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert weights_sha256(folder) != before


def test_missing_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model folder runs/world/round0/sft does not exist"):
        resolve_model("runs/world/round0/sft")
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model(tmp_path / "nothing")
    (tmp_path / "plain").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(tmp_path / "plain")
    (tmp_path / "plain" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="was the training stage finished"):
        resolve_model(tmp_path / "plain")
    assert resolve_model(checkpoint(tmp_path / "good")) == tmp_path / "good"
