"""What a recipe leaves out, and settings on the command line that contradict its tables."""

from pathlib import Path

import pytest

from vila2cli.errors import RecipeError
from vila2cli.settings.recipe import load_recipe


@pytest.mark.parametrize(
    "text", ["pretrain.main.choose={original=0.2,recaption=0.8}", "pretrain.main.choose.original=0.4"]
)
def test_a_setting_that_contradicts_a_table_is_told_as_it_was_typed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[pretrain.main]\ncaptions = ["original", "recaption"]\nlearning_rate = 1e-4\n')
    with pytest.raises(RecipeError) as error:
        load_recipe(path, [text, "pretrain.main.learning_rate=1e-5"])
    assert str(error.value).startswith(f"--set {text}: choose draws one caption of an image")
    path.write_text('[pretrain.main]\ncaptions = ["original"]\nchoose = {original = 1.0}\n')
    with pytest.raises(RecipeError, match=r"own\.toml:1: pretrain\.main = .*choose draws one"):
        load_recipe(path, ["pretrain.main.learning_rate=1e-5"])


def test_a_recipe_that_names_no_judges_has_a_model(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\n')
    assert load_recipe(path).judge.judges == ("model",)
    assert load_recipe("world").judge.judges == ("oracle", "model")
