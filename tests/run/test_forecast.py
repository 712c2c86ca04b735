"""What a run will take: figures that were measured, figures of papers, and what nobody knows."""

import json
from pathlib import Path

import pytest

from vila2cli.cli.app import main
from vila2cli.run.forecast import Rate, forecast, forecast_lines, measured_rates, num_images, with_sizes
from vila2cli.run.stages import Stage, plan_stages
from vila2cli.settings.recipe import Recipe, load_recipe

REPO = Path(__file__).parents[2]
COUNTS = {
    "pretrain": 1000,
    "interleaved": 100,
    "sft": 50,
    "eval": 400,
    "ocr": 20,
    "spatial": 20,
    "grounding": 20,
}


def stages(recipe: Recipe) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(recipe, "specialists")}


def test_images_are_counted_as_often_as_they_are_seen() -> None:
    sets = ["recaption.share=0.5", "pretrain.align.max_samples=300", "pretrain.main.epochs=2.0"]
    recipe = load_recipe(REPO / "recipes" / "world.toml", [*sets, "specialists.ocr.relabel_share=0.1"])
    seen = {name: num_images(stage, recipe, COUNTS) for name, stage in stages(recipe).items()}
    assert seen["round1-recaption"] == 500
    assert seen["round1-pretrain"] == 2 * 300 + 2 * 1000 + 2 * 100
    assert seen["round1-sft"] == 4 * 50
    assert seen["ocr"] == 4 * 20
    assert seen["ocr-relabel"] == 100
    assert seen["round1-judge"] == 200
    assert seen["final-eval"] == 400
    sizes = {"pretrain": 2000, "ocr": 30, "eval": 1}
    counts = with_sizes(COUNTS, sizes)
    given = {name: num_images(stage, recipe, counts) for name, stage in stages(recipe).items()}
    assert given["round1-pretrain"] == seen["round1-pretrain"] + 2 * 1000
    assert (given["ocr"], given["final-eval"], given["round1-sft"]) == (4 * 30, 1, 4 * 50)


def test_specialists_that_answer_together_are_asked_once_each() -> None:
    recipe = load_recipe(REPO / "recipes" / "world.toml", ["specialize.lora=true"])
    assert num_images(stages(recipe)["relabel"], recipe, COUNTS) == 3 * 1000


def test_what_is_not_there_to_be_counted_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["plan", "round0", "--recipe", str(REPO / "recipes" / "vila2-8b.toml"), "--images", "1000000"]
    assert main(words) == 0
    assert "vila2 plan --count interleaved=NUMBER --count sft=NUMBER\n" in capsys.readouterr().out
    assert main([*words, "--count", "sft=900", "--count", "interleaved=7"]) == 0
    pretrain, sft = capsys.readouterr().out.splitlines()[:2]
    assert " 1,595,007 images  " in pretrain, "of stage 1 as well, and documents"
    assert " 900 images  " in sft
    for wrong in ("sft", "sft=many", "sft=-1", "=3", "other=3"):
        assert main([*words, "--count", wrong]) == 2
        assert wrong.partition("=")[0] in capsys.readouterr().err


def test_the_papers_recaption_pass_costs_what_the_paper_says() -> None:
    recipe = load_recipe(REPO / "recipes" / "vila2-8b.toml", ["recaption.share=1.0"])
    found = {one.stage.name: one for one in forecast(plan_stages(recipe), recipe, COUNTS, {})}
    dollars = found["round1-recaption"].dollars
    assert dollars == pytest.approx(0.129, abs=0.001)  # of 1,000 images; section 3.6 has 0.12
    assert found["round1-judge"].hours is None, "no paper says what judging takes"


