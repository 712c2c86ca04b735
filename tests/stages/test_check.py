"""What `vila2 check` finds before anything runs, on real small data, and how it ends."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from forks import Forks
from vila2cli.cli.app import main
from vila2cli.errors import ModelError, RecipeError
from vila2cli.model.build import build
from vila2cli.model.sizes import num_parameters, part_sizes, training_bytes
from vila2cli.run.recipe_file import store_recipe
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import open_source
from vila2cli.stages.check import find_offline
from vila2cli.text.compose import Composition, conversations
from vila2cli.train.job import DataSource, Phase, train_stage
from vila2cli.world.write import write_world

REPO = Path(__file__).parents[2]
SIZES = ["pretrain=12", "interleaved=2", "text=2", "sft=2", "specialist=2", "dev=1", "eval=2"]
SETS = [f"world.num_{size}" for size in SIZES] + ["world.samples_per_shard=4"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small world in it, and a recipe for it."""
    monkeypatch.chdir(tmp_path)
    text = (REPO / "recipes" / "world.toml").read_text()
    (tmp_path / "world.toml").write_text(text)
    words = [word for setting in SETS for word in ("--set", setting)]
    assert main(["world", "--recipe", "world.toml", *words]) == 0
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["check", "world.toml", *words])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_a_recipe_that_can_run_passes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(world.rglob("*"))
    code, text = check(capsys)
    assert code == 0, text
    assert "FAIL" not in text
    assert "data.pretrain: 3 shards, the first sample of each can be read" in text
    assert "eval.tasks: 10 tasks" in text
    assert sorted(world.rglob("*")) == before, "nothing is written"


def test_a_signal_is_not_what_a_check_found(forks: Forks, world: Path) -> None:
    words = ["check", "world.toml", "--set", "data.pretrain=['pipe:kill -TERM $PPID; sleep 3']"]
    ended = forks.start(["-m", "vila2cli", *words])
    said, errors = ended.communicate()
    assert ended.returncode == 75, errors
    assert errors == "vila2: stopped by SIGTERM; run the same command again to go on\n"
    assert "FAIL" not in said


def test_a_shard_that_cannot_be_read_is_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = world / "data" / "world" / "pretrain" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    (world / "data" / "world" / "pretrain" / "000002.tar").write_bytes(b"no tar at all")
    code, text = check(capsys)
    assert code == 4
    assert "FAIL  data.pretrain: 2 of 3 shards" in text
    assert "000001.tar" in text
    assert "1 of the checks failed: data.pretrain" in text


