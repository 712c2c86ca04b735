"""Qwen2.5-VL and Qwen3-VL joined of a tower and an LLM of their families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from native_bases import ARCHITECTURES, PIXELS, settings_of
from vila2cli.errors import ModelError
from vila2cli.model.build import build, join_qwen_vl, resolve_base
from vila2cli.model.freeze import parts_of
from vila2cli.model.saving import save_checkpoint
from vila2cli.model.sizes import PartSizes, part_sizes
from vila2cli.settings import BaseSettings
from zoo import picture
from zoo_parts import text_fields


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseSettings]:
    folder = tmp_path_factory.mktemp("native")
    return {name: settings_of(name, folder) for name in ARCHITECTURES}


def logits(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(**inputs).logits
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parts_keep_what_they_know(name: str, bases: dict[str, BaseSettings]) -> None:
    (model, _), (other, _) = (join_qwen_vl(bases[name], seed=seed) for seed in (0, 1))
    ids = torch.tensor([[5, 6, 7, 8, 300, 11]])
    llm = AutoModelForCausalLM.from_pretrained(bases[name].llm, dtype="float32")
    torch.testing.assert_close(logits(model, input_ids=ids), logits(llm, input_ids=ids))
    differing = {n for n, t in model.state_dict().items() if not torch.equal(t, other.state_dict()[n])}
    assert differing
    assert {parts_of(model)[n] for n in differing} == {"projector"}
    drawn = {n for n, p in parts_of(model).items() if p == "projector" and n.endswith("weight")}
    assert {n for n in drawn - differing if "norm" not in n and "ln_q" not in n} == set()
    told = part_sizes(bases[name], Path(bases[name].vision_tower), Path(bases[name].llm))
    assert told == PartSizes.of(model) or told.matrices != PartSizes.of(model).matrices
    assert (told.vision_tower, told.projector, told.llm) == (
        PartSizes.of(model).vision_tower,
        PartSizes.of(model).projector,
        PartSizes.of(model).llm,
    )


@pytest.mark.torchvision
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_checkpoint_is_read_by_the_stock_classes(
    name: str, bases: dict[str, BaseSettings], tmp_path: Path
) -> None:
    model, processor = build(bases[name], seed=0)
    save_checkpoint(model, processor, tmp_path)
    loaded, stock = (
        AutoModelForImageTextToText.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    )
    size = stock.image_processor.size
    assert (size.shortest_edge, size.longest_edge) == (PIXELS.min, PIXELS.max)
    shown = [picture(3).resize(size) for size in ((200, 37), (5000, 300), (1, 1))]
    parts = [{"type": "image", "image": image} for image in shown]
    inputs = stock.apply_chat_template(
        [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert len({tuple(grid) for grid in inputs["image_grid_thw"].tolist()}) == len(shown)
    assert torch.equal(logits(model, **inputs), logits(loaded, **inputs))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_the_tower_of_a_whole_model_is_taken(
    name: str, zoo: Callable[[str], Path], bases: dict[str, BaseSettings]
) -> None:
    whole = AutoModelForImageTextToText.from_pretrained(zoo(name))
    model, _ = join_qwen_vl(bases[name].model_copy(update={"vision_tower": str(zoo(name))}), seed=0)
    theirs, parts = whole.state_dict(), parts_of(model)
    tower = {n: t for n, t in model.state_dict().items() if parts.get(n) == "vision_tower"}
    assert tower
    assert all(torch.equal(t, theirs[n]) for n, t in tower.items())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"llm": "world:llm"}, r"base\.llm world:llm: a LlamaForCausalLM is no LLM of qwen2_5_vl"),
        ({"vision_tower": "world:tower"}, "takes towers of qwen2_5_vl, alone or in a whole model"),
        ({"llm": "qwen3_vl"}, "is no LLM of qwen2_5_vl, whose text model has other weights"),
        ({"vision_tower": "qwen3_vl"}, "is a qwen3_vl_vision model"),
    ],
)
def test_parts_of_another_family_are_refused(
    changes: dict[str, str], problem: str, bases: dict[str, BaseSettings]
) -> None:
    given = {key: getattr(bases[v], key) if v in bases else str(resolve_base(v)) for key, v in changes.items()}
    with pytest.raises(ModelError, match=problem.replace("world:llm", ".*")):
        join_qwen_vl(bases["qwen2_5_vl"].model_copy(update=given), seed=0)


def test_an_llm_of_another_class_is_taken_if_it_computes_the_same(
    bases: dict[str, BaseSettings], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases["qwen2_5_vl"].llm)
    fields = text_fields(tokenizer, tie_word_embeddings=False)
    llms = {
        "llama": LlamaForCausalLM(LlamaConfig(**fields)),
        "windowed": MistralForCausalLM(MistralConfig(**fields, sliding_window=64)),
        "other": LlamaForCausalLM(LlamaConfig(**fields, mlp_bias=True)),
    }
    for name, llm in llms.items():
        llm.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    base = bases["qwen2_5_vl"]
    ids = torch.tensor([[5, 6, 7, 8]])
    model, _ = join_qwen_vl(base.model_copy(update={"llm": str(tmp_path / "llama")}), seed=0)
    torch.testing.assert_close(logits(model, input_ids=ids), logits(llms["llama"], input_ids=ids))
    for name, problem in (("windowed", "computes otherwise on text"), ("other", "has other weights")):
        with pytest.raises(ModelError, match=problem):
            join_qwen_vl(base.model_copy(update={"llm": str(tmp_path / name)}), seed=0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"projector": "linear"}, "qwen2_5_vl has no linear projector"),
        ({"image_size": 224}, "bound them with pixels, not image_size"),
        ({"pixels": {"min": 9000, "max": 8000}}, "min = 9000 is above max = 8000"),
        ({"architecture": "llava"}, "llava has no native resolution"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    changes: dict[str, Any], problem: str, bases: dict[str, BaseSettings]
) -> None:
    with pytest.raises(ValueError, match=problem):
        BaseSettings.model_validate({**bases["qwen2_5_vl"].model_dump(), **changes})
