"""`vila2 recaption`: going on, what is refused, damaged shards, kills."""

import io
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recaption_data import (
    LONG,
    NUM_SAMPLES,
    NUM_SHARDS,
    captions,
    settings,
    tars,
)

from forks import Forks
from tiny_vlm import picture
from vila2cli.captioning.summary import CaptionSummary
from vila2cli.errors import DataError, Interrupted, ModelError, RecipeError, RejectBudgetError
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter
from vila2cli.stages.recaption import estimate, recaption


def test_an_estimate_counts_and_writes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in (*data.iterdir(), *tmp_path.iterdir()))
    recipe = settings("recaption.share=0.6", "cost.dollars_per_hour=2.0")
    found = estimate(recipe, shards=[f"{data}/*.tar"], model=model, round=1)
    assert sorted(path.name for path in (*data.iterdir(), *tmp_path.iterdir())) == before
    assert found.num_requests == found.tried.num_images
    assert 25 <= found.tried.num_images <= 45  # all of the share: there are fewer than 64
    assert found.num_samples == pytest.approx(0.6 * 65, abs=12)
    assert found.tried.seconds > 0
    assert found.tried.dollars_per_hour == 2
    lines = "\n".join(found.lines())
    assert "VILA^2" not in lines, "the price of cores is not that of the paper's GPUs"
    assert f"about {found.num_samples} samples in 5 shards" in lines


def test_going_on_does_only_what_is_missing(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    first = run()
    before = tars(tmp_path / "layer")
    for name in ("000002.tar.gz", "000004.stats.json"):
        (tmp_path / "layer" / name).unlink()
    (tmp_path / "layer" / ".vila2-000002.tar.gz.partial").write_bytes(b"half a shard")
    kept = {name: (tmp_path / "layer" / name).stat().st_mtime_ns for name in ("000000.tar.gz", "000003.tar.gz")}
    second = run()
    assert tars(tmp_path / "layer") == before
    assert (second.num_in, second.num_out, second.dropped) == (first.num_in, first.num_out, first.dropped)
    assert kept == {name: (tmp_path / "layer" / name).stat().st_mtime_ns for name in kept}
    assert not list((tmp_path / "layer").glob("*.partial"))


def test_a_layer_goes_on_with_the_default_of_draft_that_it_was_begun_with(
    run: Callable[..., CaptionSummary], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "large"
    for shard in range(2):
        with TarWriter(base / f"{shard:06}.tar") as tar:
            for number in range(2):
                stream = io.BytesIO()
                picture(number).resize((700, 500)).save(stream, "JPEG")
                tar.write_sample(f"{shard}-{number}", {"jpg": stream.getvalue()})
    shards = [f"{base}/*.tar"]

    def again(out: str, recipe: Recipe) -> dict[str, bytes]:
        (tmp_path / out / "000001.tar.gz").unlink()
        (tmp_path / out / "000001.stats.json").unlink()
        run(out, recipe, shards=shards)
        return tars(tmp_path / out)

    default, whole = settings(), settings("data.draft=0")
    run("default", default, shards=shards)
    run("whole", whole, shards=shards)
    drafted, undrafted = tars(tmp_path / "default"), tars(tmp_path / "whole")
    assert drafted["000001.tar.gz"] != undrafted["000001.tar.gz"]
    assert again("default", default) == drafted
    stored = tmp_path / "default" / "recipe.toml"
    earlier = [line for line in stored.read_text().splitlines() if not line.startswith("data.draft")]
    stored.write_text("\n".join(earlier))  # as versions wrote it that decoded all JPEGs whole
    capsys.readouterr()
    for recipe in (default, whole):
        assert again("default", recipe)["000001.tar.gz"] == undrafted["000001.tar.gz"]
    assert "going on with data.draft = 0, as this was begun by another version" in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"draft was absent, now 1\.0"):
        again("default", settings("data.draft=1"))


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
        run(out, settings(), shards=[f"{data}/000000.tar"], **changes)
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
        RejectBudgetError,
        match=r"above recaption\.max_reject_rate 5\.0%: .*truncated.*2 bad-image.*recaption\.max_new_tokens",
    ) as caught:
        run(recipe=settings("recaption.max_reject_rate=0.05"))
    assert caught.value.exit_code == 3
    assert len(tars(tmp_path / "layer")) == NUM_SHARDS
    assert (tmp_path / "layer" / "summary.json").is_file()
    assert run().num_shards_done == NUM_SHARDS  # a higher limit accepts what is there


def test_other_settings_are_refused(run: Callable[..., CaptionSummary], data: Path) -> None:
    shards = [f"{data}/000000.tar"]
    run(shards=shards)
    with pytest.raises(RecipeError, match=r"settings\.temperature was 0\.0, now 0\.5"):
        run(recipe=settings("recaption.temperature=0.5"), shards=shards)
    with pytest.raises(RecipeError, match="round was 1, now 2"):
        run(round=2, shards=shards)


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
    assert set(tars(tmp_path / "layer")) == {"000000.tar.gz"}
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
    assert set(tars(tmp_path / "layer")) == {"000000.tar.gz"}
    assert json.loads((tmp_path / "layer" / "summary.json").read_text())["num_shards_done"] == 1


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
        assert set(tars(tmp_path / "layer")) == {"000001.tar.gz"}
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


SLOWLY = [
    "recaption.engine=hf",
    "recaption.max_new_tokens=24",
    "recaption.max_reject_rate=1.0",
    "recaption.retry_temperatures=[0.5]",
    "recaption.batch_size=1",  # slow enough to be caught in the middle
]


@pytest.fixture(scope="module")
def undisturbed(few: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "layer"
    recaption(load_recipe(None, SLOWLY), shards=[str(few)], model=model, out=out, round=1)
    return tars(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_goes_on_where_it_stopped(
    undisturbed: dict[str, bytes],
    forks: Forks,
    few: Path,
    model: Path,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    out = tmp_path / "killed"
    words = ["--shards", str(few), "--model", str(model), "--out", str(out), "--round", "1"]
    words += [word for one in SLOWLY for word in ("--set", one)]
    process = forks.start(["-m", "vila2cli", "recaption", *words])
    deadline = time.monotonic() + 300
    while not list(out.glob("*.stats.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait() == (Interrupted.exit_code if number == signal.SIGTERM else -signal.SIGKILL)
    there = tars(out)
    assert 0 < len(there) < NUM_SHARDS
    recaption(load_recipe(None, SLOWLY), shards=[str(few)], model=model, out=out, round=1)
    assert tars(out) == undisturbed
    assert there.items() <= undisturbed.items()


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_vllm_writes_the_same_captions(run: Callable[..., CaptionSummary], tmp_path: Path) -> None:
    # Greedy alone: the engines draw from the same distribution with other noise.
    ours, theirs = run("hf"), run("vllm", settings("recaption.engine=vllm"))
    assert theirs.dropped == ours.dropped
    assert theirs.num_shards_done == NUM_SHARDS
    hf, vllm = captions(tmp_path / "hf"), captions(tmp_path / "vllm")
    assert {key: a.text for key, a in vllm.items()} == {key: a.text for key, a in hf.items()}
    assert {a.sampling["engine"] for a in vllm.values()} == {"vllm"}
