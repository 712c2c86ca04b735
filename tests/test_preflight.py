"""What `vila2 check` finds before anything runs, on real small data, and how it ends."""

from pathlib import Path

import pytest

from vila2cli.cli import main
from vila2cli.errors import ModelError
from vila2cli.preflight import find_offline, num_parameters, training_bytes
from vila2cli.recipe import load_recipe

REPO = Path(__file__).parents[1]
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
    assert "data.pretrain: the first sample of each of 3 shards can be read" in text
    assert "eval.tasks: 10 tasks" in text
    assert sorted(world.rglob("*")) == before, "nothing is written"


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
    sets = ['data.sft=["nowhere/*.tar"]', 'base.llm="no/such-model"', 'recaption.prompts=["long-v9"]']
    code, text = check(capsys, *(word for text in sets for word in ("--set", text)))
    assert code == 2
    assert "FAIL  prompts: " in text
    assert "FAIL  data.sft: no shards match 'nowhere/*.tar'" in text
    assert "FAIL  base.llm: no/such-model is neither a folder nor in the hub's cache" in text
    assert "the checks failed: prompts, data.sft, base.llm, tokenizer" in text


def test_unknown_keys_end_it_before_anything_is_looked_at(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = check(capsys, "--set", "recaption.temprature=1")
    assert code == 2
    assert "did you mean recaption.temperature?" in text
    assert "ok" not in text.split()


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
    assert training_bytes(recipe.pretrain.align, tower, llm, "bfloat16") == 2 * (tower + llm)
    assert training_bytes(recipe.pretrain.main, tower, llm, "bfloat16") == 2 * tower + 8 * llm
    assert training_bytes(recipe.sft, tower, llm, "float32") == 16 * (tower + llm)
