import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vila2cli.captioning.summary import CaptionSummary
from vila2cli.errors import DataError, Interrupted, ModelError, RecipeError, RejectBudgetError
from vila2cli.recipe import Recipe, load_recipe
from vila2cli.run import Worker
from vila2cli.sample import Annotation, Reject
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.stages.recaption import estimate, recaption
from vila2cli.text.prompts import prompt_sha256

NUM_SHARDS, NUM_SAMPLES = 5, 12
BROKEN = {"bad-image": 2, "no-image": 1, "several-images": 1, "bad-json": 1}
"""What shard 000001 holds besides its good samples, by the reason under which each is counted."""


def _tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "tiny_vlm", Path(__file__).parents[1] / "engine" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = _tiny()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder: Path = TINY.build_random_vlm(tmp_path_factory.mktemp("vlm"))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for shard in range(NUM_SHARDS):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for index in range(NUM_SAMPLES):
                number = shard * NUM_SAMPLES + index
                tar.write_sample(f"{number:09}", {"jpg": jpeg(number), "txt": f"picture {number}".encode()})
            if shard == 1:
                write_broken(tar)
    return folder


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    TINY.picture(number).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_broken(tar: TarWriter) -> None:
    tar.write_sample("cut-off", {"jpg": jpeg(1)[:-400]})
    tar.write_sample("no-picture", {"jpg": b"GIF89a or so"})
    tar.write_sample("only-text", {"txt": b"hello"})
    tar.write_sample("two", {"0.jpg": jpeg(1), "1.jpg": jpeg(2)})
    tar.write_sample("json", {"jpg": jpeg(3), "json": b"{"})


def settings(*sets: str) -> Recipe:
    always = ["recaption.engine=hf", "recaption.max_new_tokens=48", "recaption.batch_size=8"]
    return load_recipe(None, [*always, "recaption.max_reject_rate=1.0", *sets])


@pytest.fixture
def run(data: Path, model: Path, tmp_path: Path) -> Callable[..., CaptionSummary]:
    def call(out: str = "layer", recipe: Recipe | None = None, **changes: Any) -> CaptionSummary:
        arguments = {"shards": [f"{data}/*.tar"], "model": model, "out": tmp_path / out, "round": 1}
        return recaption(recipe or settings(), **(arguments | changes))

    return call


def captions(out: Path) -> dict[str, Annotation]:
    rejects: list[Reject] = []
    source = open_source([str(out)])
    samples = (sample for shard in source.shards for sample in read_shard(shard, on_reject=rejects.append))
    found = {sample.key: sample.annotation("recaption") for sample in samples}
    return {key: annotation for key, annotation in found.items() if annotation is not None}


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def stats(out: Path) -> Counter[str]:
    """The figures of all shards, added up."""
    total: Counter[str] = Counter()
    for path in out.glob("*.stats.json"):
        figures = json.loads(path.read_text())
        total.update({key: value for key, value in figures.items() if isinstance(value, int)})
    return total


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
    summary = run(recipe=settings("recaption.fallback=none", "recaption.retry_temperatures=[]"))
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
    assert "VILA^2: $0.12 a recaption pass, human captions $36" in summary.lines()[3]


