import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from vila2cli.errors import ModelError
from vila2cli.model.checkpoint import looks_local, model_name, own_dtype, resolve_model, weights_sha256


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


def test_the_number_format_is_what_the_config_states_or_most_weights_have(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    weights = {"large": torch.zeros(9, 9, dtype=torch.bfloat16), "small": torch.zeros(3)}
    save_file(weights, folder / "model.safetensors")
    for config, expected in [
        ('{"dtype": "float32"}', "float32"),
        ('{"torch_dtype": "float16"}', "float16"),
        ('{"text_config": {"dtype": "float16"}}', "float16"),
        ("{}", "bfloat16"),
    ]:
        (folder / "config.json").write_text(config)
        assert own_dtype(folder) == expected
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read"):
        own_dtype(folder)
    with pytest.raises(ModelError, match="damaged or cut off"):
        own_dtype(checkpoint(tmp_path / "b"))


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


def test_weights_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        ModelError, match=r"model\.safetensors is a pointer of Git LFS .* run git lfs pull in .*a$"
    ):
        resolve_model(folder)
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"")
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"such as its pytorch_model-00001-of-00002\.bin: .* save_pretrained"):
        resolve_model(folder)


def test_a_repository_of_the_hub_cache_is_not_its_snapshot(tmp_path: Path) -> None:
    snapshot = checkpoint(tmp_path / "models--org--name" / "snapshots" / ("a" * 40))
    with pytest.raises(ModelError, match=f"no config.json; give {snapshot}$"):
        resolve_model(tmp_path / "models--org--name")


COMMITS = {"main": "a" * 40, "v1.0": "b" * 40}


@pytest.fixture
def hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository of its own in a hub cache as huggingface_hub lays it out: two revisions, no network."""
    repo = tmp_path / f"models--org--{tmp_path.name}"
    (repo / "refs").mkdir(parents=True)
    for ref, commit in COMMITS.items():
        (repo / "refs" / ref).write_text(commit)
        checkpoint(repo / "snapshots" / commit, weights=ref.encode())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return f"org/{tmp_path.name}"


def test_a_hub_id_is_resolved_to_its_commit(hub_id: str) -> None:
    for ref, commit in COMMITS.items():
        for revision in (ref, commit):
            assert resolve_model(f"{hub_id}@{revision}").parts[-2:] == ("snapshots", commit)
            assert (resolve_model(f"{hub_id}@{revision}") / "model.safetensors").read_text() == ref
            assert model_name(f"{hub_id}@{revision}") == f"{hub_id}@{commit}"
    assert model_name(hub_id) == f"{hub_id}@{COMMITS['main']}"


def test_a_hub_id_keeps_its_commit_while_the_process_runs(hub_id: str, tmp_path: Path) -> None:
    before = model_name(f"{hub_id}@main")
    (tmp_path / f"models--org--{tmp_path.name}" / "refs" / "main").write_text(COMMITS["v1.0"])
    assert model_name(f"{hub_id}@main") == before == f"{hub_id}@{COMMITS['main']}"


def test_an_unknown_revision_is_a_one_line_error(hub_id: str) -> None:
    with pytest.raises(ModelError, match=f"{hub_id}@nothing is neither a folder nor") as caught:
        resolve_model(f"{hub_id}@nothing")
    assert "\n" not in str(caught.value)


def test_a_mistyped_path_is_told_from_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt").mkdir()
    assert all(map(looks_local, ("./tower", "models/tower", "ckpt/r22", "/data/tower", "ckpt/r1/sft")))
    assert not any(map(looks_local, ("org/tower", "tower", "org/tower@main")))


def test_a_folder_keeps_its_name(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "round1@home")
    assert model_name(folder) == str(folder)
    assert resolve_model(folder) == folder
