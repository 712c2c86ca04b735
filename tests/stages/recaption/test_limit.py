"""`--limit N`: the first N samples alone, in a layer that never passes for one of all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from recaption_data import NUM_SAMPLES, captions, tars

from vila2cli.captioning.summary import CaptionSummary
from vila2cli.cli.app import main
from vila2cli.errors import DataWarning, RecipeError
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import open_source, read_shard
from vila2cli.stages import shards
from vila2cli.stages.filter import filter_samples

LIMIT = NUM_SAMPLES + 3


def keys(folder: Path) -> list[str]:
    opened = [read_shard(shard, on_reject=lambda reject: None) for shard in open_source([folder]).shards]
    return [sample.key for samples in opened for sample in samples]


def test_the_first_samples_get_the_captions_that_all_get(
    run: Callable[..., CaptionSummary], data: Path, tmp_path: Path
) -> None:
    run("all")
    summary = run("some", limit=LIMIT)
    assert (summary.num_in, summary.num_out, summary.num_shards) == (LIMIT, LIMIT, 2)
    found, every = captions(tmp_path / "some"), captions(tmp_path / "all")
    assert list(found) == list(every)[:LIMIT] == keys(tmp_path / "some")
    assert {key: one.text for key, one in found.items()} == {key: every[key].text for key in found}
    assert tars(tmp_path / "some")["000000.tar.gz"] == tars(tmp_path / "all")["000000.tar.gz"]
    assert not shards.check(open_source([tmp_path / "some"])).problems
    assert run("some", limit=LIMIT) == summary, "there is nothing left to do"


def test_a_limited_layer_is_not_gone_on_with_as_one_of_all(
    run: Callable[..., CaptionSummary], tmp_path: Path
) -> None:
    run("layer", limit=LIMIT)
    written = tars(tmp_path / "layer")
    with pytest.raises(RecipeError, match=r"base\.first\.000001 was 3, now absent, other shards"):
        run("layer")
    with pytest.raises(RecipeError, match=r"base\.first\.000001 was 3, now 4"):
        run("layer", limit=LIMIT + 1)
    assert tars(tmp_path / "layer") == written


def test_what_lies_over_a_limited_layer_has_no_other_samples(
    run: Callable[..., CaptionSummary], tmp_path: Path
) -> None:
    run("layer", limit=LIMIT)
    recipe = load_recipe(None, ["filter.where=['width >= 1']", "filter.min_words=1"])
    summary = filter_samples(recipe, shards=[str(tmp_path / "layer")], out=tmp_path / "filter")
    assert (summary.to_json()["in"], summary.to_json()["out"]) == (LIMIT, LIMIT)
    assert len(keys(tmp_path / "filter")) == LIMIT


def test_a_limit_that_ends_between_two_shards_is_one_all_the_same(data: Path, tmp_path: Path) -> None:
    def choose(where: str, limit: int | None = None) -> None:
        recipe = load_recipe(None, [f"filter.where=['{where}']", "filter.max_reject_rate=1"])
        filter_samples(recipe, shards=[f"{data}/*.tar"], out=tmp_path / "chosen", limit=limit)

    choose("width >= 1")
    written = tars(tmp_path / "chosen")
    for where in ("width >= 1", "width >= 2"):
        with pytest.raises(RecipeError, match=rf"first.* was absent, now .*{NUM_SAMPLES}"):
            choose(where, NUM_SAMPLES)
    assert tars(tmp_path / "chosen") == written
    (whole,) = open_source([data / "000000.tar"], limit=NUM_SAMPLES).shards
    assert whole.first is None, "these are all that there are"


def test_a_base_named_beside_a_limited_layer_is_said_to_be_cut(
    run: Callable[..., CaptionSummary], data: Path, tmp_path: Path
) -> None:
    run("layer", limit=LIMIT)
    with pytest.warns(DataWarning, match=r"000001\.tar: only its first 3 samples are read") as told:
        source = open_source([f"{data}/*.tar", tmp_path / "layer"])
    assert len(told) == 1
    assert [shard.first for shard in source.shards][:2] == [None, 3]


def test_a_judge_is_shown_no_more_than_either_setting_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for limit, num in (("3", 3), ("9", 5)):
        words = ["judge", "--layers", "alt-text", "r1", "--shards", "data", "--model", "ckpt", "--limit", limit]
        assert main([*words, "--set", "judge.num_samples=5", "--dry-run", "--json"]) == 0
        settings = json.loads(capsys.readouterr().out)["settings"]
        assert settings["judge.num_samples"] == num


def test_it_lies_apart_from_what_later_stages_read(
    few: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["recaption", "--model", str(model), "--limit", "3", "--set", f"data.pretrain=['{few}/*.tar']"]
    words += ["--set", "recaption.max_new_tokens=4", "--set", "recaption.max_reject_rate=1"]
    assert main([*words, "--round", "1", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["limit"] == 3
    assert main([*words, "--round", "1"]) == 0
    assert "of the first 3 samples alone" in capsys.readouterr().out
    assert len(keys(tmp_path / "runs/run/round1/limit-3/recaption")) == 3
    assert not (tmp_path / "runs/run/round1/recaption").exists()
    assert main([*words, "--round", "1"]) == 0
    assert "complete, nothing to do" in capsys.readouterr().out
    assert main([*words, "--estimate"]) == 2
