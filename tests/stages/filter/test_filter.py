"""`vila2 filter` from shards to layer, with a tiny model of random weights."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filter_data import (
    NO_MODEL,
    NUM_IN,
    NUM_SAMPLES,
    NUM_SHARDS,
    REJECTED,
    annotations,
    encoded,
    picture,
    tars,
    words,
)
from safetensors.torch import load_file, save_file

from vila2cli.ask import job
from vila2cli.engine import ScoreRequest, open_engine
from vila2cli.errors import DataError, Interrupted, RecipeError, RejectBudgetError
from vila2cli.image import decode_image
from vila2cli.run.workers import Worker
from vila2cli.shards import ShardStats
from vila2cli.shards.sample import Turn
from vila2cli.text.prompts import PROMPTS, prompt_sha256


def test_every_sample_is_decided_on_and_counted(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    summary = run()
    found = annotations(tmp_path / "layer")
    assert summary["in"] == NUM_IN == summary["out"] + sum(summary["dropped"].values())
    assert {reason: summary["dropped"][reason] for reason in REJECTED} == REJECTED
    assert {
        "repetition": 1,
        "no-caption": 1,
        "duplicate": 1,
        "near-duplicate": 1,
        "eval-overlap": 1,
    }.items() <= (summary["dropped"].items())
    assert summary["rejected"] == sum(REJECTED.values())
    assert summary["out"] == round(0.2 * NUM_SHARDS * NUM_SAMPLES)
    assert len(found) == NUM_IN - 1
    assert sum(one.scores["keep"] for one in found.values()) == summary["out"]
    for first, second, reason in (
        ("000000/000000003", "000002/copy", "duplicate"),
        ("000001/000000014", "000002/look-alike", "near-duplicate"),
    ):
        one, other = (found[name.partition("/")[2]] for name in (first, second))
        better, worse = sorted((one, other), key=lambda found: found.scores["perplexity"])
        assert worse.scores["reasons"] == [reason]
        assert worse.scores["like"] == (first if better is one else second)
        assert better.scores["reasons"] != [reason]
    assert found["evaluated"].scores["like"] == "000000/question"
    rejects = [json.loads(line) for line in (tmp_path / "layer" / "rejects.jsonl").read_text().splitlines()]
    assert {reject["key"]: reject["reason"] for reject in rejects} == {
        "cut-off": "bad-image",
        "two": "several-images",
        "json": "bad-json",
    }
    stats = [ShardStats.read(tmp_path / "layer" / f"{shard:06}.stats.json") for shard in range(NUM_SHARDS)]
    assert all(one.num_in == one.num_out + sum(one.dropped.values()) for one in stats)
    assert sum(one.num_out for one in stats) == summary["out"]


def test_the_score_is_the_perplexity_of_the_caption_under_image_and_prompt(
    run: Callable[..., dict[str, Any]], data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run('filter.scores=["perplexity", "text-perplexity"]', "data.draft=0")  # to the bit
    found = annotations(tmp_path / "layer")
    engine = open_engine("hf", tiny_checkpoint)
    for number in (0, 20, 47):
        one = found[f"{number:09}"]
        image = decode_image(encoded(picture(number)))
        for name, images in (("perplexity", (image,)), ("text_perplexity", ())):
            request = ScoreRequest(
                id="",
                messages=(Turn("user", PROMPTS["points-v1"]),),
                images=images,
                text=words(number).decode(),
            )
            (result,) = engine.generate([request])
            logprobs = result.token_logprobs
            assert one.scores[name] == pytest.approx(math.exp(-sum(logprobs) / len(logprobs)), rel=1e-4)
            assert one.num_tokens == one.scores["num_tokens"] == len(logprobs)
        assert one.logprob_mean == pytest.approx(-math.log(one.scores["perplexity"]))
        assert one.scores["image_gain"] == pytest.approx(
            math.log(one.scores["text_perplexity"] / one.scores["perplexity"])
        )
        assert (one.prompt_id, one.prompt_sha256) == ("points-v1", prompt_sha256("points-v1"))
        assert one.sampling["engine"] == "hf"
        assert one.seed == 0
        assert len(one.image_sha256) == 64


def test_the_lowest_perplexity_is_kept(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    summary = run("filter.keep_share=0.25")
    found = annotations(tmp_path / "layer").values()
    kept = [one.scores["perplexity"] for one in found if one.scores["keep"]]
    dropped = [one.scores["perplexity"] for one in found if one.scores["reasons"] == ["perplexity"]]
    assert len(kept) == summary["out"] == 12
    assert len(dropped) == 36
    assert max(kept) <= min(dropped)
    assert summary["cuts"] == [{"from_tokens": 0, "out": 12, "in": 48, "worst_kept": max(kept)}]


@pytest.mark.parametrize("rank", ["text-perplexity", "image-gain"])
def test_other_ranks(run: Callable[..., dict[str, Any]], tmp_path: Path, rank: str) -> None:
    run('filter.scores=["perplexity", "text-perplexity"]', f"filter.rank_by={rank}")
    found = annotations(tmp_path / "layer").values()
    sign = -1 if rank == "image-gain" else 1
    values = {
        keep: [sign * one.scores[rank.replace("-", "_")] for one in found if one.scores["reasons"] == reasons]
        for keep, reasons in ((True, []), (False, [rank]))
    }
    assert max(values[True]) <= min(values[False])


def test_each_length_keeps_its_share(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    summary = run("filter.keep_share=0.5", "filter.length_buckets=[9, 13]")
    assert [cut["from_tokens"] for cut in summary["cuts"]] == [0, 9, 13]
    for cut in summary["cuts"]:
        assert cut["out"] == int(cut["in"] / 2 + 0.5)
    assert sum(cut["in"] for cut in summary["cuts"]) == 48


@pytest.mark.parametrize("count", [2, 3])
def test_any_worker_split_writes_the_same_bytes(
    run: Callable[..., dict[str, Any]], tmp_path: Path, count: int
) -> None:
    run(out="whole", random=True)
    for index in reversed(range(count)):
        summary = run(out="split", worker=Worker(index, count), random=True)
        assert summary["decided"] is (index == 0)
    assert tars(tmp_path / "split") == tars(tmp_path / "whole")
    assert tars(tmp_path / "split-random") == tars(tmp_path / "whole-random")
    rejects = [(tmp_path / name / "rejects.jsonl").read_bytes() for name in ("whole", "split")]
    assert rejects[0] == rejects[1] != b""


def test_a_score_that_is_no_number_is_an_error_of_the_engine(
    run: Callable[..., dict[str, Any]], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if name.endswith("text_model.norm.weight"))
    save_file(weights | {name: weights[name] * math.nan}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(RejectBudgetError):
        run(model=broken)
    found = [one.scores for one in annotations(tmp_path / "layer").values()]
    assert not any(scores["keep"] or "perplexity" in scores for scores in found)
    assert sum(scores["reasons"] == ["engine-error"] for scores in found) > NUM_SHARDS * NUM_SAMPLES
    for tar in (tmp_path / "layer").rglob("*.tar.gz"):
        assert b"NaN" not in tar.read_bytes()


def test_other_thresholds_score_nothing_anew(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(random=True)
    scores = {path: path.stat().st_mtime_ns for path in (tmp_path / "layer" / "scores").glob("*.tar.gz")}
    before = tars(tmp_path / "layer")
    monkeypatch.setattr(job, "annotate", lambda *_, **__: pytest.fail("scored again"))
    wider = run("filter.keep_share=0.5", "filter.duplicates=none", "filter.min_words=3", random=True)
    assert wider["out"] > 20
    assert wider["control"]["out"] == wider["out"]
    assert "duplicate" not in wider["dropped"]
    assert {path: path.stat().st_mtime_ns for path in scores} == scores
    fresh = tmp_path / "fresh"
    shutil.copytree(tmp_path / "layer" / "scores", fresh / "scores")
    run("filter.keep_share=0.5", "filter.duplicates=none", "filter.min_words=3", out="fresh")
    assert tars(fresh) == tars(tmp_path / "layer")
    assert run(random=True)["out"] == round(0.2 * NUM_SHARDS * NUM_SAMPLES)
    assert tars(tmp_path / "layer") == before


def test_a_score_setting_that_changes_is_refused(run: Callable[..., dict[str, Any]]) -> None:
    run()
    with pytest.raises(RecipeError, match=r"settings\.prompt was .*points-v1.*now .*long-v1"):
        run("filter.prompt=long-v1")


def test_an_unreadable_shard_is_named_and_the_others_are_accounted_for(
    run: Callable[..., dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    train = Path(shutil.copytree(data / "train", tmp_path / "train"))
    whole = (train / "000002.tar").read_bytes()
    (train / "000002.tar").write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"000002\.tar is damaged or cut off.*; 3 of 4 shards are scored"):
        run(*NO_MODEL, model=None, shards=[str(train)])
    scores = tmp_path / "layer" / "scores"
    summary = json.loads((scores / "summary.json").read_text())
    assert (summary["num_shards_done"], summary["num_shards"]) == (3, NUM_SHARDS)
    assert summary["in"] == 3 * NUM_SAMPLES + 5 == summary["out"] + sum(summary["dropped"].values())
    (reject,) = map(json.loads, (scores / "rejects.jsonl").read_text().splitlines())
    assert (reject["shard"], reject["key"], reject["reason"]) == ("000001", "json", "bad-json")
    assert not (tmp_path / "layer" / "summary.json").exists()
    (train / "000002.tar").write_bytes(whole)
    assert run(*NO_MODEL, model=None, shards=[str(train)])["in"] == NUM_IN


def test_scores_are_those_of_one_engine(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run(worker=Worker(0, 2))
    path = tmp_path / "layer" / "scores" / "layer.json"
    begun = json.loads(path.read_text())
    assert begun["engine"] == "hf"
    path.write_text(json.dumps(begun | {"engine": "vllm"}))
    with pytest.raises(RecipeError, match=r"scores was begun with the engine vllm, and here .* go on with hf"):
        run(worker=Worker(1, 2))


def test_a_run_that_was_stopped_goes_on(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    whole = run(out="whole")
    run(out="layer")
    for name in ("scores/000001.tar.gz", "scores/000003.stats.json", "000002.tar.gz", "summary.json"):
        (tmp_path / "layer" / name).unlink()
    again = run(out="layer")
    assert {key: again[key] for key in ("in", "out", "dropped", "cuts")} == {
        key: whole[key] for key in ("in", "out", "dropped", "cuts")
    }
    assert tars(tmp_path / "layer") == tars(tmp_path / "whole")
    assert not list((tmp_path / "layer").rglob("*.partial"))
    assert not list((tmp_path / "layer").glob(".selection*"))


def test_a_signal_leaves_whole_shards_only(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_later(self: object) -> None:
        if (tmp_path / "layer" / "scores" / "000000.tar.gz").exists():
            raise Interrupted("stopped by SIGTERM")

    with monkeypatch.context() as patched:
        patched.setattr("vila2cli.run.stopping.Stop.check", stop_later)
        with pytest.raises(Interrupted):
            run()
    names = {path.name for path in (tmp_path / "layer" / "scores").iterdir()}
    assert "000000.tar.gz" in names
    assert "000003.tar.gz" not in names
    assert not [name for name in names if "partial" in name]
    run()
    run(out="whole")
    assert tars(tmp_path / "layer") == tars(tmp_path / "whole")
