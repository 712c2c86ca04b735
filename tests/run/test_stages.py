"""The graph of a run: the same as the Makefile's, and what of it is missing."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vila2cli.cli.app import main
from vila2cli.errors import RecipeError
from vila2cli.run.stages import Stage, plan_stages
from vila2cli.settings.recipe import load_recipe

REPO = Path(__file__).parents[2]


WORLD = (REPO / "recipes" / "world.toml").read_text()
FILTERED = WORLD.replace("[pretrain.align]", "[pretrain]\nfiltered = true\n\n[pretrain.align]")
RECIPES = {
    "as it is": (WORLD, ()),
    "a name in single quotes": (WORLD.replace('"world"', "'world'", 1), ()),
    "no name": (WORLD.replace('name = "world"', "", 1), ()),
    "other rounds": (WORLD, ("rounds=1",)),
    "runs elsewhere": (WORLD, ("runs_dir=far away/runs #1",)),
    "filtered": (FILTERED, ()),
    "filtered at top level": ("pretrain.filtered = true\n", ()),
    "filtered inline": ("pretrain = { filtered = true }\n", ()),
    "no specialists": (WORLD[: WORLD.index("[specialists")], ()),
    "adapters": (WORLD, ("specialize.lora=true",)),
    "merged captions": (FILTERED, ('pretrain.main.captions=["rewrite"]',)),
}


def words_of_stages(lines: str) -> list[str]:
    """What follows `vila2` in every line that calls it, without recipe and settings."""
    found = re.findall(r"vila2 ((?!run |slurm )\w.*)", lines)
    return [re.split(r" +#| --recipe", line)[0].strip() for line in found]


@pytest.mark.parametrize(
    ("kind", "target"),
    [(kind, "specialists") for kind in RECIPES]
    + [("as it is", target) for target in ("round0", "round2", "controls")]
    + [("adapters", "controls")],
)
def test_run_make_and_slurm_have_the_same_stages(
    tmp_path: Path, kind: str, target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, sets = RECIPES[kind]
    Path("a recipe.toml").write_text(text)
    flags = ["--recipe", "a recipe.toml", *(word for one in sets for word in ("--set", one))]
    expected = [" ".join(stage.words) for stage in plan_stages(load_recipe("a recipe.toml", sets), target)]

    assert main(["run", target, *flags, "--dry-run"]) == 0
    assert words_of_stages(capsys.readouterr().out) == expected

    assert main(["slurm", "emit", target, *flags, "--out", "jobs"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith(".sbatch")]
    emitted = [re.search(r"^# vila2 (.*); made by", path.read_text(), re.MULTILINE) for path in paths]
    assert [found[1] for found in emitted if found] == expected

    command = ["make", "-f", str(REPO / "Makefile"), "-n", target, f"VENV={sys.prefix}", "RECIPE=a recipe.toml"]
    command += ["-o", f"{sys.prefix}/installed", "SET=" + shlex.join(flags[2:])]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shlex.split(made)[1:] == ["run", target, *flags]

    made = subprocess.run([*command, "LAUNCH=make"], capture_output=True, text=True, check=True).stdout
    assert sorted(words_of_stages(made)) == sorted(expected)
    place = {words: at for at, words in enumerate(words_of_stages(made))}
    stages = {stage.name: stage for stage in plan_stages(load_recipe("a recipe.toml", sets), target)}
    for stage in stages.values():
        for before in stage.after:
            assert place[" ".join(stages[before].words)] < place[" ".join(stage.words)]


def test_a_name_that_is_no_folder_is_refused_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text('name = "my run"\n')
    assert main(["run", "round1", "--recipe", "my.toml", "--dry-run"]) == 2
    assert main(["slurm", "emit", "round1", "--recipe", "my.toml"]) == 2
    command = ["make", "-f", str(REPO / "Makefile"), "round1", f"VENV={sys.prefix}", "RECIPE=my.toml"]
    command += ["-o", f"{sys.prefix}/installed"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert "my.toml:1: name = 'my run'" in made.stderr


def test_make_knows_files_of_odd_names_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is complete is not run again: make has to name each file as the shell does that writes it."""
    monkeypatch.chdir(tmp_path)
    odd = "50%% of a:b, lr=1e-5 [x] *? #1 & ~ it's $HOME (é)"
    Path(f"{odd}.toml").write_text(WORLD)
    flags = ["--recipe", f"{odd}.toml", "--set", f"runs_dir={odd}"]
    assert main(["run", "round1", *flags, "--print", "make"]) == 0
    Path("rules.mk").write_text(capsys.readouterr().out)
    stages = plan_stages(load_recipe(f"{odd}.toml", [f"runs_dir={odd}"]), "round1")
    for marker in (marker for stage in stages for marker in stage.markers):
        marker.parent.mkdir(parents=True, exist_ok=True)
    for expected in (len(stages), 0):
        command = ["make", "-f", "rules.mk", "round1", "VILA2=true"]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (made.stdout.count("true "), made.stderr) == (expected, "")
    assert main(["run", "round1", "--recipe", f"{odd}.toml", "--set", "runs_dir=a;b", "--print", "make"]) == 2
    assert "make cannot hold ';' in the name of a file; rename it" in capsys.readouterr().err


