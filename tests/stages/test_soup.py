"""`vila2 soup` on checkpoints of the tiny model: which models it takes, and what it refuses to select on."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vila2cli.cli.app import main
from vila2cli.errors import RecipeError
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.stages.evaluate import evaluate
from vila2cli.stages.soup import greedy, headline_mean, selection_tasks, soup
from vila2cli.world.write import write_world


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soup")
    sizes = {"pretrain": 2, "interleaved": 0, "text": 0, "sft": 2, "specialist": 2, "dev": 6, "eval": 6}
    write_world(load_recipe(None, [f"world.num_{name}={num}" for name, num in sizes.items()]), folder / "data")
    return folder


@pytest.fixture(scope="module")
def models(root: Path, tiny_checkpoint: Path) -> list[str]:
    """Three neighbours of the tiny checkpoint, the last of them spoilt."""
    made = []
    for seed, noise in enumerate((0.001, 0.002, 3.0)):
        folder = shutil.copytree(tiny_checkpoint, root / f"m{seed}")
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(folder / "model.safetensors")
        noisy = {k: v + noise * torch.randn(v.shape, generator=generator) for k, v in tensors.items()}
        save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
        made.append(str(folder))
    return made


def recipe_of(root: Path, *sets: str) -> Recipe:
    data = root / "data"
    own = [f'eval.tasks=["{data}/eval/*"]', f'soup.tasks=["{data}/dev/*"]', "eval.engine=hf"]
    return load_recipe(None, [*own, "eval.max_new_tokens=8", "eval.num_bootstrap=10", *sets])


def cook(root: Path, models: Sequence[str], out: Path, *sets: str) -> dict:
    recipe = recipe_of(root, *sets)

    def score(model: str, folder: Path, tasks: Sequence[Path]) -> dict:
        return evaluate(recipe, model=model, out=folder, tasks=tasks).to_json()

    return soup(recipe, models=models, out=out, evaluate=score).to_json()


def shares(summary: dict) -> dict[str, float]:
    return {Path(parent["path"]).name: parent["share"] for parent in summary["parents"]}


def test_uniform_and_weighted_take_all(root: Path, models: list[str], tmp_path: Path) -> None:
    made = cook(root, models[:2], tmp_path / "mean", "soup.method=uniform")
    assert shares(made) == {"m0": 0.5, "m1": 0.5}
    assert [parent["sha256"] for parent in made["parents"]] == [weights_sha256(model) for model in models[:2]]
    assert json.loads((tmp_path / "mean" / "vila2.json").read_text()) == made
    sets = ("soup.method=weighted", "soup.weights=[3, 1]")
    assert shares(cook(root, models[:2], tmp_path / "weighted", *sets)) == {"m0": 0.75, "m1": 0.25}
    one, two = (load_file(f"{model}/model.safetensors") for model in models[:2])
    for name, mean in load_file(tmp_path / "weighted" / "model.safetensors").items():
        torch.testing.assert_close(mean, 0.75 * one[name] + 0.25 * two[name])


def test_maximum_takes_the_best(root: Path, models: list[str], tmp_path: Path) -> None:
    made = cook(root, models, tmp_path / "best", "soup.method=maximum", "soup.top=2")
    scores = made["selection"]["scores"]
    best = sorted(scores, key=lambda model: -scores[model])[:2]
    assert {parent["path"] for parent in made["parents"]} == set(best)
    for model in models:
        metrics = json.loads(
            (tmp_path / "best-selection" / str(models.index(model)) / "metrics.json").read_text()
        )
        assert scores[model] == headline_mean(metrics)
        assert (
            {entry["split"] for entry in metrics["tasks"].values()} == {"dev"} == {made["selection"]["split"]}
        )


def test_greedy_on_real_models_keeps_what_does_not_harm(root: Path, models: list[str], tmp_path: Path) -> None:
    made = cook(root, models, tmp_path / "greedy")
    steps = made["selection"]["steps"]
    assert steps[0]["kept"]
    scores = made["selection"]["scores"]
    assert [step["model"] for step in steps] == list(scores)
    best = steps[0]["score"]
    for step in steps[1:]:
        assert step["kept"] == (step["score"] >= best)
        best = max(best, step["score"]) if step["kept"] else best
    assert {parent["path"] for parent in made["parents"]} == {s["model"] for s in steps if s["kept"]}
    assert not (tmp_path / "greedy-selection" / "trial").exists()


def test_greedy_goes_down_the_order_and_never_lets_the_score_fall() -> None:
    scores = {(2, 0): 0.7, (2, 0, 1): 0.69, (2, 0, 3): 0.7, (2, 0, 3, 4): 0.9}
    asked = []

    def score(pool: Sequence[int]) -> float:
        asked.append(tuple(pool))
        return scores[tuple(pool)]

    steps = greedy([2, 0, 1, 3, 4], 0.7, score)
    assert [(step.index, step.is_kept) for step in steps] == [
        (2, True),
        (0, True),
        (1, False),
        (3, True),
        (4, True),
    ]
    assert asked == list(scores)


def test_what_is_reported_is_not_selected_on(root: Path, tmp_path: Path) -> None:
    data = root / "data"
    with pytest.raises(RecipeError, match="must not select on the 'eval' split"):
        selection_tasks(recipe_of(root), [f"{data}/eval/*"])
    renamed = shutil.copytree(data / "eval" / "ocr", tmp_path / "chosen-ocr")
    text = (renamed / "task.toml").read_text().replace('"eval"', '"selection"')
    (renamed / "task.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"6 images of .*/chosen-ocr are in .*eval/"):
        selection_tasks(recipe_of(root), [str(renamed)])
    (renamed / "task.toml").write_text(text.replace('split = "selection"\n', ""))
    with pytest.raises(RecipeError, match="one split that is named"):
        selection_tasks(recipe_of(root), [str(renamed)])
    with pytest.raises(RecipeError, match="one split that is named"):
        selection_tasks(recipe_of(root), [str(renamed), f"{data}/dev/spatial"])
    with pytest.raises(RecipeError, match=r"give --tasks or soup\.tasks"):
        selection_tasks(recipe_of(root, "soup.tasks=[]"))
    assert {task.split for task in selection_tasks(recipe_of(root))} == {"dev"}


def test_settings_that_do_not_fit_are_refused(root: Path, models: list[str], tmp_path: Path) -> None:
    for sets, names, message in [
        (("soup.method=weighted", "soup.weights=[1]"), models[:2], "1 shares for 2 models"),
        (("soup.weights=[1, 2]",), models[:2], "goes with soup.method"),
        (("soup.method=uniform",), models[:1], "two or more"),
        (("soup.method=uniform",), [models[0], f"{models[0]}/."], "named twice"),
    ]:
        with pytest.raises(RecipeError, match=message):
            cook(root, names, tmp_path / "never", *sets)
    assert not (tmp_path / "never").exists()


def test_the_command_makes_it_once(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["soup", "--models", *models[:2], "--set", "soup.method=uniform", "--out", str(tmp_path / "soup")]
    assert main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "soup").exists()
    assert main(words) == 0
    assert f"0.500 of {models[1]}" in capsys.readouterr().out
    assert main(words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*words, "--models", models[2]]) == 2
    assert "candidates" in capsys.readouterr().err
    assert main(["soup", "--out", str(tmp_path / "other")]) == 2
