"""What is found out about a checkpoint before vLLM loads it: whole weights, and the head it answers with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lora_adapter import write_adapter
from vila2cli.engine import EngineSettings, Request, choose_engine, open_engine
from vila2cli.engine.vllm_support import check_whole, why_not
from vila2cli.errors import ModelError
from vila2cli.model.loading import is_tied
from vila2cli.model.saving import save_checkpoint
from vila2cli.shards.sample import Turn

needs_vllm = pytest.mark.vllm


def copied(source: Path, folder: Path, drop: str = "") -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    if drop:
        del tensors[drop]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_ties(source: Path, folder: Path, *, own: bool, text: bool) -> Path:
    """A copy whose config says so at its two places; untied it has a head of its own, else it has none."""
    copied(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"] = own, text
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    words = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    if not own:
        tensors["lm_head.weight"] = torch.randn_like(tensors[words])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_without_one_of_the_weights_that_vllm_fuses_is_refused(
    random_vlm: Path, tmp_path: Path
) -> None:
    check_whole(random_vlm)
    lost = "model.text_model.layers.0.self_attn.k_proj.weight"
    folder = copied(random_vlm, tmp_path / "lacking", drop=lost)
    with pytest.raises(ModelError, match=f"lacking lacks 1 weights of its architecture, the first is {lost}$"):
        check_whole(folder)


@pytest.mark.vllm
@needs_vllm
@pytest.mark.parametrize("kind", ["hf", "vllm", "auto"])
def test_every_engine_refuses_it_in_the_same_line(kind: str, random_vlm: Path, tmp_path: Path) -> None:
    lost = "model.text_model.layers.1.mlp.gate_proj.weight"
    folder = copied(random_vlm, tmp_path / "lacking", drop=lost)
    with pytest.raises(ModelError) as caught:
        open_engine(kind, folder, EngineSettings(dtype="float32"))
    assert str(caught.value) == f"{folder} lacks 1 weights of its architecture, the first is {lost}"


def test_an_adapter_is_held_against_its_model(random_vlm: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    whole = write_adapter(random_vlm, tmp_path / "whole", seed=0, rank=4)
    check_whole(random_vlm, [str(whole)])
    tensors = load_file(whole / "adapter_model.safetensors")
    first = min(tensors)
    for name, change in {
        "lacks": lambda own: own.pop(first),
        "has no place": lambda own: own.update({first.replace("layers.0", "layers.7"): own[first].clone()}),
    }.items():
        folder = tmp_path / name.replace(" ", "-")
        shutil.copytree(whole, folder)
        own = dict(tensors)
        change(own)
        save_file(own, folder / "adapter_model.safetensors")
        for check in (
            lambda folder=folder: check_whole(random_vlm, [str(whole), str(folder)]),
            lambda folder=folder: open_engine("hf", random_vlm, EngineSettings(adapters=(str(folder),))),
        ):
            with pytest.raises(ModelError, match=f"does not fit .*{name}.* 1 matrices"):
                check()


@pytest.mark.vllm
@needs_vllm
@pytest.mark.parametrize(("own", "text"), [(False, True), (True, False)])
def test_ties_that_differ_are_left_to_transformers(
    own: bool, text: bool, random_vlm: Path, tmp_path: Path
) -> None:
    folder = with_ties(random_vlm, tmp_path / "model", own=own, text=text)
    assert "tie_word_embeddings" in str(why_not(folder))
    assert choose_engine("auto", folder).kind == "hf"
    with pytest.raises(ModelError, match=f"set both to {str(own).lower()}"):
        choose_engine("vllm", folder)


@pytest.mark.vllm
@needs_vllm
@pytest.mark.parametrize("tied", [True, False])
def test_ties_that_agree_are_no_obstacle(tied: bool, random_vlm: Path, tmp_path: Path) -> None:
    assert why_not(with_ties(random_vlm, tmp_path / "model", own=tied, text=tied)) is None


@pytest.mark.vllm
@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_what_is_saved_says_it_at_both_places_and_answers_alike(random_vlm: Path, tmp_path: Path) -> None:
    folder = with_ties(random_vlm, tmp_path / "foreign", own=False, text=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    assert not is_tied(model)
    save_checkpoint(model, AutoProcessor.from_pretrained(folder), tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    ask = Request(id="0", messages=(Turn("user", "Describe the image."),), max_new_tokens=12)
    answers = []
    for kind, where in (("hf", folder), ("hf", tmp_path / "saved"), ("vllm", tmp_path / "saved")):
        engine = open_engine(kind, where, EngineSettings(dtype="float32", batch_size=1, max_model_len=256))
        answers.append([result.text for result in engine.generate([ask])])
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] != [""]
