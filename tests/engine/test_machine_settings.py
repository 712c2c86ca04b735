"""The tables [engine] and [engines.STAGE]: what they decide, and what of vLLM they take."""

from pathlib import Path

import pytest

from vila2cli.engine import EngineSettings, open_engine
from vila2cli.engine.vllm_options import own_arguments
from vila2cli.errors import ModelError, RecipeError
from vila2cli.settings import MachineSettings
from vila2cli.settings.recipe import load_recipe, resolved_lines


def test_a_stage_has_what_is_set_for_it_and_the_rest_of_all(tmp_path: Path) -> None:
    text = "[engine]\nreplicas = 2\nvllm = {seed = 3}\n[engines.eval]\ngpus = 1\n"
    (tmp_path / "recipe.toml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.toml")
    (tmp_path / "again.toml").write_text("\n".join(resolved_lines(recipe)))
    for one in (recipe, load_recipe(tmp_path / "again.toml")):
        assert one.engine_of("eval") == MachineSettings(replicas=2, gpus=1, vllm={"seed": 3})
        assert one.engine_of("judge") == MachineSettings(replicas=2, vllm={"seed": 3})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("engine.replica=2", "unknown setting engine.replica; did you mean engine.replicas"),
        ("engine.gpus=0", 'engine.gpus=0: should be "all" or a number from 1 on'),
        ("engines.evil.gpus=1", "should be 'recaption', 'rewrite', 'relabel', 'filter', 'judge' or 'eval'"),
        ("engine.gpu_memory_utilization=2.0", "less than or equal to 1"),
    ],
)
def test_what_is_no_setting_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        load_recipe(None, [text])
    assert "\n" not in str(caught.value)


def test_what_decides_text_is_part_of_a_manifest_and_speed_is_not() -> None:
    assert MachineSettings().decisive() == {}
    fast = MachineSettings(gpus=2, replicas=3, max_num_batched_tokens=9, vllm={"enforce_eager": True})
    assert fast.decisive() == {}
    decisive = MachineSettings(quantization="fp8", max_model_len=4096, vllm={"seed": 1, "swap_space": 2})
    assert decisive.decisive() == {
        "engine_options": {"quantization": "fp8", "max_model_len": 4096, "vllm": {"seed": 1}}
    }


def test_hf_refuses_what_only_vllm_can_follow(random_vlm: Path) -> None:
    for name, value in (("quantization", "fp8"), ("kv_cache_dtype", "fp8"), ("vllm", {"seed": 1})):
        settings = EngineSettings(machine=MachineSettings.model_validate({name: value}))
        with pytest.raises(ModelError, match=rf"engine\.{name} is for the vllm engine"):
            open_engine("hf", random_vlm, settings)


@pytest.mark.vllm
def test_arguments_of_vllm_are_its_own() -> None:
    assert own_arguments({"enforce_eager": True}) == {"enforce_eager": True}
    for name, says in (
        ("enforce_eagr", r"no argument of vLLM's engine; did you mean enforce_eager\?"),
        ("tensor_parallel_size", r"set engine\.tensor_parallel"),
        ("trust_remote_code", "code of a checkpoint is never run"),
    ):
        with pytest.raises(RecipeError, match=says):
            own_arguments({name: 1})
