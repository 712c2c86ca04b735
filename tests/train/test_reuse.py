"""The projector is aligned once for all rounds, and what follows has the bits that it would have without."""

import json
import shutil
from pathlib import Path

from vila2cli.run.folder import RunFolder
from vila2cli.settings.recipe import load_recipe, shipped_recipes
from vila2cli.stages.pretrain import pretrain
from vila2cli.world.write import write_world

FEW = [f"world.num_{name}=2" for name in ("interleaved", "text", "sft", "specialist", "dev", "eval")]


def test_a_later_round_takes_over_the_alignment(tmp_path: Path) -> None:
    sets = [f"runs_dir={tmp_path}/runs", "data.interleaved=[]", "world.num_pretrain=6", *FEW]
    recipe = load_recipe(shipped_recipes()["world"], [*sets, "pretrain.main.epochs=1.0"])
    write_world(recipe, tmp_path / "data")
    run = RunFolder(recipe.run_dir)
    shards = [f"{tmp_path}/data/pretrain/*.tar"]
    found = [
        pretrain(recipe, shards=shards, out=run.stage("pretrain", number), round=number).phases[0]
        for number in (0, 1)
    ]
    assert "trained_before" not in found[0]
    assert found[1] == {**found[0], "trained_before": True}
    shutil.rmtree(run.aligned)
    anew = pretrain(recipe, shards=shards, out=run.stage("pretrain", 2), round=2).phases[0]
    assert "trained_before" not in anew
    one, other = (run.stage("pretrain", number) / "model.safetensors" for number in (1, 2))
    assert one.read_bytes() == other.read_bytes()

    changed = load_recipe(shipped_recipes()["world"], [*sets, "pretrain.align.epochs=1.0"])
    pretrain(changed, shards=shards, out=run.stage("pretrain", 3), round=3)
    assert len(list(run.aligned.glob("*/*.safetensors"))) == 2
    assert (
        "trained_before" not in json.loads((run.stage("pretrain", 3) / "vila2.json").read_text())["phases"][0]
    )
