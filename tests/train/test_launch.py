"""`accelerate launch` with config files as people have them: what they ask for is done or refused."""

import importlib.util
import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_distribution import SCRIPT, launch
from transformers import AutoModelForImageTextToText

from forks import Forks
from vila2cli.errors import RecipeError
from vila2cli.settings import TrainerSettings
from vila2cli.train.launch import Launch, read_launch

DDP = "distributed_type: MULTI_GPU\n"
FSDP2 = """\
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
"""
ZERO = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: {}\n"
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the deepspeed package is not installed"
)
CONFIGS = [
    pytest.param(DDP, id="ddp"),
    pytest.param(FSDP2, id="fsdp2"),
    *(pytest.param(ZERO.format(stage), id=f"zero{stage}", marks=needs_deepspeed) for stage in (1, 2, 3)),
]


def accelerate_launch(forks: Forks, folder: Path, config: str, *program: str) -> str:
    """What two processes of a program print that accelerate starts on the CPUs of this machine."""
    path = folder / "accelerate.yaml"
    path.write_text(f"compute_environment: LOCAL_MACHINE\nnum_machines: 1\nnum_processes: 2\n{config}")
    words = ["-m", "accelerate.commands.launch", "--config_file", str(path), "--main_process_port", "0"]
    started = forks.start([*words, *program], {"CUDA_VISIBLE_DEVICES": ""})
    printed, said = started.communicate()
    assert started.returncode == 0, said
    return printed


def environments(forks: Forks, folder: Path, config: str) -> list[dict[str, str]]:
    """The variables that accelerate sets for each of two processes, which may then meet without it."""
    script = folder / "environment.py"
    script.write_text(
        "import json, os, pathlib\n"
        "path = pathlib.Path(__file__).with_name(os.environ['RANK'] + '.json')\n"
        "path.write_text(json.dumps(dict(os.environ)))\n"
    )
    accelerate_launch(forks, folder, config, str(script))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return [{**one, **own, "TORCHELASTIC_USE_AGENT_STORE": "False"} for one in found]


def assert_near(one: Path, other: Path) -> None:
    """Equal within 2e-5, but for one weight in 10,000, and all within a step of the learning rate's 1e-3.

    DeepSpeed sums in another order, and Adam scales up the rounding of a gradient near zero.
    """
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    distances = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
    assert distances.max() < 1e-3
    assert (distances > 2e-5).float().mean() < 1e-4


@pytest.fixture(scope="module")
def alone(forks: Forks, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    launch(forks, "uneven", 1, tiny_checkpoint, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_trains_as_one_process_does_and_resumes_bit_by_bit(
    config: str, forks: Forks, alone: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    words = [str(SCRIPT), "sharded", "-", "-", "-", str(tiny_checkpoint), str(tmp_path)]
    started = [forks.start(words, environ) for environ in environments(forks, tmp_path, config)]
    for process in started:
        _, said = process.communicate()
        assert process.returncode == 0, said
    first, second = (json.loads((tmp_path / f"sharded-{rank}.json").read_text()) for rank in (0, 1))
    assert_near(tmp_path / "weights.safetensors", alone / "weights.safetensors")
    weights, resumed = load_file(tmp_path / "weights.safetensors"), load_file(tmp_path / "resumed.safetensors")
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    assert first["tied"]
    assert second["tied"]
    assert first["later"] == second["later"] < first["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIGS[1], CONFIGS[-1]])
def test_a_stage_leaves_a_stock_checkpoint(
    config: str, forks: Forks, recipe: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = [
        "sft",
        "--recipe",
        str(recipe),
        "--model",
        str(tiny_checkpoint),
        "--out",
        str(tmp_path / "out"),
    ]
    printed = accelerate_launch(forks, tmp_path, config, "-m", "vila2cli", *arguments, "--json")
    assert json.loads(printed)["processes"] == 2
    assert json.loads((tmp_path / "out" / "vila2.json").read_text())["processes"] == 2
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not [
        path for path in (tmp_path / "out").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")
    ]


def test_the_config_comes_before_the_recipe() -> None:
    trainer = TrainerSettings(strategy="fsdp2")
    assert read_launch(trainer, "float32", {}) == Launch("fsdp2")
    plain = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    assert read_launch(TrainerSettings(), "bfloat16", plain) == Launch("ddp", is_bf16=True)
    assert read_launch(trainer, "bfloat16", {"ACCELERATE_USE_DEEPSPEED": "true"}) == Launch(
        "zero", is_bf16=True
    )
    bf16 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}
    assert read_launch(TrainerSettings(), "float32", bf16) == Launch("fsdp2", is_bf16=True)


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "fp16; take bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "fp8; take bf16"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, r"set trainer\.compile"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "micro_batch_size"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"},
            "FULL_SHARD, which is of FSDP1; set true or false",
        ),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, r"gradient_checkpointing"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "take 1, 2 or 3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}, r"set base\.dtype"),
    ],
)
def test_what_a_config_asks_for_in_vain_is_named(environ: dict[str, str], reason: str) -> None:
    with pytest.raises(RecipeError, match=f"accelerate launch` asks for .*{reason}"):
        read_launch(TrainerSettings(), "float32", environ)


def test_a_deepspeed_config_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    environ = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}))
    assert read_launch(TrainerSettings(), "bfloat16", environ) == Launch("zero", is_bf16=True)
    offload = {"stage": 2, "offload_optimizer": {"device": "nvme"}}
    path.write_text(json.dumps({"zero_optimization": offload, "optimizer": {"type": "Adam"}, "scheduler": {}}))
    with pytest.raises(RecipeError, match=r"an own optimizer .* an own scheduler .* offload_optimizer;"):
        read_launch(TrainerSettings(), "float32", environ)
    path.write_text(json.dumps({"zero_optimization": {}}))
    with pytest.raises(RecipeError, match="zero_stage 0; take 1, 2 or 3"):
        read_launch(TrainerSettings(), "float32", environ)
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    both = {**environ, "ACCELERATE_CONFIG_DS_FIELDS": "deepspeed_config_file,zero_stage,mixed_precision"}
    with pytest.raises(RecipeError, match="zero_stage, mixed_precision beside a deepspeed_config_file"):
        read_launch(TrainerSettings(), "float32", both)
    path.write_text(json.dumps({"zero_optimization": {"stage": 2, "offload_param": None}}))
    assert read_launch(TrainerSettings(), "float32", environ) == Launch("zero")
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "bf16": True}))
    with pytest.raises(
        RecipeError, match="bf16 in the deepspeed_config_file should hold a JSON object, not True"
    ):
        read_launch(TrainerSettings(), "float32", environ)


def test_a_stage_ends_with_that_line_before_it_reads_anything(
    forks: Forks, recipe: Path, tiny_checkpoint: Path
) -> None:
    arguments = ["sft", "--recipe", str(recipe), "--model", str(tiny_checkpoint), "--out", "/nowhere/out"]
    ended = forks.start(["-m", "vila2cli", *arguments], {"ACCELERATE_MIXED_PRECISION": "fp16"})
    _, said = ended.communicate()
    assert ended.returncode == RecipeError.exit_code
    assert said.strip().splitlines()[-1].endswith("asks for fp16; take bf16 (training does without)")