def test_every_stage_comes_after_those_it_names() -> None:
    stages = plan_stages(load_recipe(REPO / "recipes" / "world.toml"), "specialists")
    seen: set[str] = set()
    for stage in stages:
        assert set(stage.after) <= seen, stage.name
        seen.add(stage.name)


def test_what_only_measures_holds_up_no_round() -> None:
    stages = {
        stage.name: stage for stage in plan_stages(load_recipe(REPO / "recipes" / "world.toml"), "controls")
    }
    waited_for = {name for stage in stages.values() for name in stage.after}
    assert stages["round2-recaption"].after == ("round1-sft",)
    assert stages["ocr"].after == ("round3-pretrain",)
    assert not [name for name in waited_for if name.endswith(("-eval", "-judge"))]
    assert {f"round{i}-eval" for i in range(4)} | {f"round{i}-judge" for i in (1, 2, 3)} <= set(stages)


def test_other_targets_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"did you mean \w+\?; this recipe has round0 to round3, controls"):
        plan_stages(load_recipe(), "roundx")


def layer(folder: Path, done: int, of: int) -> Stage:
    """A recaption stage of which some shards are written."""
    folder.mkdir()
    names = [f"{number:06}" for number in range(of)]
    base = [{"name": name, "url": f"{name}.tar"} for name in names]
    (folder / "layer.json").write_text(json.dumps({"layer": "recaption", "base": base}))
    for name in names[:done]:
        (folder / f"{name}.tar").touch()
        (folder / f"{name}.stats.json").write_text("{}")
    return Stage("round1-recaption", "recaption", ("recaption", "--round", "1"), folder)


def test_a_layer_is_complete_with_its_last_shard_and_summary(tmp_path: Path) -> None:
    stage = layer(tmp_path / "layer", 4, 5)
    (stage.out / "summary.json").write_text("{}")  # every worker writes it when it is done
    assert not stage.is_complete()
    assert stage.missing_workers(3) == [1]
    (stage.out / "000004.tar").touch()
    (stage.out / "000004.stats.json").write_text("{}")
    assert stage.is_complete()
    assert stage.missing_workers(3) == []


def test_a_layer_that_failed_its_budget_is_not_complete(tmp_path: Path) -> None:
    recipe = load_recipe(None, [f"runs_dir={tmp_path}", "recaption.max_reject_rate=0.2"])
    (stage,) = (stage for stage in plan_stages(recipe, "round1") if stage.kind == "recaption")
    stage.out.parent.mkdir(parents=True)
    layer(stage.out, 2, 2)
    for rate, is_complete in ((0.2, True), (0.3, False)):
        (stage.out / "summary.json").write_text(
            json.dumps({"reject_rate": rate, "rejected": 2, "num_shards_done": 2})
        )
        assert stage.is_complete() is is_complete
        assert stage.missing_workers(2) == ([] if is_complete else [0])
    (stage.out / "summary.json").write_text('{"reject_rate": 0.0, "num_shards_done": 1}')
    assert not stage.is_complete(), "the last worker was killed before it summed up"