def test_captions_say_where_they_come_from(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    summary = run(recipe=settings("recaption.retry_temperatures=[]"))
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
    once = run("once", settings("recaption.retry_temperatures=[]"))
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
    assert stats(tmp_path / "layer")["fallback_truncated"] == summary.fallbacks["truncated"]


def test_the_best_of_n_is_kept(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    sampled = ("recaption.temperature=0.7", "recaption.retry_temperatures=[]")
    run("one", settings(*sampled))
    summary = run("four", settings(*sampled, "recaption.n=4"))
    assert summary.num_requests == 4 * 60 == sum(summary.finish_reasons.values())
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
    assert num_good > summary.kept["model"] > 10
    assert summary.chosen_by.keys() == {"logprob", "only"}
    with pytest.raises(RecipeError, match=r"recaption\.n = 4 captions per image are all the same"):
        run("greedy", settings("recaption.n=4"))


def test_the_model_judges_between_its_captions(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    recipe = settings("recaption.temperature=0.5", "recaption.n=5", "recaption.choose=judge")
    summary = run(recipe=recipe)
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
    with pytest.raises(RecipeError, match=r"prompts\.mine was"):
        run(recipe=settings(sets[0], 'prompts={mine = "Tell me of {alt_text}."}'))


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["recaption.temperature=0.7"],
        ["recaption.temperature=0.7", "recaption.n=3", "recaption.choose=judge"],
    ],
    ids=["greedy", "sampled", "best of 3 by judge"],
)
def test_any_worker_split_writes_the_same_bytes(
    run: Callable[..., CaptionSummary], tmp_path: Path, sets: list[str]
) -> None:
    recipe = settings("recaption.retry_temperatures=[0.5, 1.0]", *sets)
    assert run("whole", recipe).num_retries > 5
    whole = tars(tmp_path / "whole")
    assert len(whole) == NUM_SHARDS
    for count in (2, 3, 4):
        for index in reversed(range(count)):
            summary = run(f"split{count}", recipe, worker=Worker(index, count))
        assert summary.num_shards_done == NUM_SHARDS
        assert tars(tmp_path / f"split{count}") == whole
        rejects = (tmp_path / f"split{count}" / "rejects.jsonl").read_bytes()
        assert rejects == (tmp_path / "whole" / "rejects.jsonl").read_bytes()


def test_an_estimate_counts_and_writes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in (*data.iterdir(), *tmp_path.iterdir()))
    recipe = settings("recaption.share=0.6", "cost.dollars_per_hour=2.0", "recaption.retry_temperatures=[]")
    found = estimate(recipe, shards=[f"{data}/*.tar"], model=model, round=1)
    assert sorted(path.name for path in (*data.iterdir(), *tmp_path.iterdir())) == before
    assert found.num_requests == found.tried.num_images
    assert 25 <= found.tried.num_images <= 45  # all of the share: there are fewer than 64
    assert found.num_samples == pytest.approx(0.6 * 65, abs=12)
    assert found.tried.seconds > 0
    assert found.tried.dollars_per_hour == 2
    lines = "\n".join(found.lines())
    assert "VILA^2: $0.12" in lines
    assert f"about {found.num_samples} samples in 5 shards" in lines


def test_going_on_does_only_what_is_missing(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    first = run()
    before = tars(tmp_path / "layer")
    for name in ("000002.tar", "000004.stats.json"):
        (tmp_path / "layer" / name).unlink()
    (tmp_path / "layer" / "000002.tar.partial").write_bytes(b"half a shard")
    kept = {name: (tmp_path / "layer" / name).stat().st_mtime_ns for name in ("000000.tar", "000003.tar")}
    second = run()
    assert tars(tmp_path / "layer") == before
    assert (second.num_in, second.num_out, second.dropped) == (first.num_in, first.num_out, first.dropped)
    assert kept == {name: (tmp_path / "layer" / name).stat().st_mtime_ns for name in kept}
    assert not list((tmp_path / "layer").glob("*.partial"))


def test_share_leaves_out_the_same_images_in_every_round(
    run: Callable[..., CaptionSummary], tmp_path: Path
) -> None:
    recipe = settings("recaption.share=0.5", "recaption.max_reject_rate=1.0")
    rounds = [run(f"r{number}", recipe, round=number) for number in (1, 2)]
    left_out = [summary.dropped["not-selected"] for summary in rounds]
    assert left_out[0] == left_out[1]
    assert 15 <= left_out[0] <= 45
    assert rounds[0].num_selected == rounds[0].num_in - left_out[0]
    lines = (tmp_path / "r1" / "rejects.jsonl").read_text()
    assert "not-selected" not in lines
    one, two = captions(tmp_path / "r1"), captions(tmp_path / "r2")
    both = set(one) & set(two)
    assert any(one[key].prompt_id != two[key].prompt_id for key in both)


def test_without_a_round_another_model_draws_other_prompts(
    run: Callable[..., CaptionSummary], data: Path, model: Path, tmp_path: Path
) -> None:
    def prompts(out: str, **changes: Any) -> dict[str, str | None]:
        run(out, settings("recaption.retry_temperatures=[]"), shards=[f"{data}/000000.tar"], **changes)
        return {key: found.prompt_id for key, found in captions(tmp_path / out).items()}

    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "vila2.json").write_text('{"stage": "sft", "round": null}')
    assert prompts("one", round=None) == prompts("same", round=None, model=other)  # the same weights
    assert {found.round for found in captions(tmp_path / "one").values()} == {None}
    (other / "vila2.json").write_text('{"stage": "sft", "round": 2}')
    assert prompts("next", round=None, model=other) == prompts("third", round=3) != prompts("one", round=None)
    edited = json.loads((other / "generation_config.json").read_text()) | {"note": "another model"}
    (other / "generation_config.json").write_text(json.dumps(edited))
    (other / "vila2.json").unlink()
    assert prompts("changed", round=None, model=other) != prompts("one", round=None)


