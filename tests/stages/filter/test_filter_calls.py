"""`vila2 filter`: the control, what is refused, several calls, layers over layers, the command line."""

import importlib.util
import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filter_data import (
    LOOP,
    NO_MODEL,
    NUM_IN,
    NUM_SAMPLES,
    NUM_SHARDS,
    annotations,
    encoded,
    picture,
    tars,
    words,
)

from vila2cli.ask import job
from vila2cli.cli.app import main
from vila2cli.errors import DataError, Interrupted, RecipeError, RejectBudgetError
from vila2cli.filtering.outcome import FilterSummary
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.run.locks import lock
from vila2cli.run.progress import Progress
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation, is_kept
from vila2cli.stages.filter import filter_samples


def test_the_control_is_a_random_part_of_equal_size(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    summary = run("filter.keep_share=0.5", random=True)
    control = annotations(tmp_path / "layer-random")
    drawn = {key for key, one in control.items() if one.scores["keep"]}
    kept = {key for key, one in annotations(tmp_path / "layer").items() if one.scores["keep"]}
    assert len(drawn) == len(kept) == summary["control"]["out"]
    assert drawn != kept
    # It may hold what the rules drop, but nothing that cannot be trained on or belongs to a test.
    assert not drawn & {"evaluated", "silent", "cut-off", "two"}
    assert all(
        one.scores["reasons"] == ["not-drawn"]
        for key, one in control.items()
        if key not in drawn | {"evaluated", "silent", "cut-off", "two"}
    )
    assert sum(summary["control"]["dropped"].values()) == NUM_IN - len(drawn)


def test_a_control_is_drawn_anew_with_what_it_is_compared_to(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run(random=True)
    wider = run("filter.keep_share=0.5")
    assert wider["control"]["out"] == wider["out"] == 24
    assert sum(one.scores["keep"] for one in annotations(tmp_path / "layer-random").values()) == 24


def test_a_control_lies_beside_the_current_folder_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = load_recipe(None, [*NO_MODEL, "filter.max_reject_rate=0.2"])
    filter_samples(recipe, shards=[f"{data}/train/*.tar"], out=".", random=True)
    assert (tmp_path / "here-random" / "summary.json").is_file()


def test_a_worker_is_told_when_another_one_decides(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run(*NO_MODEL, model=None, worker=Worker(1, 2))
    with lock(tmp_path / "layer"):
        summary = run(*NO_MODEL, model=None, worker=Worker(0, 2))
        assert (summary["decided"], summary["num_shards_done"]) == (False, NUM_SHARDS)
        assert "in use by process" in summary["decided_by"]
        with pytest.raises(DataError, match="in use"):
            run(*NO_MODEL, model=None)
    assert run(*NO_MODEL, model=None)["decided"]


@pytest.mark.parametrize("step", ["reading scores", "evaluation images", "duplicates", "writing layer"])
def test_deciding_shows_how_far_it_is_and_stops(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    advance = Progress.advance

    def signal_in_step(self: Progress, n: int = 1, **figures: Any) -> None:
        advance(self, n, **figures)
        if step in self.stage:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "advance", signal_in_step)
        with pytest.raises(Interrupted):
            run(*NO_MODEL, model=None)
    assert not list((tmp_path / "layer").glob(".selection*"))
    assert run(*NO_MODEL, model=None)["decided"]


def test_what_was_held_out_is_told(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    tasks = tmp_path / "eval"
    with TarWriter(tasks / "t" / "0.tar") as tar:
        tar.write_sample("a", {"jpg": encoded(picture(900))})
        tar.write_sample("b", {"jpg": encoded(picture(901))[:-700]})
        tar.write_sample("c", {"jpg": encoded(picture(902)), "json": b"{"})
    (tasks / "t" / "task.toml").write_text('answer_type = "short"')
    summary = run(*NO_MODEL, model=None, tasks=[str(tasks)])
    counts = {"images": 2, "undecodable": 1, "rejected": 1}
    assert summary["held_out"] == {"tasks": [str(tasks / "t")], **counts}
    (line,) = (line for line in FilterSummary.of(summary).lines() if "compared" in line)
    assert line == (
        "compared with 2 evaluation images of 1 tasks; 1 cannot be decoded, only their exact copies are found; "
        "1 samples of the tasks cannot be read and were not compared"
    )
    without = run(*NO_MODEL, model=None, tasks=())
    assert "eval-overlap" not in without["dropped"]
    assert any(
        line.startswith("compared with no evaluation images") for line in FilterSummary.of(without).lines()
    )


def test_large_images_are_scored_and_held_out_by_their_look(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with TarWriter(tmp_path / "train.tar") as tar:
        tar.write_sample("a", {"jpg": encoded(picture(900)), "txt": b"a picture"})
        tar.write_sample("b", {"jpg": encoded(picture(901)), "txt": b"a picture"})
        tar.write_sample("c", {"png": encoded(picture(902, 4100), "PNG"), "txt": b"a picture"})
    with TarWriter(tmp_path / "task" / "0.tar") as tar:
        tar.write_sample("a", {"png": encoded(picture(900, 4100), "PNG")})
    where = {"shards": [str(tmp_path / "train.tar")], "tasks": [str(tmp_path / "task")], "model": None}
    summary = run(*NO_MODEL, **where)
    assert (summary["held_out"]["undecodable"], summary["dropped"]) == (0, {"eval-overlap": 1})
    assert summary["out"] == 2
    again = run(*NO_MODEL, "data.max_pixels=10000", out="smaller", **where)
    assert (again["held_out"]["undecodable"], again["dropped"]) == (0, {"eval-overlap": 1})


def test_alt_texts_that_say_nothing_are_dropped_where_the_recipe_says_so(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    texts = {"a": "IMG_1234.jpg", "b": "stock photo", "c": "image 1", "d": "a red ring", "e": "image 2"}
    with TarWriter(tmp_path / "web" / "0.tar") as tar:
        for number, (key, text) in enumerate(texts.items()):
            tar.write_sample(key, {"jpg": encoded(picture(600 + number)), "txt": text.encode()})
    source = open_source([str(tmp_path / "web")])
    recaptions = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with recaptions.shard(source.shards[0]) as writer:
        for sample in writer.samples():
            text = "A blue star." if sample.key == "c" else "DSC_0001"
            writer.annotate(sample, Annotation(layer="recaption", kind="caption", text=text))
    where: dict[str, Any] = {"shards": [str(tmp_path / "r1")], "model": None, "tasks": ()}
    assert run(*NO_MODEL, **where)["out"] == len(texts)
    strict = run(*NO_MODEL, "filter.text_defects=placeholder", **where)
    assert strict["dropped"] == {"placeholder": 3}
    kept = {key for key, one in annotations(tmp_path / "layer").items() if one.scores["keep"]}
    assert kept == {"c", "d"}, "what one caption says is enough"


def test_another_language_scores_nothing_anew(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*NO_MODEL, model=None)
    monkeypatch.setattr(job, "annotate", lambda *_, **__: pytest.fail("scored again"))
    with pytest.raises(RejectBudgetError, match=r"none of 56 samples is kept in .*wrong-language"):
        run(*NO_MODEL, "filter.language=ru", model=None)
    assert run(*NO_MODEL, "filter.language=en", model=None)["out"] == NUM_SHARDS * NUM_SAMPLES


def test_captions_that_no_layer_has_are_refused(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"names recapion, and no such layer .*; they have original: set"):
        run(*NO_MODEL, 'filter.captions=["original", "recapion"]', model=None)
    assert not (tmp_path / "layer").exists()


def test_the_caption_is_scored_as_it_is_trained_on(run: Callable[..., dict[str, Any]], data: Path) -> None:
    run()
    with pytest.raises(RecipeError, match=r'separator was "\\n", now " "'):
        run("pretrain.main.separator=' '")


def test_without_a_model_images_and_text_alone_decide(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = run("filter.scores=[]", "filter.keep_share=1", model=None)
    assert summary["out"] == NUM_SHARDS * NUM_SAMPLES
    assert summary["cuts"] == []
    assert summary["model"] is None
    assert all(one.model is None for one in annotations(tmp_path / "layer").values())


def test_length_buckets_need_the_number_of_tokens(run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(RecipeError, match="length_buckets needs a perplexity"):
        run(*NO_MODEL, "filter.length_buckets=[9]", model=None)


def test_settings_that_contradict_each_other_are_all_named(run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(RecipeError) as caught:
        run('filter.scores=["similarity"]', "filter.rank_by=image-gain", model=None)
    assert "filter.similarity_model" in str(caught.value)
    assert "perplexity, text-perplexity" in str(caught.value)
    with pytest.raises(RecipeError, match="--model"):
        run(model=None)


def test_too_many_rejects_fail_after_everything_is_written(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(RejectBudgetError, match="3 of 56 samples"):
        run("filter.max_reject_rate=0.01")
    assert len(annotations(tmp_path / "layer")) == NUM_IN - 1


def test_a_folder_of_something_else_is_never_touched(
    run: Callable[..., dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    before = tars(data / "train")
    with pytest.raises(RecipeError, match="give another --out"):
        run(out=str(data / "train"))
    assert tars(data / "train") == before
    assert not (data / "train" / "scores").exists()
    source = open_source([f"{data}/train/*.tar"])
    open_layer(tmp_path / "layer", layer="recaption", source=source)
    (tmp_path / "layer" / "manifest.json").write_text('{"digest": "1", "inputs": {"stage": "recaption"}}')
    with pytest.raises(RecipeError, match="output of recaption"):
        run()


def test_a_filter_layer_brings_its_base_and_the_layers_below(
    run: Callable[..., dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    source = open_source([f"{data}/train/*.tar"])
    recaptions = open_layer(tmp_path / "r1", layer="recaption", source=source)
    for shard in source.shards:
        with recaptions.shard(shard) as writer:
            for sample in writer.samples():
                writer.annotate(
                    sample, Annotation(layer="recaption", kind="caption", text=f"New {sample.key}.")
                )
    recaptions.finish()
    run(shards=[str(tmp_path / "r1")], tasks=())
    for shard in open_source([str(tmp_path / "layer")]).shards:
        for sample in read_shard(shard, on_reject=lambda reject: None):
            assert [one.layer for one in sample.annotations] == ["recaption", "filter"]
            decided = sample.annotation("filter")
            assert decided is not None
            assert is_kept(sample) is decided.scores["keep"]
            if sample.key.isdecimal():
                caption = f"{words(int(sample.key)).decode()}\nNew {sample.key}."
                assert decided.scores["num_words"] == len(caption.split())


def test_what_a_filter_below_dropped_stays_dropped(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = run("filter.keep_share=0.5", out="first")
    dropped = {key for key, one in annotations(tmp_path / "first").items() if not one.scores["keep"]}
    second = run("filter.keep_share=1", shards=[str(tmp_path / "first")], random=True)
    found = annotations(tmp_path / "layer")
    assert second["dropped"]["filtered-before"] == len(dropped)
    assert second["out"] == first["out"] == len(found.keys() - dropped)
    assert second["rejected"] == 1, "of the samples dropped before none is rejected again"
    for key in dropped:
        assert found[key].scores == {
            "unusable": "filtered-before",
            "keep": False,
            "reasons": ["filtered-before"],
        }
        assert not annotations(tmp_path / "layer-random")[key].scores["keep"]


def test_two_calls_at_once_do_not_write_the_same_folder(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object, **__: object) -> None:
        with pytest.raises(DataError, match="in use"):
            run()

    with monkeypatch.context() as patched:
        patched.setattr(job, "annotate", again)
        assert run()["decided"] is False


def test_the_command_explains_what_it_kept_and_dropped(
    data: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        *(
            "filter",
            "--model",
            str(tiny_checkpoint),
            "--out",
            str(tmp_path / "f"),
            "--tasks",
            f"{data}/eval/ocr",
        ),
        *("--shards", f"{data}/train/*.tar", "--random", "--explain"),
        *("--set", "filter.engine=hf", "--set", "filter.max_reject_rate=1"),
    ]
    assert main(line) == 0
    text = capsys.readouterr().out
    assert f"kept 10 of {NUM_IN} samples; dropped: 1 bad-image" in text
    assert "random control: 10 samples" in text
    headings = [shown for shown in text.splitlines() if shown == "kept" or shown.startswith("dropped: ")]
    assert headings == [
        "kept",
        "dropped: bad-image",
        "dropped: duplicate",
        "dropped: eval-overlap",
        "dropped: near-duplicate",
        "dropped: no-caption",
        "dropped: perplexity",
        "dropped: repetition",
        "dropped: several-images",
    ]
    assert re.search(r"  000002/copy: .*like 000000/000000003|  000000/000000003: .*like 000002/copy", text)
    assert "compared with 1 evaluation images of 1 tasks\n" in text
    assert f"    {LOOP}" in text
    assert "image cannot be decoded" in text


def test_examples_are_shown_of_a_pipe_and_of_a_failed_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = f"pipe:cat {data}/train/000001.tar"
    line = [
        "filter",
        "--shards",
        shards,
        "--tasks",
        f"{data}/eval/ocr",
        "--out",
        str(tmp_path / "f"),
        "--explain",
    ]
    sets = [*NO_MODEL, "filter.max_reject_rate=0"]
    assert main([*line, *(word for one in sets for word in ("--set", one))]) == RejectBudgetError.exit_code
    shown, failure = capsys.readouterr()
    assert "dropped: repetition" in shown
    assert f"    {LOOP}" in shown
    assert "above filter.max_reject_rate" in failure


def test_similarity_by_sentence_needs_no_language_model(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = Path(__file__).parents[2] / "model" / "test_dual_encoder.py"
    spec = importlib.util.spec_from_file_location("tiny_clip", path)
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    clip = tiny.save(tmp_path / "clip", "clip")
    sets = [
        f"filter.similarity_model={clip}",
        'filter.scores=["similarity"]',
        "filter.rank_by=similarity",
        "filter.keep_share=0.5",
    ]
    run(*sets, model=None)
    found = [one.scores for one in annotations(tmp_path / "layer").values() if "similarity" in one.scores]
    for one in annotations(tmp_path / "layer").values():
        assert one.model == one.sampling["similarity_model"] == str(clip)
        assert one.model_sha256 == one.sampling["similarity_model_sha256"] == weights_sha256(clip)
        assert one.seed == 0
    kept, dropped = (
        [one["similarity"] for one in found if one["reasons"] == reasons] for reasons in ([], ["similarity"])
    )
    assert len(kept) == len(dropped) == 24
    assert min(kept) >= max(dropped)
    assert all(one["sentence_similarity_min"] <= one["similarity"] for one in found)
    assert sum(one["num_split_sentences"] for one in found) > 0
    for index in range(2):
        run(*sets, out="split", model=None, worker=Worker(index, 2))
    assert tars(tmp_path / "split") == tars(tmp_path / "layer")
    low = run(*sets, f"filter.min_similarity={sorted(kept)[3]}", model=None)
    assert low["dropped"]["low-similarity"] >= 24


@pytest.mark.vllm
def test_vllm_gives_the_same_scores(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    both = ['filter.scores=["perplexity", "text-perplexity"]']
    run(*both, out="hf")
    run(*both, "filter.engine=vllm", out="vllm")
    first, second = annotations(tmp_path / "hf"), annotations(tmp_path / "vllm")
    assert first.keys() == second.keys()
    for key, one in first.items():
        for name in ("perplexity", "text_perplexity"):
            if name in one.scores:
                assert math.log(second[key].scores[name]) == pytest.approx(math.log(one.scores[name]), abs=1e-4)
        assert second[key].num_tokens == one.num_tokens
