"""The plan of GPUs, from shapes alone: expected values were worked out by hand from the published configs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma4Config,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    Qwen2_5_VLConfig,
    SiglipVisionConfig,
)

from vila2cli import devices
from vila2cli.devices import Gpu, first_part, gpu_names, gpus, planned_gpus, shown_to
from vila2cli.engine.placing import EnginePlan, Shape, context_that_fits, plan_cores, plan_gpus
from vila2cli.errors import ModelError, RecipeError
from vila2cli.model.layers import Layer, layers_of
from vila2cli.settings import MachineSettings
from vila2cli.train.flops import work_of

GB = 1_000_000_000


def config_8b() -> Any:
    """SigLIP so400m and Llama-3-8B: 8.5 billion parameters."""
    return LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
        ),
        text_config=LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=8192,
        ),
        image_seq_length=729,
    )


def config_34b() -> Any:
    """InternViT-6B and Yi-34B: 40 billion parameters, 56 heads, 8 of keys; the tower has 25."""
    return InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=3200,
            intermediate_size=12800,
            num_hidden_layers=45,
            num_attention_heads=25,
            image_size=448,
        ),
        text_config=LlamaConfig(
            vocab_size=64000,
            hidden_size=7168,
            intermediate_size=20480,
            num_hidden_layers=60,
            num_attention_heads=56,
            num_key_value_heads=8,
            max_position_embeddings=4096,
        ),
    )


def config_72b() -> Any:
    """Qwen2.5-VL-72B: 64 heads, 8 of keys; the tower has 16."""
    text = {
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 128000,
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3456,
        "num_heads": 16,
        "out_hidden_size": 8192,
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def outlined(config: Any) -> Shape:
    with torch.device("meta"):
        return Shape.of(AutoModelForImageTextToText.from_config(config))


@pytest.fixture(scope="module")
def shapes() -> dict[str, Shape]:
    return {"8B": outlined(config_8b()), "34B": outlined(config_34b()), "72B": outlined(config_72b())}


def machine_of(count: int, gigabytes: int) -> list[Gpu]:
    return [Gpu(str(index), gigabytes * GB) for index in range(count)]


def test_parameters_are_those_of_the_published_models(shapes: dict[str, Shape]) -> None:
    assert shapes["8B"].llm == pytest.approx(8.03e9, rel=0.01)
    assert shapes["34B"].llm == pytest.approx(33.9e9, rel=0.01)
    assert shapes["34B"].tower == pytest.approx(5.6e9, rel=0.03)
    assert shapes["72B"].llm == pytest.approx(72.7e9, rel=0.01)


def test_layers_of_other_heads_than_the_rest_are_counted_as_they_are() -> None:
    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "global_head_dim": 32,
        "vocab_size": 512,
        "vocab_size_per_layer_input": 512,
    }
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Gemma4Config(text_config=text, vision_config=vision, audio_config=None)
    assert layers_of(config) == [*[Layer(4, 2, 16, 96)] * 5, Layer(4, 2, 32, 96)]
    shape = outlined(config)
    assert (shape.heads, shape.kv_heads, shape.intermediate) == (4, 2, 96)
    assert shape.kv_bytes == 2 * 2 * 2 * (5 * 16 + 32)
    with torch.device("meta"):
        work = work_of(AutoModelForImageTextToText.from_config(config), ("llm",))
    assert work.per_pair == 6 * 4 * (5 * 16 + 32)


NONE = (0, 0)
TABLE = {
    # model, GB: replicas x tensor parallel on 1, 2, 3, 6 and 8 GPUs; NONE where the model does not fit.
    # 8B: 17 GB of weights and 19 of keys and values (128 requests of 1,113 tokens, 131 kB each); 116 fit in 40.
    ("8B", 40): [(1, 1), (2, 1), (3, 1), (6, 1), (8, 1)],
    ("8B", 80): [(1, 1), (2, 1), (3, 1), (6, 1), (8, 1)],
    ("8B", 141): [(1, 1), (2, 1), (3, 1), (6, 1), (8, 1)],
    # 34B: 69 GB and a tower of 11 that stays whole, 20 of keys: 102 in one, 58 in two, 35 in four.
    ("34B", 40): [NONE, NONE, NONE, (1, 4), (2, 4)],
    ("34B", 80): [NONE, (1, 2), (1, 2), (3, 2), (4, 2)],
    ("34B", 141): [(1, 1), (2, 1), (3, 1), (6, 1), (8, 1)],
    # 72B: 147 GB, 59 of keys and values (1,408 tokens): 105 in two, 53 in four, 28 in eight.
    ("72B", 40): [NONE, NONE, NONE, NONE, (1, 8)],
    ("72B", 80): [NONE, NONE, NONE, (1, 4), (2, 4)],
    ("72B", 141): [NONE, (1, 2), (1, 2), (3, 2), (4, 2)],
}
COUNTS = (1, 2, 3, 6, 8)


@pytest.mark.parametrize(("name", "gigabytes"), TABLE)
def test_the_plan_table(shapes: dict[str, Shape], name: str, gigabytes: int) -> None:
    for count, expected in zip(COUNTS, TABLE[name, gigabytes], strict=True):
        try:
            plan = plan_gpus(shapes[name], machine_of(count, gigabytes), MachineSettings())
            found = plan.replicas, plan.per_replica
            assert plan.used <= 0.9 * gigabytes * GB
        except ModelError:
            found = NONE
        assert found == expected, (name, gigabytes, count)


def plan_of(shape: Shape, count: int, gigabytes: int, **settings: Any) -> EnginePlan:
    return plan_gpus(shape, machine_of(count, gigabytes), MachineSettings(**settings))


def test_what_is_set_goes_before_what_is_planned(shapes: dict[str, Shape]) -> None:
    plan = plan_of(shapes["8B"], 8, 80, tensor_parallel=2)
    assert (plan.replicas, plan.per_replica) == (4, 2)
    assert plan_of(shapes["8B"], 8, 80, replicas=3).replicas == 3
    assert plan_of(shapes["8B"], 8, 80, gpus=5).replicas == 5
    assert plan_of(shapes["34B"], 8, 80, quantization="fp8").per_replica == 1
    fuller, half = (plan_of(shapes["8B"], 1, 40, kv_cache_dtype=one) for one in ("fp8", "auto"))
    assert (fuller.batch, half.batch) == (128, 116)


def test_a_worker_keeps_to_one_engine_on_its_gpus_and_hf_to_one_gpu(shapes: dict[str, Shape]) -> None:
    machine = MachineSettings()
    plan = plan_gpus(shapes["8B"], machine_of(4, 80), machine, is_worker=True)
    assert (plan.replicas, plan.per_replica) == (1, 4)
    plan = plan_gpus(shapes["8B"], machine_of(3, 80), machine, is_worker=True)
    assert (plan.replicas, plan.per_replica) == (1, 2), "3 does not divide 32 heads"
    plan = plan_gpus(shapes["8B"], machine_of(3, 80), machine, kind="hf")
    assert (plan.replicas, plan.per_replica) == (3, 1)


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("34B", (80, 80, 40, 24), (1, 2, "01")),
        ("34B", (24, 80, 40, 80), (1, 2, "13")),
        ("8B", (80, 80, 40, 24), (3, 1, "012")),
        ("8B", (80, 40), (2, 1, "01")),
        ("8B", (80, 4), (1, 1, "0")),
        ("8B", (24, 80), (1, 1, "1")),
        ("8B", (24, 24), (1, 2, "01")),
    ],
)
def test_gpus_too_small_to_help_are_left_out(
    shapes: dict[str, Shape], name: str, sizes: tuple[int, ...], expected: tuple[int, int, str]
) -> None:
    unequal = [Gpu(str(index), gigabytes * GB) for index, gigabytes in enumerate(sizes)]
    plan = plan_gpus(shapes[name], unequal, MachineSettings())
    assert (plan.replicas, plan.per_replica, "".join(gpu.name for gpu in plan.gpus)) == expected
    assert plan.begins_with_first(unequal) is "0123".startswith(expected[2][: plan.per_replica])
    with pytest.raises(ModelError, match=r"does not fit: .* on 4 of 4 GPUs .* of 24 GB"):
        plan_gpus(shapes["72B"], [Gpu("0", 24 * GB)] * 3 + [Gpu("1", 80 * GB)], MachineSettings())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tensor_parallel": 3}, r"does not divide .* 32 heads, 8 of keys, 16 .* it can be 1, 2, 4, 8"),
        ({"gpus": 9}, "engine.gpus = 9, and 8 are visible"),
        ({"replicas": 9}, "need more than the 8 GPUs"),
        ({"replicas": 4, "tensor_parallel": 4}, "need more than the 8 GPUs"),
        ({"gpu_memory_utilization": 0.04}, r"does not fit: 17 GB of weights .* take more or larger GPUs"),
    ],
)
def test_what_cannot_be_is_refused(shapes: dict[str, Shape], settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        plan_of(shapes["8B"], 8, 80, **settings)


def test_cores_are_divided_among_the_engines() -> None:
    for settings, expected in (({}, (1, 8)), ({"replicas": 3}, (3, 2)), ({"replicas": 4, "gpus": 2}, (4, 1))):
        plan = plan_cores(MachineSettings(**settings), 8)
        assert (plan.replicas, plan.per_replica, plan.device) == (*expected, "core")
    assert plan_cores(MachineSettings(replicas=2), 8).line() == "2 replicas of 4 cores"


def test_a_context_is_as_long_as_memory_allows(shapes: dict[str, Shape]) -> None:
    machine = MachineSettings()
    plan = plan_gpus(shapes["8B"], machine_of(1, 24), machine)
    # 21.6 GB less 16.96 of weights and 2 of the rest, 131,072 bytes a token
    assert context_that_fits(shapes["8B"], plan, machine) == pytest.approx(20_000, rel=0.03)
    assert plan.batch == pytest.approx(18, abs=1)


def test_the_device_layer_says_what_a_process_may_see() -> None:
    assert gpus() == [], "this machine has none"
    assert planned_gpus({}) is None
    eight = planned_gpus({"VILA2_PLAN_GPUS": "8x80"})
    assert eight == machine_of(8, 80)
    assert shown_to(eight[2:4]) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    with pytest.raises(RecipeError, match="should be NUMBERxGB, such as 8x80"):
        planned_gpus({"VILA2_PLAN_GPUS": "many"})


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        ("", 3, ["0", "1", "2"]),
        ("4,6", 2, ["4", "6"]),
        ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("0,1,2", 2, ["0", "1"]),
    ],
)
def test_gpus_are_named_as_the_environment_names_them(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int, names: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert gpu_names({"CUDA_VISIBLE_DEVICES": visible}) == names


LISTING = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaaaaaa-d268-c3f3-1b07-005d5ae1dc3f)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbbbbbb-6d06-4bbf-8e6f-1e2f0e1dd1d8)
  MIG 1c.3g.40gb  Device  0: (UUID: MIG-11111111-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.10gb+me  Device  1: (UUID: MIG-22222222-9bed-5b25-b243-5985ef7c9beb)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-cccccccc-01ec-5a29-a5e2-8d1e1a0b2f5e)
  MIG 1g.10gb     Device  0: (UUID: MIG-33333333-9bed-5b25-b243-5985ef7c9beb)
"""
"""`nvidia-smi -L` in the form of NVIDIA's guide to MIG: a whole GPU, and two that are cut up."""


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        ("", 3, [("MIG-11111111", 38.0)]),
        ("2,1", 2, [("MIG-33333333", 9.5)]),
        ("0,2", 2, [("MIG-33333333", 9.5)]),
        ("GPU-bbbbbbbb", 1, [("MIG-11111111", 38.0)]),
        ("MIG-22222222-9bed-5b25-b243-5985ef7c9beb", 1, [("MIG-22222222", 9.5)]),
    ],
)
def test_of_gpus_that_are_cut_up_a_process_has_one_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, count: int, expected: list[tuple[str, float]]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat <<END\n{LISTING}END\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)  # of whole ones, as torch finds them by NVML
    devices._listing.cache_clear()
    try:
        environ = {"CUDA_VISIBLE_DEVICES": visible}
        found = gpus(environ)
        assert [(gpu.name[:12], gpu.memory / GB) for gpu in found] == expected
        assert gpu_names(environ) == [gpu.name for gpu in found]
        assert first_part(LISTING, ["0"]) is None, "a whole one"
    finally:
        devices._listing.cache_clear()