def test_too_many_rejects_fail_after_everything_is_written(
    run: Callable[..., CaptionSummary], tmp_path: Path
) -> None:
    with pytest.raises(
        RejectBudgetError, match=r"above max_reject_rate 5\.0%: .*truncated.*2 bad-image"
    ) as caught:
        run(recipe=settings("recaption.max_reject_rate=0.05"))
    assert caught.value.exit_code == 3
    assert len(tars(tmp_path / "layer")) == NUM_SHARDS
    assert (tmp_path / "layer" / "summary.json").is_file()
    assert run().num_shards_done == NUM_SHARDS  # a higher limit accepts what is there


def test_other_settings_are_refused(run: Callable[..., CaptionSummary]) -> None:
    run()
    with pytest.raises(RecipeError, match=r"settings\.temperature was 0\.0, now 0\.5"):
        run(recipe=settings("recaption.temperature=0.5"))
    with pytest.raises(RecipeError, match="round was 1, now 2"):
        run(round=2)


def test_workers_of_one_layer_use_one_engine(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    run(worker=Worker(0, 2))
    path = tmp_path / "layer" / "layer.json"
    begun = json.loads(path.read_text())
    assert begun["engine"] == "hf"
    path.write_text(json.dumps(begun | {"engine": "vllm"}))  # as on a machine where "auto" was that
    before = tars(tmp_path / "layer")
    with pytest.raises(RecipeError, match="begun with the engine vllm, and here it would go on with hf"):
        run(worker=Worker(1, 2))
    assert tars(tmp_path / "layer") == before


def test_a_missing_model_and_a_damaged_shard(
    run: Callable[..., CaptionSummary], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        run(model=tmp_path / "no" / "such" / "model")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "000000.tar").write_bytes((data / "000000.tar").read_bytes())
    (tmp_path / "cut" / "000001.tar").write_bytes((data / "000001.tar").read_bytes()[:9000])
    with pytest.raises(DataError, match=r"000001\.tar is damaged or cut off"):
        run(shards=[str(tmp_path / "cut")])
    assert set(tars(tmp_path / "layer")) == {"000000.tar"}
    assert json.loads((tmp_path / "layer" / "summary.json").read_text())["num_shards_done"] == 1
    assert not list((tmp_path / "layer").glob("*.partial"))


def test_what_is_begun_is_finished_when_no_more_shards_can_be_read(
    run: Callable[..., CaptionSummary], data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for number in range(5):
        whole = (data / f"{number % 2 and 2:06}.tar").read_bytes()
        (folder / f"{number:06}.tar").write_bytes(b"no tar" if 1 <= number <= 3 else whole)
    with pytest.raises(DataError, match=r"3 shards in a row cannot be read, the last one: .*000003\.tar"):
        run(shards=[str(folder)])
    assert set(tars(tmp_path / "layer")) == {"000000.tar"}
    assert json.loads((tmp_path / "layer" / "summary.json").read_text())["num_shards_done"] == 1


LONG = 'prompts={mine = "{alt_text} Describe it."}'


@pytest.fixture
def overlong(data: Path, tmp_path: Path) -> Path:
    """Two shards; the alt-texts of the first fit no prompt."""
    folder = tmp_path / "overlong"
    for shard, alt_text in enumerate((b"red " * 600, b"red")):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for number in range(NUM_SAMPLES):
                tar.write_sample(f"{shard}-{number}", {"jpg": jpeg(number), "txt": alt_text})
    return folder


def test_a_shard_that_the_engine_refuses_is_not_done(
    run: Callable[..., CaptionSummary], overlong: Path, tmp_path: Path
) -> None:
    sets = ("recaption.prompts=mine", LONG)
    strict = settings(*sets, "recaption.max_reject_rate=0.9")
    for _ in range(2):  # again and again, until it is mended
        with pytest.raises(
            RejectBudgetError, match=r"every sample of 1 shards, .*12 times: prompt of \d+ tokens does not fit"
        ):
            run(recipe=strict, shards=[str(overlong)])
        assert set(tars(tmp_path / "layer")) == {"000001.tar"}
        assert json.loads((tmp_path / "layer" / "summary.json").read_text())["num_shards_done"] == 1
    summary = run(recipe=settings(*sets), shards=[str(overlong)])
    assert summary.num_shards_done == 2
    assert summary.errors == {"prompt of # tokens does not fit the context of #": NUM_SAMPLES}
    with pytest.raises(RejectBudgetError, match=r"commonest error, 12 times: prompt of # tokens .*shards show"):
        run(recipe=settings(*sets, "recaption.max_reject_rate=0.3"), shards=[str(overlong)])


def test_nothing_is_estimated_from_samples_without_an_answer(overlong: Path, model: Path) -> None:
    recipe = settings("recaption.prompts=mine", LONG)
    with pytest.raises(DataError, match=r"none of the first 12 samples got an answer, .*: 12 times: prompt of"):
        estimate(recipe, shards=[str(overlong / "000000.tar")], model=model, round=1)


SCRIPT = """
import sys
from vila2cli.errors import Vila2Error
from vila2cli.recipe import load_recipe
from vila2cli.stages.recaption import estimate, recaption
import torch
torch.set_num_threads(1)
shards, model, out, *sets = sys.argv[1:]
try:
    recaption(load_recipe(None, sets), shards=[shards], model=model, out=out, round=1)
except Vila2Error as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_goes_on_where_it_stopped(
    run: Callable[..., CaptionSummary], data: Path, model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    sets = ["recaption.engine=hf", "recaption.max_new_tokens=48", "recaption.max_reject_rate=1.0"]
    sets.append("recaption.batch_size=1")  # slow enough to be caught in the middle
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, f"{data}/*.tar", str(model), str(out), *sets]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("*.stats.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    code = process.wait(120)
    assert code == (Interrupted.exit_code if number == signal.SIGTERM else -signal.SIGKILL)
    there = tars(out)
    assert 0 < len(there) < NUM_SHARDS
    recipe = load_recipe(None, sets)
    run("killed", recipe)
    run("undisturbed", recipe)
    assert tars(out) == tars(tmp_path / "undisturbed")
    assert there.items() <= tars(out).items()


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_writes_the_same_captions(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    # Greedy alone: the engines draw from the same distribution with other noise.
    sets = ["recaption.max_new_tokens=48", "recaption.retry_temperatures=[]"]
    ours, theirs = run("hf", settings(*sets)), run("vllm", settings("recaption.engine=vllm", *sets))
    assert theirs.dropped == ours.dropped
    assert theirs.num_shards_done == NUM_SHARDS
    hf, vllm = captions(tmp_path / "hf"), captions(tmp_path / "vllm")
    assert {key: a.text for key, a in vllm.items()} == {key: a.text for key, a in hf.items()}
    assert {a.sampling["engine"] for a in vllm.values()} == {"vllm"}
