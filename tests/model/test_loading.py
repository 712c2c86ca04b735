"""A checkpoint is loaded whole or not at all, by every stage, as whatever part of a model it serves."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel, SiglipVisionModel

from vila2cli.engine import EngineSettings, open_engine
from vila2cli.errors import ModelError
from vila2cli.model.build import build, load_llm, resolve_base
from vila2cli.model.dual_encoder import DualEncoder
from vila2cli.model.loading import load_processor, outline
from vila2cli.model.towers import load_clip_like_tower, load_tower
from vila2cli.settings import BaseSettings
from vila2cli.settings.recipe import load_recipe
from vila2cli.stages.pretrain import pretrain
from vila2cli.stages.sft import sft
from vila2cli.stages.soup import soup
from vila2cli.stages.specialize import specialize
from vila2cli.world.write import write_world

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Any]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def changed(source: Path, folder: Path, change: Change) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def name_of(tensors: Tensors, end: str) -> str:
    return next(name for name in tensors if name.endswith(end))


def drop(end: str) -> Change:
    return lambda tensors: tensors.pop(name_of(tensors, end))


def halve(end: str) -> Change:
    def change(tensors: Tensors) -> None:
        name = name_of(tensors, end)
        tensors[name] = tensors[name][: len(tensors[name]) // 2].clone()

    return change


def copy_as(end: str, new: Callable[[str], str]) -> Change:
    def change(tensors: Tensors) -> None:
        name = name_of(tensors, end)
        tensors[new(name)] = tensors[name].clone()

    return change


BROKEN: dict[str, tuple[Change, str]] = {
    "lacks one": (drop("layers.0.self_attn.k_proj.weight"), r"lacks 1 weights .*layers\.0\.self_attn\.k_proj"),
    "lacks a norm": (drop("norm.weight"), r"lacks 1 weights .*norm\.weight"),
    "other shape": (halve("layers.1.mlp.up_proj.weight"), "another shape .* 192 x 128 in place of 384 x 128"),
    "a layer too many": (
        copy_as("layers.0.mlp.up_proj.weight", lambda name: name.replace("layers.0", "layers.9")),
        r"has 1 weights .* no place for, the first is .*layers\.9\.mlp",
    ),
    "a bias too many": (
        copy_as(
            "layers.2.input_layernorm.weight", lambda name: name.replace("layernorm.weight", "layernorm.bias")
        ),
        r"no place for, the first is .*layernorm\.bias",
    ),
    "a norm too many": (
        copy_as(
            "layers.3.input_layernorm.weight", lambda name: name.replace("input_layernorm", "self_attn.q_norm")
        ),
        "no place for",
    ),
}
WHOLE: dict[str, Change] = {
    "as saved": lambda tensors: None,
    "old buffers": lambda tensors: tensors.update(
        {f"{name_of(tensors, 'q_proj.weight').rpartition('.q_proj')[0]}.rotary_emb.inv_freq": torch.ones(16)}
    ),
    "a value head": lambda tensors: tensors.update({"v_head.summary.weight": torch.ones(1, 128)}),
    "a tied head": copy_as("embed_tokens.weight", lambda name: "lm_head.weight"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_image_text_model_that_is_not_whole_is_refused(
    kind: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    change, message = BROKEN[kind]
    folder = changed(tiny_checkpoint, tmp_path / "model", change)
    for load in (outline, lambda folder: open_engine("hf", folder, EngineSettings(dtype="float32"))):
        with pytest.raises(ModelError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_an_llm_base_that_is_not_whole_is_refused(kind: str, tmp_path: Path) -> None:
    change, message = BROKEN[kind]
    folder = changed(resolve_base("world:llm"), tmp_path / "llm", change)
    with pytest.raises(ModelError, match=f"base.llm .*{message}"):
        build(BaseSettings(llm=str(folder)), seed=0)


@pytest.mark.parametrize("kind", WHOLE)
def test_what_takes_no_part_does_no_harm(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    outline(changed(tiny_checkpoint, tmp_path / "model", WHOLE[kind]))
    llm = changed(resolve_base("world:llm"), tmp_path / "llm", WHOLE[kind])
    load_llm(llm, torch.float32)


@pytest.mark.parametrize("architecture", ["idefics3", "llava"])
def test_a_tower_that_is_not_whole_is_refused(architecture: str, tmp_path: Path) -> None:
    folder = changed(resolve_base("world:tower"), tmp_path / "tower", drop("layers.1.mlp.fc1.weight"))
    with pytest.raises(ModelError, match=r"base.vision_tower .* lacks 1 weights .*layers\.1\.mlp\.fc1\.weight"):
        build(BaseSettings(vision_tower=str(folder), architecture=architecture), seed=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    vision = {**SHAPE, "image_size": 32, "patch_size": 8}
    folder = tmp_path_factory.mktemp("siglip")
    SiglipModel(SiglipConfig(text_config={**SHAPE, "vocab_size": 100}, vision_config=vision)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    vision = {**SHAPE, "image_size": 32, "patch_size": 8}
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config={**SHAPE, "vocab_size": 100}, vision_config=vision)).save_pretrained(
        folder
    )
    return folder


def test_a_tower_may_come_with_a_text_tower_and_without_its_pooling_head(siglip: Path, tmp_path: Path) -> None:
    load_tower(siglip, 0, torch.float32)
    load_clip_like_tower(siglip, 0, -1, torch.float32)
    SiglipVisionModel.from_pretrained(siglip).save_pretrained(tmp_path / "alone")

    def without_head(tensors: Tensors) -> None:
        for name in [name for name in tensors if "head." in name]:
            del tensors[name]

    for source, name in ((tmp_path / "alone", "headless"), (siglip, "headless-whole")):
        folder = changed(source, tmp_path / name, without_head)
        load_tower(folder, 0, torch.float32)
        load_clip_like_tower(folder, 0, -2, torch.float32)


def test_a_tower_of_another_kind_is_held_to_its_own_weights(siglip: Path, clip: Path, tmp_path: Path) -> None:
    load_clip_like_tower(clip, 0, -1, torch.float32)
    for source, name in ((siglip, "siglip"), (clip, "clip")):
        lost = "vision_model.encoder.layers.0.self_attn.v_proj.weight"
        folder = changed(source, tmp_path / name, lambda tensors, lost=lost: tensors.pop(lost))
        with pytest.raises(ModelError, match="lacks 1 weights"):
            load_clip_like_tower(folder, 0, -1, torch.float32)
        with pytest.raises(ModelError, match="lacks 1 weights"):
            DualEncoder(folder)


def test_every_training_stage_and_the_soup_refuse_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    few = "".join(f", num_{name} = 2" for name in ("interleaved", "text", "specialist", "dev", "eval"))
    (tmp_path / "recipe.toml").write_text(
        f"""
        name = "broken"
        runs_dir = "{tmp_path}/runs"
        data.pretrain = "{tmp_path}/data/pretrain/*.tar"
        data.sft = "{tmp_path}/data/sft"
        specialists.ocr = {{ data = "{tmp_path}/data/specialist-ocr", prompts = "ocr-v1", questions = "ocr" }}
        world = {{ num_pretrain = 4, num_sft = 4{few} }}
        """
    )
    recipe = load_recipe(tmp_path / "recipe.toml")
    write_world(recipe, tmp_path / "data")
    broken = changed(tiny_checkpoint, tmp_path / "broken", drop("layers.0.self_attn.k_proj.weight"))
    other = shutil.copytree(broken, tmp_path / "other")
    llm = changed(resolve_base("world:llm"), tmp_path / "llm", drop("layers.0.self_attn.k_proj.weight"))
    bases = load_recipe(tmp_path / "recipe.toml", [f'base.llm="{llm}"'])
    out = tmp_path / "out"
    stages: dict[str, Callable[[], Any]] = {
        "sft": lambda: sft(recipe, model=str(broken), shards=None, out=out, round=0),
        "specialize": lambda: specialize(recipe, name="ocr", model=str(broken), out=out),
        "pretrain": lambda: pretrain(bases, shards=None, out=out, round=0),
        "soup": lambda: soup(recipe, models=[str(broken), str(other)], out=out, evaluate=lambda *args: {}),
    }
    for stage, run in stages.items():
        with pytest.raises(ModelError, match=r"lacks 1 weights of its architecture, the first is .*k_proj"):
            run()
        assert not out.exists(), stage


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_needs_torchvision_says_so_in_one_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "qwen"
    folder.mkdir()
    for path in tiny_checkpoint.glob("tokenizer*"):
        shutil.copy(path, folder)
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Qwen2VLImageProcessor"}')
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen2VLProcessor"}')
    with pytest.raises(ModelError) as caught:
        load_processor(folder)
    assert str(caught.value) == (
        f"{folder}: the processor of qwen2_vl models needs torchvision, which is not installed: "
        f"pip install 'vila2cli[models]' torch=={torch.__version__.partition('+')[0]}"
    )
