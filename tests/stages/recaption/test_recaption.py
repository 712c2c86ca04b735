import json
import shutil
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from recaption_data import BROKEN, NUM_SAMPLES, NUM_SHARDS, captions, settings, stats, tars
from safetensors.torch import load_file, save_file

from vila2cli.captioning.summary import CaptionSummary
from vila2cli.errors import RecipeError
from vila2cli.run.workers import Worker
from vila2cli.shards import open_layer, open_source
from vila2cli.shards.sample import Annotation
from vila2cli.text.prompts import prompt_sha256


def test_what_a_filter_dropped_is_not_captioned(
    run: Callable[..., CaptionSummary], data: Path, tmp_path: Path
) -> None:
    source = open_source([f"{data}/000000.tar"])
    writer = open_layer(tmp_path / "kept", layer="filter", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for number, sample in enumerate(out.samples()):
                scores = {"keep": number % 3 == 0}
                out.annotate(sample, Annotation(layer="filter", kind="score", scores=scores))
    summary = run(shards=[str(tmp_path / "kept")])
    assert summary.dropped == {"filtered": 8}
    assert (summary.num_in, summary.num_out, summary.num_rejected) == (12, 4, 0)
    assert summary.num_requests - summary.num_retries == 4
    assert sorted(captions(tmp_path / "layer")) == [f"{number:09}" for number in range(0, 12, 3)]


def test_every_sample_is_captioned_or_counted(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    summary = run(recipe=settings("recaption.fallback=none"))
    num_in = NUM_SHARDS * NUM_SAMPLES + sum(BROKEN.values())
    assert summary.num_in == num_in == summary.num_out + sum(summary.dropped.values())
    assert {reason: summary.dropped[reason] for reason in BROKEN} == BROKEN
    assert set(summary.dropped) - set(BROKEN) <= {"truncated", "empty", "repetition"}
    found = captions(tmp_path / "layer")
    assert len(found) == summary.num_out > 5
    rejects = [json.loads(line) for line in (tmp_path / "layer" / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == summary.num_rejected == sum(summary.dropped.values())
    assert {reject["key"] for reject in rejects} | set(found) >= {f"{n:09}" for n in range(60)} | {"cut-off"}
    stored = json.loads((tmp_path / "layer" / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summary.to_json()))
    assert stored["images"] == NUM_SHARDS * NUM_SAMPLES == sum(summary.finish_reasons.values())
    assert sum(summary.prompts.values()) == summary.num_out == summary.kept["model"]
    assert stored["alt_text_words"]["mean"] == pytest.approx(2)
    assert 0 < summary.num_cut <= sum(a.finish_reason == "length" for a in found.values())
    assert len(summary.lines()) == 4
    assert summary.lines()[3].endswith("core-hours per 1,000 images"), "and nothing of the paper's GPUs"


def test_captions_say_where_they_come_from(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    summary = run(recipe=settings())
    found = {k: a for k, a in captions(tmp_path / "layer").items() if a.decision["source"] == "model"}
    for annotation in found.values():
        assert annotation.kind == "caption"
        assert annotation.text
        assert annotation.round == 1
        assert annotation.model_sha256 == summary.model_sha256
        assert annotation.prompt_id in ("long-v1", "long-v2", "long-v3")
        assert annotation.prompt_sha256 == prompt_sha256(annotation.prompt_id)
        assert annotation.sampling == {
            "engine": "hf",
            "dtype": "float32",
            "temperature": 0.0,
            "top_p": 1.0,
            "max_new_tokens": 48,
        }
        assert annotation.logprob_mean is not None
        assert annotation.logprob_mean < 0
        assert len(annotation.image_sha256) == 64
        assert annotation.decision == {"source": "model", "by": "only"}
    assert len({annotation.prompt_id for annotation in found.values()}) > 1
    assert len({annotation.seed for annotation in found.values()}) == len(found)


def test_a_model_runs_in_its_own_number_format_or_in_that_of_the_recipe(
    run: Callable[..., CaptionSummary], model: Path, data: Path, tmp_path: Path
) -> None:
    half = Path(shutil.copytree(model, tmp_path / "half"))
    weights = load_file(half / "model.safetensors")
    save_file({name: one.bfloat16() for name, one in weights.items()}, half / "model.safetensors")
    config = (half / "config.json").read_text()
    assert '"dtype": "float32"' in config
    (half / "config.json").write_text(config.replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    one_shard = {"shards": [f"{data}/000000.tar"], "model": half}
    run("own", **one_shard)
    run("whole", settings("recaption.dtype=float32"), **one_shard)
    texts = []
    for out, dtype in [("own", "bfloat16"), ("whole", "float32")]:
        assert json.loads((tmp_path / out / "manifest.json").read_text())["inputs"]["dtype"] == dtype
        found = captions(tmp_path / out)
        assert {one.sampling["dtype"] for one in found.values()} == {dtype}
        texts.append([one.text for one in found.values()])
    assert texts[0] != texts[1]
    with pytest.raises(RecipeError, match='dtype was "bfloat16", now "float32"'):
        run("own", settings("recaption.dtype=float32"), **one_shard)


def test_a_bad_caption_is_tried_again_and_falls_back_to_the_alt_text(
    run: Callable[..., CaptionSummary], tmp_path: Path
) -> None:
    once = run("once", settings())
    summary = run("layer", settings("recaption.retry_temperatures=[0.5, 1.0]"))
    first, found = captions(tmp_path / "once"), captions(tmp_path / "layer")
    assert summary.num_out == once.num_out == NUM_SHARDS * NUM_SAMPLES == len(found)
    assert summary.num_requests == 60 + summary.num_retries == sum(summary.finish_reasons.values())
    assert sum(summary.defects.values()) == summary.num_requests - summary.kept["model"]
    assert summary.num_retried > 3
    for key, annotation in found.items():
        decision = annotation.decision
        if first[key].decision["source"] == "model":
            assert annotation == first[key]
            continue
        attempts = decision["attempts"]
        assert [one["temperature"] for one in attempts] == [0.0, 0.5, 1.0][: len(attempts)]
        assert len({one["seed"] for one in attempts}) == len(attempts)
        assert all(one["defect"] for one in attempts[:-1])
        if decision["source"] == "original":
            assert (annotation.text, decision["chosen"]) == (f"picture {int(key)}", None)
            assert (annotation.seed, annotation.logprob_mean) == (None, None)
            assert attempts[-1]["defect"]
        else:
            assert decision["chosen"] == len(attempts) - 1
            last = attempts[-1]
            assert (last["defect"], last["text"], last["seed"]) == (None, annotation.text, annotation.seed)
            assert annotation.sampling["temperature"] == last["temperature"]
    sources = Counter(annotation.decision["source"] for annotation in found.values())
    assert sources == summary.kept
    assert sources["original"] == summary.num_fallbacks > 3
    assert summary.reject_rate == (summary.num_rejected + summary.num_fallbacks) / summary.num_selected
    assert stats(tmp_path / "layer", "fallbacks") == summary.fallbacks


def test_the_best_of_n_is_kept(run: Callable[..., CaptionSummary], few: Path, tmp_path: Path) -> None:
    sampled, shards = "recaption.temperature=0.7", [str(few)]
    run("one", settings(sampled), shards=shards)
    summary = run("four", settings(sampled, "recaption.n=4"), shards=shards)
    assert summary.num_requests == 4 * 25 == sum(summary.finish_reasons.values())
    one, four = captions(tmp_path / "one"), captions(tmp_path / "four")
    num_good = 0
    for key, annotation in four.items():
        attempts = annotation.decision["attempts"]
        assert len({attempt["seed"] for attempt in attempts}) == 4
        good = [attempt for attempt in attempts if attempt["defect"] is None]
        num_good += len(good)
        if good:
            best = max(good, key=lambda attempt: attempt["logprob_mean"])
            assert (annotation.text, annotation.logprob_mean) == (best["text"], best["logprob_mean"])
            assert attempts[annotation.decision["chosen"]] == best
        if one[key].decision["source"] == "model":  # the first of n is what n = 1 gives
            assert attempts[0]["seed"] == one[key].seed
            assert attempts[0]["text"] == one[key].text
    assert num_good > summary.kept["model"] > 4
    assert summary.chosen_by.keys() == {"logprob", "only"}
    with pytest.raises(RecipeError, match=r"recaption\.n = 4 captions per image are all the same"):
        run("greedy", settings("recaption.n=4"))


def test_the_model_judges_between_its_captions(
    run: Callable[..., CaptionSummary], few: Path, tmp_path: Path
) -> None:
    recipe = settings("recaption.temperature=0.5", "recaption.n=5", "recaption.choose=judge")
    summary = run(recipe=recipe, shards=[str(few)])
    judged = [a for a in captions(tmp_path / "layer").values() if a.decision["by"] == "judge"]
    assert len(judged) == summary.chosen_by["judge"] > 5
    for annotation in judged:
        good = [one for one in annotation.decision["attempts"] if one["defect"] is None]
        assert len(annotation.decision["judge"]) <= len(good) - 1
        assert annotation.text in [one["text"] for one in good]
        if "win" not in annotation.decision["judge"]:
            assert annotation.logprob_mean == max(one["logprob_mean"] for one in good)
    num_asked = sum(2 * len(annotation.decision["judge"]) for annotation in judged)
    assert summary.num_requests == sum(summary.finish_reasons.values()) + num_asked


def test_own_prompts_see_the_alt_text(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    sets = ("recaption.prompts=mine", 'prompts={mine = "Describe {alt_text}."}')
    with pytest.raises(RecipeError, match="unknown prompt 'mine'"):
        run(recipe=settings(sets[0]))
    run(recipe=settings(*sets))
    found = captions(tmp_path / "layer")
    assert {a.prompt_id for a in found.values()} == {"mine"}
    assert {a.prompt_sha256 for a in found.values()} == {sha256(b"Describe {alt_text}.").hexdigest()}
    with pytest.raises(RecipeError, match=r"prompts\.mine changed"):
        run(recipe=settings(sets[0], 'prompts={mine = "Tell me of {alt_text}."}'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "count"),
    [
        ([], 2),
        (["recaption.temperature=0.7"], 4),
        (["recaption.temperature=0.7", "recaption.n=3", "recaption.choose=judge"], 3),
    ],
    ids=["greedy", "sampled", "best of 3 by judge"],
)
def test_any_worker_split_writes_the_same_bytes(
    run: Callable[..., CaptionSummary], few: Path, tmp_path: Path, sets: list[str], count: int
) -> None:
    # Batches smaller than a shard, so that one which reached over its end would be seen.
    always = [
        "recaption.batch_size=3",
        "recaption.max_new_tokens=24",
        "recaption.retry_temperatures=[0.5, 1.0]",
    ]
    recipe = settings(*always, *sets)
    shards = [f"{few}/*.tar"]
    assert run("whole", recipe, shards=shards).num_retries > 2
    whole = tars(tmp_path / "whole")
    assert len(whole) == NUM_SHARDS
    for index in reversed(range(count)):
        summary = run("split", recipe, shards=shards, worker=Worker(index, count))
    assert summary.num_shards_done == NUM_SHARDS
    assert tars(tmp_path / "split") == whole
    rejects = (tmp_path / "split" / "rejects.jsonl").read_bytes()
    assert rejects == (tmp_path / "whole" / "rejects.jsonl").read_bytes()


def test_any_number_of_threads_writes_the_same_bytes(
    run: Callable[..., CaptionSummary], few: Path, tmp_path: Path
) -> None:
    for workers in (0, 1, 2):
        recipe = settings(f"engine.workers={workers}", "recaption.max_new_tokens=8")
        cost = run(str(workers), recipe, shards=[f"{few}/*.tar"]).cost.to_json()
        assert 0 < float(cost["waited_for_pictures"]) < float(cost["seconds"])
    written = [tars(tmp_path / str(workers)) for workers in (0, 1, 2)]
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == NUM_SHARDS
