"""Several LoRA adapters over one loaded model: each answers as the model that it is merged into does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lora_adapter import write_adapter
from vila2cli.engine import EngineSettings, Request, Result, choose_engine, open_engine
from vila2cli.engine.batching import chunks_by_group
from vila2cli.errors import ModelError

peft = pytest.importorskip("peft")
Ask = Callable[..., Request]
NUM_PICTURES = 6
needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def adapters(random_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three, one of them of another rank."""
    folder = tmp_path_factory.mktemp("adapters")
    ranks = (4, 4, 12)
    return tuple(
        str(write_adapter(random_vlm, folder / str(seed), seed=seed, rank=rank))
        for seed, rank in enumerate(ranks)
    )


@pytest.fixture(scope="module")
def merged(random_vlm: Path, adapters: tuple[str, ...], ask: Ask, tmp_path_factory: pytest.TempPathFactory):
    """What the models answer that the adapters are merged into, by adapter, "" for the base."""
    answers = {"": answered(random_vlm, (), [ask(i) for i in range(NUM_PICTURES)])}
    for number, adapter in enumerate(adapters):
        folder = tmp_path_factory.mktemp(f"merged{number}")
        base = AutoModelForImageTextToText.from_pretrained(random_vlm, dtype="float32")
        peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
        AutoProcessor.from_pretrained(random_vlm).save_pretrained(folder)
        answers[adapter] = answered(folder, (), [ask(i) for i in range(NUM_PICTURES)])
    return answers


def answered(
    folder: Path, adapters: tuple[str, ...], requests: list[Request], kind: str = "hf"
) -> dict[str, Result]:
    settings = EngineSettings(dtype="float32", batch_size=4, adapters=adapters, requests_per_image=4)
    results = list(open_engine(kind, folder, settings).generate(requests))
    assert len(results) == len(requests)
    return {result.id: result for result in results}


def interleaved(ask: Ask, adapters: tuple[str, ...]) -> list[Request]:
    """Every picture shown to every adapter and to the base, one after the other."""
    return [
        replace(ask(i, group="g"), id=f"{i} {adapter}", adapter=adapter)
        for i in range(NUM_PICTURES)
        for adapter in ("", *adapters)
    ]


@pytest.mark.parametrize("kind", ["hf", pytest.param("vllm", marks=needs_vllm)])
def test_each_answers_as_if_merged_and_alone(
    random_vlm: Path, adapters: tuple[str, ...], merged: dict[str, dict[str, Result]], ask: Ask, kind: str
) -> None:
    torch.set_num_threads(1)
    found = answered(random_vlm, adapters, interleaved(ask, adapters), kind)
    for adapter, expected in merged.items():
        for number, result in expected.items():
            mine = found[f"{number} {adapter}"]
            assert (mine.text, mine.num_tokens, mine.error) == (result.text, result.num_tokens, None)
            assert mine.logprob_mean == pytest.approx(result.logprob_mean, abs=1e-4)
    texts = [tuple(result.text for result in answers.values()) for answers in merged.values()]
    assert len(set(texts)) == len(texts), "the adapters answer alike, which proves nothing"


def test_together_is_bit_for_bit_what_alone_is(random_vlm: Path, adapters: tuple[str, ...], ask: Ask) -> None:
    together = answered(random_vlm, adapters, interleaved(ask, adapters))
    for adapter in adapters:
        mine = [request for request in interleaved(ask, adapters) if request.adapter == adapter]
        alone = answered(random_vlm, (adapter,), mine)
        assert alone == {key: together[key] for key in alone}


def test_chunks_are_of_one_adapter_and_the_same_as_without_the_others(ask: Ask) -> None:
    def request(i: int, adapter: str) -> Request:
        return replace(ask(i, group="ab"[i // 8]), id=f"{i}{adapter}", adapter=adapter)

    everything = [request(i, adapter) for i in range(16) for adapter in "xy" if adapter == "x" or i % 3]

    def ids(requests: list[Request]) -> list[list[str]]:
        return [[one.id for one in chunk] for chunk in chunks_by_group(iter(requests), 3, 10**9)]

    for adapter in "xy":
        alone = ids([one for one in everything if one.adapter == adapter])
        assert [chunk for chunk in ids(everything) if chunk[0].endswith(adapter)] == alone


def with_other_shapes(adapter: Path) -> Path:
    """An adapter whose matrices are twice as high."""
    path = adapter / "adapter_model.safetensors"
    save_file({name: torch.cat([value, value]) for name, value in load_file(path).items()}, path)
    return adapter


def test_an_adapter_of_a_larger_model_is_one_line(random_vlm: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not fit") as caught:
        answered(
            random_vlm, (str(with_other_shapes(write_adapter(random_vlm, tmp_path / "other", seed=0))),), []
        )
    assert "\n" not in str(caught.value)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_vllm_takes_adapters_of_the_llm_alone(random_vlm: Path, tmp_path: Path) -> None:
    net = AutoModelForImageTextToText.from_pretrained(random_vlm, dtype="float32")
    peft.get_peft_model(net, peft.LoraConfig(target_modules=["fc1"])).save_pretrained(tmp_path / "tower")
    adapters = (str(tmp_path / "tower"),)
    choice = choose_engine("auto", random_vlm, adapters)
    assert choice.kind == "hf"
    assert "adapters of the LLM alone" in choice.reason
    with pytest.raises(ModelError, match="changes the vision_tower"):
        choose_engine("vllm", random_vlm, adapters)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU vLLM is quick with adapters")
def test_auto_takes_transformers_for_adapters_on_a_cpu(random_vlm: Path, adapters: tuple[str, ...]) -> None:
    assert choose_engine("auto", random_vlm, adapters).kind == "hf"
    assert choose_engine("vllm", random_vlm, adapters).kind == "vllm"
