"""Pictures chosen by metadata and header, with no model; and the same rules beside others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filter_data import NO_MODEL, annotations, encoded, picture, tars

from vila2cli.errors import RecipeError, RejectBudgetError
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation
from vila2cli.stages.filter import filter_samples

WHERE = 'filter.where=["clip >= 0.2", "min(width, height) >= 40", "nsfw < 0.5"]'
NUM = 20


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards whose samples have scores in their metadata, some of them missing, odd or equal."""
    folder = tmp_path_factory.mktemp("scored")
    for shard in range(2):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for number in range(NUM):
                meta: dict[str, Any] = {"clip": number // 2 / 20, "nsfw": "0.1", "nest": {"n": number}}
                if number == 19:
                    meta = {"clip": 0.9, "nsfw": 0.1}
                if number == 18:
                    del meta["nsfw"]
                if number == 17:
                    meta["clip"] = "high"
                image = encoded(picture(number % 3, 24 if number == 16 else 48))
                tar.write_sample(f"{shard}{number:02}", {"jpg": image, "json": json.dumps(meta).encode()})
            tar.write_sample(f"{shard}cut", {"jpg": b"no picture", "json": b'{"clip": 0.9, "nsfw": 0.1}'})
    return folder


def choose(scored: Path, out: Path, *sets: str, **changes: Any) -> dict[str, Any]:
    recipe = load_recipe(None, ["filter.max_reject_rate=0.2", *sets])
    return filter_samples(recipe, **({"shards": [scored], "out": out} | changes)).to_json()


def kept(out: Path) -> set[str]:
    return {key for key, one in annotations(out).items() if one.scores["keep"]}


def test_what_does_not_meet_a_condition_is_counted_by_it(scored: Path, tmp_path: Path) -> None:
    summary = choose(scored, tmp_path / "out", WHERE)
    assert summary["decided"]
    assert summary["dropped"] == {
        "not: clip >= 0.2": 16,
        "no number: clip": 2,
        "missing: nsfw": 2,
        "not: min(width, height) >= 40": 2,
        "bad-image": 2,
    }
    assert summary["in"] == summary["out"] + sum(summary["dropped"].values()) == 2 * (NUM + 1)
    expected = {f"{shard}{number:02}" for shard in range(2) for number in (*range(8, 16), 19)}
    assert kept(tmp_path / "out") == expected


def test_the_highest_of_what_passes_are_kept_ties_by_key(scored: Path, tmp_path: Path) -> None:
    top = ("filter.top.field=clip + 0", "filter.top.share=0.3")
    summary = choose(scored, tmp_path / "shard", WHERE, *top)
    # Nine pass in each shard, so three are kept: 0.9, and of the two with 0.35 both.
    assert kept(tmp_path / "shard") == {"014", "015", "019", "114", "115", "119"}
    assert summary["dropped"]["below top: clip + 0"] == 12
    choose(scored, tmp_path / "all", WHERE, *top, "filter.top.per=all", "filter.top.share=0.17")
    assert kept(tmp_path / "all") == {"014", "019", "119"}


def test_conditions_alone_ask_for_no_caption_layer(scored: Path, tmp_path: Path) -> None:
    source = open_source([scored])
    writer = open_layer(tmp_path / "short", layer="short", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                out.annotate(sample, Annotation(layer="short", kind="caption", text="brief"))
    writer.finish()
    choose(scored, tmp_path / "base", WHERE)
    choose(tmp_path / "short", tmp_path / "layer", WHERE)
    assert kept(tmp_path / "layer") == kept(tmp_path / "base")
    with pytest.raises(RecipeError, match=r"filter\.captions"):
        choose(tmp_path / "short", tmp_path / "words", WHERE, "filter.min_words=1")


@pytest.mark.parametrize("per", ["shard", "all"])
def test_beside_other_rules_the_same_is_kept(scored: Path, tmp_path: Path, per: str) -> None:
    top = ("filter.top.field=clip", "filter.top.share=0.3", f"filter.top.per={per}")
    choose(scored, tmp_path / "alone", WHERE, *top)
    choose(scored, tmp_path / "beside", WHERE, *top, random=True)
    assert kept(tmp_path / "alone") == kept(tmp_path / "beside")
    assert len(kept(tmp_path / "beside-random")) == len(kept(tmp_path / "beside"))


def test_a_model_is_not_asked_about_what_does_not_pass(
    data: Path, run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = run(
        'filter.where=["width == 90"]', 'filter.scores=["perplexity"]', shards=[f"{data}/train/000002.tar"]
    )
    scores = {key: one.scores for key, one in annotations(tmp_path / "layer").items()}
    assert {key for key, one in scores.items() if "perplexity" in one} == {"look-alike"}
    assert summary["out"] == 1
    assert summary["images"] == 1 + summary["dropped"]["not: width == 90"]


def test_workers_and_a_second_run_write_the_same_bytes(scored: Path, tmp_path: Path) -> None:
    choose(scored, tmp_path / "one", WHERE)
    first = choose(scored, tmp_path / "two", WHERE, worker=Worker(0, 2))
    assert (first["decided"], first["num_shards_done"]) == (False, 1)
    assert choose(scored, tmp_path / "two", WHERE, worker=Worker(1, 2))["decided"]
    assert tars(tmp_path / "one") == tars(tmp_path / "two")
    before = tars(tmp_path / "one")
    choose(scored, tmp_path / "one", WHERE)
    assert tars(tmp_path / "one") == before


def test_other_conditions_are_decided_again(scored: Path, tmp_path: Path) -> None:
    choose(scored, tmp_path / "out", WHERE)
    choose(scored, tmp_path / "out", 'filter.where=["clip == 0.9"]')
    assert kept(tmp_path / "out") == {"019", "119", "0cut", "1cut"}
    with pytest.raises(RecipeError, match="where"):
        choose(scored, tmp_path / "out", WHERE, worker=Worker(0, 2))


def test_a_layer_over_what_was_chosen_leaves_the_rest_out(scored: Path, tmp_path: Path) -> None:
    choose(scored, tmp_path / "first", WHERE)
    summary = choose(scored, tmp_path / "second", 'filter.where=["nest.n < 12"]', shards=[tmp_path / "first"])
    assert summary["out"] == 2 * 4
    assert summary["dropped"]["filtered-before"] == 24
    assert open_source([tmp_path / "second"]).layers[-1].name == "filter"


def test_nothing_kept_says_what_was_missing(scored: Path, tmp_path: Path) -> None:
    with pytest.raises(RejectBudgetError, match="42 missing: clipp"):
        choose(scored, tmp_path / "out", 'filter.where=["clipp > 0.3"]')


def test_without_conditions_nothing_has_changed() -> None:
    plain = load_recipe(None, list(NO_MODEL)).filter
    assert not {"where", "top"} & plain.deciding().keys()
    assert plain.reads_captions
    assert plain.decodes_pictures
    assert not plain.needs_header_only


def test_the_first_samples_alone_are_chosen_from(scored: Path, tmp_path: Path) -> None:
    every = choose(scored, tmp_path / "all", WHERE)
    some = choose(scored, tmp_path / "some", WHERE, limit=NUM + 4)
    assert (some["in"], some["num_shards"]) == (NUM + 4, 2)
    assert some["in"] == some["out"] + sum(some["dropped"].values())
    assert kept(tmp_path / "some") == {key for key in kept(tmp_path / "all") if key < "103"}
    over = choose(tmp_path / "some", tmp_path / "over", WHERE)
    assert (over["in"], over["out"]) == (some["in"], some["out"]), (
        "what was not looked at does not count as kept"
    )
    with pytest.raises(RecipeError, match=r"first\.000001 was 3, now absent"):
        choose(scored, tmp_path / "some", WHERE)
    assert choose(scored, tmp_path / "all", WHERE) == every


def test_one_broken_picture_of_few_stops_nothing(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "few" / "000000.tar") as tar:
        for number in range(4):
            tar.write_sample(f"{number}", {"jpg": encoded(picture(number)), "json": b'{"clip": 1}'})
        tar.write_sample("cut", {"jpg": b"no picture", "json": b'{"clip": 1}'})
    where, strict = "filter.where=['width > 1']", "filter.max_reject_rate=0.05"
    summary = choose(tmp_path / "few", tmp_path / "out", where, strict)
    assert (summary["out"], summary["rejected"], summary["dropped"]) == (4, 1, {"bad-image": 1})
    assert json.loads((tmp_path / "out" / "rejects.jsonl").read_text())["key"] == "cut"
    with pytest.raises(RejectBudgetError, match=r"1 of 5 samples \(20\.0%\) could not be"):
        choose(tmp_path / "few", tmp_path / "out", where, "filter.max_reject_rate=0")