def test_measured_rates_come_first_and_say_where_they_are_from(tmp_path: Path) -> None:
    for number, hours in ((1, 0.5), (2, 0.25)):
        folder = tmp_path / f"round{number}" / "recaption"
        folder.mkdir(parents=True)
        cost = {"hours_per_1k_images": hours, "device": "core-hours"}
        (folder / "summary.json").write_text(json.dumps({"cost": cost}))
    (tmp_path / "round2" / "sft").mkdir()
    phases = [{"seconds": 30.0, "num_samples": 60}]
    (tmp_path / "round2" / "sft" / "vila2.json").write_text(json.dumps({"phases": phases, "processes": 4}))
    rates = measured_rates(tmp_path)
    source = f"measured: {tmp_path / 'round2' / 'recaption'}"
    assert rates["recaption"] == Rate(0.9, "core-hours", source), "the latest round"
    assert rates["sft"].seconds == 2.0, "of four processes"
    recipe = load_recipe(REPO / "recipes" / "world.toml")
    lines = list(forecast_lines(list(forecast(plan_stages(recipe), recipe, COUNTS, rates)), num_devices=2))
    line = next(line for line in lines if line.startswith("round1-recaption"))
    assert "1,000 images" in line
    assert "0.25 core-hours, 0.125 h on 2" in line
    assert source in line


def test_what_is_damaged_or_unfinished_measures_nothing(tmp_path: Path) -> None:
    for name, text in (("recaption", "{"), ("judge", ""), ("sft", "{}")):
        folder = tmp_path / "round1" / name
        folder.mkdir(parents=True)
        (folder / {"sft": "vila2.json"}.get(name, "summary.json")).write_text(text)
    assert measured_rates(tmp_path) == {}


def test_plan_grows_with_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(REPO / "recipes" / "vila2-8b.toml")
    hours = []
    for images in ("1000000", "10000000"):
        words = ["plan", "round1", "--recipe", recipe, "--set", "data.interleaved=[]", "--images", images]
        assert main([*words, "--devices", "128"]) == 0
        out = capsys.readouterr().out
        line = next(line for line in out.splitlines() if line.startswith("round1-recaption"))
        hours.append(float(line.split(" images  ")[1].split()[0]))
        assert "VILA^2 section 3.6" in line
        assert "their data is not here to be counted: round0-sft" in out, "there is no SFT data here"
    assert hours[1] == pytest.approx(10 * hours[0], rel=0.01)


def test_a_papers_gpus_say_nothing_of_cores_and_like_stages_stand_in() -> None:
    recipe = load_recipe(REPO / "recipes" / "world.toml")
    all_stages = plan_stages(recipe, "specialists")
    found = {one.stage.name: one for one in forecast(all_stages, recipe, COUNTS, {})}
    assert all(one.rate is None for one in found.values())
    sft = Rate(2.0, "", "measured: here")
    found = {one.stage.name: one for one in forecast(all_stages, recipe, COUNTS, {"sft": sft})}
    assert found["ocr"].rate == Rate(2.0, "core-hours", "measured: here")
    assert found["ocr-relabel"].rate is None


def test_tiles_bound_a_papers_hours_and_leave_measured_ones(tmp_path: Path) -> None:
    tiles = 'base.tiles={method="catty", max=8}'
    recipe = load_recipe(REPO / "recipes" / "vila2-8b.toml", [tiles])
    stage = stages(recipe)["round1-recaption"]
    (read,) = forecast([stage], recipe, COUNTS, {})
    (measured,) = forecast([stage], recipe, COUNTS, {"recaption": Rate(1.0, "GPU-hours", "measured here")})
    assert (read.most_tiles, measured.most_tiles) == (9, 1)
    assert read.hours is not None
    assert "up to 9 times that in tiles" in read.line(1, 20)
    *_, left = forecast_lines([read], num_devices=1)
    assert left.startswith("left: ")
    assert "; in tiles up to " in left
    (square,) = forecast([stage], load_recipe(REPO / "recipes" / "vila2-8b.toml"), COUNTS, {})
    assert square.hours == read.hours
    assert "tiles" not in square.line(1, 20)
