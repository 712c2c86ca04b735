"""Pretraining that continues from a checkpoint: what is trained and recorded, and what rounds refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file

from archives import write_tar
from vila2cli.cli.app import main
from vila2cli.files import read_json
from vila2cli.model.checkpoint import LINEAGE_FILE, weights_sha256
from vila2cli.report.model_card import model_card
from vila2cli.settings.recipe import load_recipe
from vila2cli.stages.lineage import lineage
from zoo import picture
from zoo_training import write_shard

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RECIPE = """
name = "small"
rounds = 1
runs_dir = "{folder}/runs"
data.pretrain = "{folder}/data/0.tar"
data.sft = "{folder}/data/0.tar"
pretrain.align = {{ batch_size = 3, max_reject_rate = 0 }}
pretrain.main = {{ batch_size = 2, max_reject_rate = 0, max_length = 1024 }}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recipe, and six captioned pictures of odd shapes."""
    members = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        picture(number).save(path)
        members += [(f"{number}.png", path.read_bytes()), (f"{number}.txt", b"It shows a few discs.")]
    write_tar(tmp_path / "data" / "0.tar", members)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path


def vila2(folder: Path, *words: str) -> int:
    return main([*words, "--recipe", str(folder / "recipe.toml")])


def phases(made: dict[str, Any]) -> list[str]:
    return [phase["phase"] for phase in made["phases"]]


def changed(before: Path, after: Path) -> set[str]:
    """The parts of a bundled model whose weights a training has changed."""
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    return {name.split(".")[1] for name in old if not (old[name] == new[name]).all()}


def test_stage_2_goes_on_from_a_model_and_says_so(folder: Path, tiny_checkpoint: Path) -> None:
    out = folder / "more"
    words = ["pretrain", "--model", str(tiny_checkpoint), "--out", str(out)]
    assert vila2(folder, *words) == 0
    made = read_json(out / LINEAGE_FILE)
    assert phases(made) == ["main"]
    assert made["parent"] == {"path": str(tiny_checkpoint), "sha256": weights_sha256(tiny_checkpoint)}
    assert made["settings"]["model"] == str(tiny_checkpoint)
    assert not {"bases", "base_settings"} & made.keys()
    assert "align" not in made["settings"]
    assert "vision_model" not in changed(tiny_checkpoint, out)
    assert "pretrain, continued, not from scratch" in lineage(out).lines()[0]
    assert f"continued from {tiny_checkpoint}" in model_card(out, load_recipe(None))
    assert vila2(folder, *words) == 0  # nothing to do


def test_a_model_of_the_hub_is_recorded_with_its_commit(
    folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = folder / "hub" / "models--me--stock-vlm"
    shutil.copytree(tiny_checkpoint, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    words = ["pretrain", "--model", "me/stock-vlm", "--out", str(folder / "more")]
    assert vila2(folder, *words) == 0
    made = read_json(folder / "more" / LINEAGE_FILE)
    assert made["parent"]["path"] == f"me/stock-vlm@{COMMIT}"
    assert "base_model:\n- me/stock-vlm\n" in model_card(folder / "more", load_recipe(None))
    capsys.readouterr()
    assert vila2(folder, *words) == 0
    assert "complete, nothing to do" in capsys.readouterr().out


def test_the_projector_alone_is_trained_first_where_that_is_asked_for(
    folder: Path, tiny_checkpoint: Path
) -> None:
    out = folder / "more"
    sets = ["--set", "pretrain.realign=true", "--set", 'pretrain.main.train="projector"']
    assert vila2(folder, "pretrain", "--model", str(tiny_checkpoint), "--out", str(out), *sets) == 0
    assert phases(read_json(out / LINEAGE_FILE)) == ["align", "main"]
    assert changed(tiny_checkpoint, out) == {"connector"}


def test_a_dry_run_tells_what_is_continued(
    folder: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(folder / "more")
    assert vila2(folder, "pretrain", "--model", str(tiny_checkpoint), "--out", out, "--dry-run") == 0
    text = capsys.readouterr().out
    assert f"model: {tiny_checkpoint}  # --model" in text
    assert "continues from the model, not from scratch: main" in text
    assert "base.llm" not in text
    assert vila2(folder, "pretrain", "--out", out, "--dry-run") == 0
    assert "continues" not in capsys.readouterr().out


@pytest.mark.parametrize("place", ["--round 0", "--round 0 --out {}/runs/small/round0/pretrain"])
def test_a_round_of_a_run_from_scratch_is_not_continued(
    place: str, folder: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = place.format(folder).split()
    assert vila2(folder, "pretrain", "--model", str(tiny_checkpoint), *words) == 2
    assert "all rounds of a run start alike" in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_every_round_continues_from_the_recipes_model(
    folder: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(f'{text}pretrain.model = "{tiny_checkpoint}"\n')
    shards = ["--shards", str(folder / "data" / "0.tar")]
    for number in ("0", "1"):
        assert vila2(folder, "pretrain", "--round", number, *shards) == 0
        made = read_json(folder / "runs" / "small" / f"round{number}" / "pretrain" / LINEAGE_FILE)
        assert made["parent"]["path"] == str(tiny_checkpoint)
    capsys.readouterr()
    assert vila2(folder, "run", "round1", "--dry-run") == 0
    assert (
        f"every round continues from {tiny_checkpoint}, none is trained from scratch" in capsys.readouterr().out
    )
    assert vila2(folder, "report", str(folder / "runs" / "small")) == 0
    page = (folder / "runs" / "small" / "report.html").read_text()
    assert "from which every round continues" in page
    own = folder / "runs" / "small" / "round0" / "pretrain"
    for start, problem in (
        (own, "round 0 of this run continued from"),
        ("", "round 0 of this run continued from"),
    ):
        sets = ["--set", f'pretrain.model="{start}"', "--out", str(folder / "runs" / "small" / "round2" / "p")]
        capsys.readouterr()
        assert vila2(folder, "pretrain", *shards, *sets) == 2
        assert problem in capsys.readouterr().err


def test_no_round_continues_from_what_the_run_trained(
    folder: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["pretrain", "--round", "0", "--set", "pretrain.main.max_samples=2"]
    assert vila2(folder, *first, "--set", "pretrain.align.max_samples=2") == 0
    own = folder / "runs" / "small" / "round0" / "pretrain"
    for model in (own, tiny_checkpoint):
        words = ["pretrain", "--round", "1", "--shards", str(folder / "data" / "0.tar")]
        assert vila2(folder, *words, "--set", f'pretrain.model="{model}"') == 2
        assert "but round 0 of this run started from scratch" in capsys.readouterr().err
    (own / LINEAGE_FILE).rename(folder / "lineage.json")
    assert vila2(folder, *words, "--set", f'pretrain.model="{own}"') == 2
    assert f"was trained in this run ({own})" in capsys.readouterr().err


def test_check_and_plan_look_at_the_model(
    folder: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = {}
    for name, sets in (("scratch", []), ("more", ["--set", f'pretrain.model="{tiny_checkpoint}"'])):
        assert vila2(folder, "plan", "round0", "--json", "--count", "eval=1", *sets) == 0
        found = json.loads(capsys.readouterr().out)
        samples[name] = next(one["num_images"] for one in found["stages"] if one["name"] == "round0-pretrain")
    assert samples == {"scratch": 12, "more": 6}
    vila2(folder, "check", "--set", f'pretrain.model="{tiny_checkpoint}"')
    text = capsys.readouterr().out
    assert "every round continues from it" in text
    assert "base.llm" not in text
    assert vila2(folder, "check", "--set", 'pretrain.model="nowhere/at-all"') != 0
    assert "FAIL  pretrain.model: nowhere/at-all is neither a folder" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_1_5", "internvl3", "smolvlm", "gemma3"])
def test_stock_families_are_continued(
    name: str, zoo: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    out = folder / "more"
    write_shard(folder / "talks" / "0.tar")
    assert vila2(folder, "pretrain", "--model", str(zoo(name)), "--out", str(out)) == 0
    made = read_json(out / LINEAGE_FILE)
    assert (phases(made), made["num_rejected"]) == (["main"], 0)
    old, new = (load_file(path / "model.safetensors") for path in (zoo(name), out))
    assert old.keys() == new.keys()
