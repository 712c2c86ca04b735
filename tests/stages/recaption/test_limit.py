"""`--limit N`: the first N samples alone, in a layer that never passes for one of all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from recaption_data import NUM_SAMPLES, captions, tars

from vila2cli.captioning.summary import CaptionSummary
from vila2cli.cli.app import main
from vila2cli.errors import RecipeError
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