def test_every_problem_is_told_at_once(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [
        'data.sft=["nowhere/*.tar"]',
        'base.llm="no/such-model"',
        'base.vision_tower="models/tower"',
        'recaption.prompts=["long-v9"]',
    ]
    code, text = check(capsys, *(word for text in sets for word in ("--set", text)))
    assert code == 2
    assert "FAIL  prompts: " in text
    assert "FAIL  data.sft: no shards match 'nowhere/*.tar'" in text
    assert "FAIL  base.llm: no/such-model is neither a folder nor in the hub's cache; get it with `hf" in text
    assert "models/tower is neither a folder nor in the hub's cache; is the path right?" in text, "no hub id"
    assert "the checks failed: prompts, data.sft, base.vision_tower, base.llm" in text


def test_unknown_keys_end_it_before_anything_is_looked_at(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = check(capsys, "--set", "recaption.temprature=1")
    assert code == 2
    assert "did you mean recaption.temperature?" in text
    assert "ok" not in text.split()


def test_a_typo_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "typo.toml").write_text("[recaption]\ntemperatur = 0.5\n")
    script = (
        "import sys\nfrom vila2cli.cli.app import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    words = [sys.executable, "-c", script, "check", str(tmp_path / "typo.toml")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert (
        "typo.toml:2: unknown setting recaption.temperatur; did you mean recaption.temperature?" in done.stderr
    )


def test_stages_that_were_made_with_other_settings_are_named(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["recaption.temperature=0.7", "recaption.batch_size=7", "prompts.mine=Say it.", "eval.num_shots=2"]
    made = load_recipe("world.toml", [*SETS, *sets])
    for name in ("round1/recaption", "round1/eval", "round0/sft"):
        (made.run_dir / name).mkdir(parents=True)
        store_recipe(made.run_dir / name, made)
    code, text = check(capsys)
    assert code == 0, "a stage may look at them again"
    notes = [line for line in text.splitlines() if line.startswith("note")]
    assert len(notes) == 2
    assert "round1/recaption was made with other settings: recaption.temperature was 0.7, now 0.0;" in notes[0]
    assert "round1/eval was made with other settings: eval.num_shots was 2, now 0;" in notes[1]
    assert "ok    stages: 1 folder made with these settings" in text
    code, text = check(capsys, *(word for one in sets for word in ("--set", one)))
    assert "note" not in text
    assert "ok    stages: 3 folders made with these settings" in text


def test_a_model_that_was_cut_off_is_told(tmp_path: Path) -> None:
    whole = find_offline("world:llm")
    assert num_parameters(whole) > 1e5
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged or cut off"):
        num_parameters(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="lacks"):
        num_parameters(tmp_path)


def test_the_memory_of_a_training() -> None:
    recipe = load_recipe(REPO / "recipes" / "vila2-8b.toml")
    tower, llm = 428_000_000, 8_030_000_000
    assert training_bytes(recipe.pretrain.align, tower, llm, "bfloat16") == 4 * (tower + llm)
    assert training_bytes(recipe.pretrain.main, tower, llm, "bfloat16") == 4 * tower + 16 * llm
    half = training_bytes(recipe.pretrain.main, tower, llm, "bfloat16", master_weights=False)
    assert half == 2 * tower + 8 * llm
    assert training_bytes(recipe.sft, tower, llm, "float32") == 16 * (tower + llm)


def test_bases_that_are_not_whole_are_told(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = []
    for name, lost in (("vision_tower", "layers.0.mlp.fc1.weight"), ("llm", "layers.0.mlp.up_proj.weight")):
        shutil.copytree(find_offline(f"world:{name.removeprefix('vision_')}"), world / name)
        tensors = load_file(world / name / "model.safetensors")
        del tensors[next(one for one in tensors if one.endswith(lost))]
        save_file(tensors, world / name / "model.safetensors", metadata={"format": "pt"})
        sets += ["--set", f"base.{name}={world / name}"]
    code, text = check(capsys, *sets)
    assert code == 5
    for name, lost in (("vision_tower", "mlp.fc1.weight"), ("llm", "mlp.up_proj.weight")):
        line = next(line for line in text.splitlines() if line.startswith(f"FAIL  base.{name}: "))
        assert "lacks 1 weights of its architecture, the first is " in line
        assert line.endswith(f"layers.0.{lost}")


KEPT = {
    "frozen": (("projector",), "float32", True),
    "whole": (("vision_tower", "projector", "llm"), "float32", True),
    "bfloat16 with master weights": (("projector", "llm"), "bfloat16", True),
    "bfloat16 alone": (("projector", "llm"), "bfloat16", False),
    "adapters": (("projector", "lora"), "float32", True),
    "adapters over bfloat16": (("lora",), "bfloat16", False),
}


@pytest.fixture(scope="module")
def conversing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of four conversations."""
    folder = tmp_path_factory.mktemp("conversing")
    recipe = load_recipe(REPO / "recipes" / "world.toml", [*SETS, "world.num_sft=4"])
    write_world(recipe, folder)
    return folder / "sft"


@pytest.mark.parametrize("kind", KEPT)
def test_the_forecast_is_what_a_training_keeps(kind: str, conversing: Path, tmp_path: Path) -> None:
    train, dtype, master_weights = KEPT[kind]
    if "lora" in train:
        pytest.importorskip("peft")
    kept: list[int] = []

    def count(optimizer: torch.optim.Optimizer, *_: object) -> None:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        moments = [t for p in trained for t in optimizer.state[p].values() if t.numel() > 1]
        gradients = [p.grad for p in trained if p.grad is not None]
        weights = {id(p): p for module in held for p in module.parameters()}
        kept.append(sum(t.numel() * t.element_size() for t in [*weights.values(), *gradients, *moments]))

    parts = ", ".join(f'"{part}"' for part in train)
    (tmp_path / "recipe.toml").write_text(
        f"""
        name = "memory"
        runs_dir = "{tmp_path}/runs"
        base.dtype = "{dtype}"
        trainer.master_weights = {str(master_weights).lower()}
        sft = {{ train = [{parts}], batch_size = 2, lora = {{ rank = 8 }} }}
        data.sft = "{conversing}"
        """
    )
    recipe = load_recipe(tmp_path / "recipe.toml")
    model, processor = build(recipe.base, seed=0)
    held = [model]
    source = DataSource("sft", open_source(recipe.data.sft), partial(conversations, composition=Composition()))
    handle = register_optimizer_step_post_hook(count)
    try:
        phases = [Phase("sft", recipe.sft, [source])]
        train_stage("sft", model, processor, phases, recipe=recipe, lineage={}, out=tmp_path / "out")
    finally:
        handle.remove()
    sizes = part_sizes(recipe.base, find_offline("world:tower"), find_offline("world:llm"))
    forecast = training_bytes(
        recipe.sft,
        sizes.vision_tower,
        sizes.llm,
        dtype,
        master_weights=master_weights,
        projector=sizes.projector,
        adapters=sizes.adapters(recipe.sft.lora),
    )
    assert kept
    assert forecast == pytest.approx(max(kept), rel=0.01)


def test_check_says_what_bfloat16_with_master_weights_takes(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = []
    for dtype, master in (("float32", "true"), ("bfloat16", "true"), ("bfloat16", "false")):
        _, text = check(capsys, "--set", f"base.dtype={dtype}", "--set", f"trainer.master_weights={master}")
        line = next(line for line in text.splitlines() if "memory of a training process" in line)
        figures.append(float(line.split("process: ")[1].split(" GB")[0]))
        assert ("bfloat16 copies" in line) is (dtype == "bfloat16" and master == "true")
    assert figures[0] == figures[1] == pytest.approx(2 * figures[2], rel=0.02)


def test_a_checkpoint_is_looked_at_without_its_weights(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--set", "engine.replicas=2", "--set", "recaption.engine=hf"]
    assert main(["check", "--model", str(tiny_checkpoint), *sets]) == 0
    text = capsys.readouterr().out
    assert "inputs are those of its own processor" in text
    assert "engines for recaption: hf (as set)" in text
    assert ": 2 replicas of " in text
    monkeypatch.setenv("VILA2_PLAN_GPUS", "8x80")
    words = ["check", "--model", str(tiny_checkpoint), "--set", "eval.engine=hf"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "engines for eval: hf (as set): 8 replicas of 1 GPU (replicas x tensor parallel: 8 x 1)" in text
    monkeypatch.setenv("VILA2_PLAN_GPUS", "many")
    assert main(words) == RecipeError.exit_code
    assert "VILA2_PLAN_GPUS='many' should be NUMBERxGB" in capsys.readouterr().out