def test_the_workers_that_are_missing_are_those_with_shards_left(tmp_path: Path) -> None:
    assert layer(tmp_path / "layer", 3, 8).missing_workers(5) == [0, 1, 2, 3, 4]
    assert layer(tmp_path / "other", 6, 8).missing_workers(4) == [2, 3]
    alone = layer(tmp_path / "alone", 8, 8)
    assert alone.missing_workers(4) == [0], "the summary alone is missing"
    assert Stage("x", "recaption", ("recaption",), tmp_path / "none").missing_workers(2) == [0, 1]


def test_workers_share_the_shards_of_every_task(tmp_path: Path) -> None:
    stage = Stage("round1-eval", "eval", ("eval", "--round", "1"), tmp_path)
    assert stage.missing_workers(2) == [0, 1]
    listed = ["ocr/000000", "ocr/000001", "spatial/000000"]
    (tmp_path / "shards.json").write_text(json.dumps({"shards": listed}))
    for name in listed[:2]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.tar").touch()
        (tmp_path / f"{name}.stats.json").write_text("{}")
    assert stage.missing_workers(2) == [0]
    assert stage.missing_workers(3) == [2]
    (tmp_path / "metrics.json").touch()
    assert not stage.is_complete()
    (tmp_path / "spatial").mkdir()
    (tmp_path / "spatial/000000.tar").touch()
    (tmp_path / "spatial/000000.stats.json").write_text("{}")
    assert stage.is_complete()


def test_what_a_server_left_unanswered_is_missing(tmp_path: Path) -> None:
    stage = Stage("round1-eval", "eval", ("eval", "--round", "1"), tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({"shards": ["ocr/000000", "ocr/000001", "ocr/000002"]}))
    (tmp_path / "ocr").mkdir()
    for number, dropped in enumerate([{}, {"image": 2}, {"no-answer": 1}]):
        (tmp_path / f"ocr/{number:06}.tar").touch()
        (tmp_path / f"ocr/{number:06}.stats.json").write_text(json.dumps({"dropped": dropped}))
    assert not stage.is_complete()
    assert stage.missing_workers(3) == [2]


@pytest.mark.parametrize(("reasons", "is_complete"), [({"refused": 3}, True), ({"over-budget": 1}, False)])
def test_judges_that_ran_out_of_budget_are_not_done(
    tmp_path: Path, reasons: dict[str, int], is_complete: bool
) -> None:
    stage = Stage("round1-judge", "judge", ("judge", "--round", "1"), tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({"shards": ["gpt/000000"]}))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt/000000.tar").touch()
    (tmp_path / "gpt/000000.stats.json").write_text("{}")
    (tmp_path / "summary.json").write_text(json.dumps({"unjudged_reasons": {"gpt": reasons}}))
    assert stage.is_complete() is is_complete
    assert stage.missing_workers(2) == ([] if is_complete else [0, 1])


def test_adapters_that_answer_together_are_one_stage_over_several_layers(tmp_path: Path) -> None:
    recipe = load_recipe(REPO / "recipes" / "world.toml", ["specialize.lora=true", f"runs_dir={tmp_path}"])
    (stage,) = (stage for stage in plan_stages(recipe, "specialists") if stage.kind == "relabel")
    assert stage.specialists == stage.after == tuple(recipe.specialists)
    for number, name in enumerate(recipe.specialists):
        folder = recipe.run_dir / "specialists" / name / "relabel"
        folder.parent.mkdir(parents=True)
        layer(folder, 4 - number, 4)
        (folder / "summary.json").write_text("{}")
    assert not stage.is_complete()
    assert stage.missing_workers(4) == [2, 3], "of the second layer the last shard lacks, of the third two"
