"""Whose recipe a report tells of: that of the run, whatever lies around or was given."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vila2cli.cli.app import main
from vila2cli.report import ReportPage, build_page, render_page
from vila2cli.report.cards import card
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.own_recipe import own_recipe
from vila2cli.report.run_folder import read_run
from vila2cli.run.recipe_file import store_recipe
from vila2cli.settings.recipe import Recipe, load_recipe, shipped_recipes

MakeRun = Callable[..., Any]
ANOTHER = 'name = "elsewhere"\nseed = 9\nrounds = 7\n[cost]\ndollars_per_hour = 3.0\n'


def store(folder: Path, *sets: str, when_s: int, file: str | None = None) -> None:
    """Leave a recipe in a stage's folder, as of a time."""
    path = folder / "recipe.toml"
    source = None
    if file is not None:
        source = folder.parents[2] / file
        source.write_text('name = "mine"\n[base]\nllm = "my/llm"\n')
    store_recipe(folder, load_recipe(source, sets))
    os.utime(path, (when_s, when_s))


@pytest.fixture
def run(make_run: MakeRun) -> Any:
    made = make_run(1, num_samples=4, num_shards=1, num_questions=4)
    folder = made.run_dir
    store(folder / "round0" / "sft", "name=mine", "rounds=1", "sft.epochs=3", when_s=1000)
    sets = ("rounds=2", "seed=4", "cost.device=GPU-hours")
    store(folder / "round1" / "eval", *sets, when_s=3000, file="my own.toml")
    store(folder / "round1" / "recaption", "name=mine", "rounds=2", "seed=4", when_s=2000)
    return made


def facts(page: ReportPage) -> dict[str, str]:
    return dict(page.facts)


def test_the_newest_stage_says_what_the_run_is(run: Any, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(ANOTHER)
    given = load_recipe(tmp_path / "other.toml")
    page = build_page(given, run.run_dir)
    assert page.name == "mine"
    assert page.lead.startswith("1 of 2 self-augmentation rounds evaluated")
    assert facts(page)["Recipe"].startswith("my own.toml, digest ")
    assert facts(page)["Seed"] == "4"
    assert "my/llm" in facts(page)["Base"]
    assert "seed = 4  # --set" in page.settings
    assert page.settings_note.startswith("as round 1 · eval stored it")
    assert not any(word in render_page(page) for word in ("elsewhere", "other.toml"))
    # What the report itself reckons with is what was given for it.
    assert any("$" in str(cell) for row in page.costs.ledger.rows for cell in row.cells)
    assert not any(
        "$" in str(cell) for row in build_page(None, run.run_dir).costs.ledger.rows for cell in row.cells
    )


def test_stages_that_ran_with_other_settings_are_told(run: Any) -> None:
    table = build_page(None, run.run_dir).differing
    rows = {(row.label, row.cells[2]): row.cells[:2] for row in table.rows}
    assert rows["sft.epochs", "round 0 · sft"] == ("1.0", "3.0")
    assert rows["rounds", "round 0 · sft"] == ("2", "1")
    assert rows["base.llm", "round 0 · sft and round 1 · recaption"][0] == '"my/llm"'
    assert not any(label == "name" for label, _ in rows)


def test_a_damaged_recipe_is_noted_and_the_one_before_it_told(run: Any) -> None:
    path = run.run_dir / "round1" / "eval" / "recipe.toml"
    path.write_text("name = <script>")
    page = build_page(None, run.run_dir)
    assert page.settings_note.startswith("as round 1 · recaption stored it")
    assert any("round1/eval/recipe.toml" in line for line in page.damaged)
    path.write_text('# of ["no", "name"]\nname = "mine"\nno_such.setting = 1\n')
    assert build_page(None, run.run_dir).settings_note.startswith("as round 1 · recaption")


def test_where_none_is_stored_defaults_are_not_told(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(-1)
    made.write_training("round0", "pretrain")
    for given in (None, Recipe(), load_recipe(None, ["cost.dollars_per_hour=2"])):
        page = build_page(given, made.run_dir)
        assert page.name == "world", "as the folder is called"
        assert facts(page)["Recipe"] == "no stage has stored one"
        assert not {"Base", "Seed"} & facts(page).keys()
        assert len(page.settings) == (1 if given is not None and given.origins else 0)
    (tmp_path / "other.toml").write_text(ANOTHER)
    page = build_page(load_recipe(tmp_path / "other.toml"), made.run_dir)
    assert (page.name, facts(page)["Seed"]) == ("elsewhere", "9")
    assert "as given for this report" in page.settings_note


def test_a_recipe_that_lies_around_is_not_asked(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "world.toml").write_text(ANOTHER)
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run.run_dir)]) == 0
    text = (run.run_dir / "report.html").read_text()
    assert "<h1>mine</h1>" in text
    assert "elsewhere" not in text
    capsys.readouterr()
    assert main(["report"]) == 4  # runs/elsewhere is none
    assert "there is no run folder runs/elsewhere; name one, as in vila2 report runs/world" in (
        capsys.readouterr().err
    )


def test_a_card_has_the_recipe_of_its_stage(run: Any) -> None:
    folder = run.run_dir / "round1" / "sft"
    text = card(folder, load_recipe(None, ["cost.dollars_per_hour=2"]))
    assert "| GPU-hours, one device |" in text, "as the eval beside it stored"
    assert "| \\$" in text
    assert "| core-hours, one device |" in card(run.run_dir / "round0" / "sft", Recipe())


def test_a_command_goes_on_with_the_file_and_the_settings_of_the_run(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.run_dir.parent)
    reader = JsonReader(run.run_dir)
    found = own_recipe(read_run(run.run_dir, reader), None, reader).flags
    words = ["--recipe", "my own.toml", "--set", "seed=4", "--set", "rounds=2"]
    assert shlex.split(found) == [*words, "--set", 'cost.device="GPU-hours"']
    settings = load_recipe(run.run_dir.parent / "my own.toml", shlex.split(found)[3::2])
    assert settings.deciding() == load_recipe(run.run_dir / "round1/eval/recipe.toml").deciding()
    monkeypatch.chdir("/")
    found = own_recipe(read_run(run.run_dir, reader), None, reader).flags
    assert shlex.split(found) == ["--recipe", str(run.run_dir / "round1/eval/recipe.toml")], "it lies elsewhere"
    first = run.run_dir / "round0/sft/recipe.toml"
    first.write_bytes((run.run_dir / "round1/eval/recipe.toml").read_bytes())
    os.utime(first, (1000, 1000))
    assert own_recipe(read_run(run.run_dir, reader), None, reader).flags == f"--recipe {first}"


def test_a_recipe_of_the_package_is_named_as_commands_take_it(run: Any) -> None:
    path = run.run_dir / "round1" / "judge" / "recipe.toml"
    path.parent.mkdir(exist_ok=True)
    store_recipe(path.parent, load_recipe(shipped_recipes()["world"], ["rounds=1"]))
    os.utime(path, (9000, 9000))
    reader = JsonReader(run.run_dir)
    assert own_recipe(read_run(run.run_dir, reader), None, reader).flags == "--recipe world --set rounds=1"
    path.write_text(path.read_text().replace("sft.epochs = 4.0", "sft.epochs = 5.0"))
    os.utime(path, (9000, 9000))
    assert own_recipe(read_run(run.run_dir, reader), None, reader).flags == f"--recipe {path}"
