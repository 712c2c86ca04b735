"""A run in tiles, small: pictures of every shape go through every stage, in fewer tiles where room lacks."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from test_native_rounds import RECIPE, SIZES, write_shards

from vila2cli.cli.app import main
from vila2cli.files import read_json
from vila2cli.model.checkpoint import LINEAGE_FILE
from vila2cli.model.tiles import KEY

ASKED = ("recaption --round 1", "filter --round 1", "judge --round 1", "eval --round 0")
STAGES = (
    "pretrain --round 0",
    "sft --round 0",
    *ASKED,
    "specialize --name ocr",
    "specialize --name ocr --relabel",
)
HEAD = """
name = "tiled"
rounds = 1
runs_dir = "{folder}/runs"
engine = {{ max_model_len = 120 }}
[base]
tiles = {{ method = "catty", max = 6 }}
"""
"""Seven tiles take 114 tokens."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each stage of a run prints."""
    folder = tmp_path_factory.mktemp("tiled")
    (folder / "data").mkdir()
    write_shards(folder / "data")
    recipe = folder / "recipe.toml"
    recipe.write_text((HEAD + "[data]" + RECIPE.partition("[data]")[2]).format(folder=folder))
    printed = {"": str(folder / "runs" / "tiled")}
    for words in STAGES:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            is_given = words in ("judge --round 1", "specialize --name ocr")  # round 1 is not trained here
            model = ["--model", f"{printed['']}/round0/sft"] if is_given else []
            assert main([*words.split(), *model, "--recipe", str(recipe)]) == 0, (words, out.getvalue())
        printed[words] = out.getvalue()
    return printed


@pytest.mark.parametrize("stage", ["round0/pretrain", "round0/sft", "specialists/ocr/checkpoint"])
def test_pictures_of_every_shape_are_trained_on_in_tiles(said: dict[str, str], stage: str) -> None:
    made = read_json(Path(said[""]) / stage / LINEAGE_FILE)
    assert made["num_rejected"] == 0
    for phase in made["phases"]:
        assert {source["samples"] for source in phase["sources"].values()} == {len(SIZES)}
    rule = read_json(Path(said[""]) / stage / "processor_config.json")["image_processor"][KEY]
    assert (rule["method"], rule["max"]) == ("catty", 6)


@pytest.mark.parametrize("words", ASKED)
def test_requests_in_fewer_tiles_are_counted_and_told(said: dict[str, str], words: str) -> None:
    """The longest prompts have no room for all tiles of the banner and its like; none is lost for it."""
    stage, _, round = words.split()
    file = "metrics.json" if stage == "eval" else "summary.json"
    summary = read_json(Path(said[""]) / f"round{round}" / stage / file)
    (counted,) = summary["tasks"].values() if stage == "eval" else (summary,)
    assert counted["fewer_tiles"] > 0
    assert f"{counted['fewer_tiles']} requests showed pictures in fewer tiles" in said[words]
    if stage == "eval":
        assert summary["num_rejected"] == 0
    elif stage != "judge":
        lines = (Path(said[""]) / f"round{round}" / stage / "rejects.jsonl").read_text().splitlines()
        reasons = {json.loads(line)["reason"] for line in lines}
        assert reasons <= {"repetition", "empty", "truncated", "too-short"}
        assert summary["in"] == len(SIZES)


def test_a_specialist_answers_about_every_shape(said: dict[str, str]) -> None:
    summary = read_json(Path(said[""]) / "specialists" / "ocr" / "relabel" / "summary.json")
    assert summary["in"] == len(SIZES)
    assert summary["fewer_tiles"] > 0
