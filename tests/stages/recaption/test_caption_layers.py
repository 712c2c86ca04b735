"""`vila2 recaption --layer A --layer B`: several caption layers in one pass over the images."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recaption_data import NUM_SHARDS, jpeg, settings
from typer.testing import CliRunner

from vila2cli.captioning.layers import in_order
from vila2cli.cli.app import app
from vila2cli.errors import RecipeError, RejectBudgetError
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.shards.sample import Annotation
from vila2cli.stages.recaption import estimate, recaption, write_captions

BOTH = ("recaption", "short")
SHORT = ("captions.short.prompts=simple", "captions.short.max_new_tokens=6")
FAST = ("recaption.max_new_tokens=4", "recaption.retry_temperatures=[]")
USES = 'prompts={mine="{layer:recaption} Shorter, for {meta:site}."}'


def annotations(out: Path, layer: str) -> dict[str, Annotation]:
    shards = open_source([str(out)]).shards
    samples = (one for shard in shards for one in read_shard(shard, on_reject=lambda reject: None))
    return {one.key: found for one in samples if (found := one.annotation(layer)) is not None}


def said(found: dict[str, Annotation]) -> dict[str, list[str]]:
    """Every attempt's text: those of a layer that waits may be tried again in other batches."""
    return {key: [one["text"] for one in found[key].decision["attempts"]] for key in found}


def written(out: Path) -> dict[str, Any]:
    """What of a layer does not tell the time: its shards byte by byte, counts, rejects."""
    stats = {path.name: json.loads(path.read_text()) for path in sorted(out.glob("*.stats.json"))}
    told = ("in", "out", "dropped", "rejected", "tokens", "requests", "answered", "retries", "kept", "defects")
    shards = [path for path in sorted(out.glob("0*")) if ".tar" in path.name]
    return {
        "shards": [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards],
        "stats": {file: {key: one.get(key) for key in told} for file, one in stats.items()},
        "rejects": (out / "rejects.jsonl").read_text(),
        "manifest": json.loads((out / "manifest.json").read_text())["digest"],
    }


@pytest.fixture
def write(few: Path, model: Path, tmp_path: Path) -> Callable[..., Path]:
    def call(name: str, recipe: Recipe, layers: tuple[str, ...] = BOTH, **changes: Any) -> Path:
        outs = {layer: tmp_path / name / layer for layer in layers}
        arguments = {"shards": [f"{few}/*.tar"], "model": model, "round": 1}
        write_captions(recipe, outs, **(arguments | changes))
        return tmp_path / name

    return call


def test_one_pass_writes_what_separate_passes_write(write: Callable[..., Path]) -> None:
    recipe = settings(*SHORT, "captions.short.temperature=0.7", "captions.short.n=2", *FAST)
    together = write("together", recipe)
    apart = [write(f"apart-{layer}", recipe, (layer,)) for layer in BOTH]
    for layer, alone in zip(BOTH, apart, strict=True):
        mine = written(together / layer)
        assert mine == written(alone / layer)
        assert len(mine["shards"]) == NUM_SHARDS
    assert all(one.decision["attempts"] for one in annotations(together / "short", "short").values())


def test_workers_and_stops_change_nothing(
    write: Callable[..., Path], few: Path, model: Path, tmp_path: Path
) -> None:
    recipe = settings(*SHORT, *FAST)
    whole = write("whole", recipe)
    write("parts", recipe, ("short",), worker=Worker(0, 2))
    for index in range(2):
        parts = write("parts", recipe, worker=Worker(index, 2))
    for layer in BOTH:
        assert written(parts / layer) == written(whole / layer)
    recaption(recipe, shards=[f"{few}/*.tar"], model=model, out=tmp_path / "plain", round=1)
    assert written(tmp_path / "plain") == written(whole / "recaption")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards whose metadata have a site, but for one sample; captions and sites are no templates."""
    folder = tmp_path_factory.mktemp("described")
    for shard in range(2):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for number in range(6):
                site = {} if (shard, number) == (1, 3) else {"site": "{meta:site} <image> {alt_text}"}
                tar.write_sample(
                    f"{shard}-{number}",
                    {"jpg": jpeg(number), "txt": b"{layer:recaption}", "json": json.dumps(site).encode()},
                )
    return folder


def test_a_prompt_takes_another_layers_caption_and_metadata(
    write: Callable[..., Path], described: Path, model: Path, tmp_path: Path
) -> None:
    recipe = settings(
        USES,
        "captions.short.prompts=mine",
        "captions.short.max_new_tokens=8",
        *FAST,
        "recaption.retry_temperatures=[0.4]",
    )
    given = {"shards": [str(described)]}
    together = write("together", recipe, ("short", "recaption"), **given)
    below = write("apart", recipe, ("recaption",), **given) / "recaption"
    recaption_of = annotations(below, "recaption")
    over = write("over", recipe, ("short",), shards=[str(below)]) / "short"
    found = annotations(together / "short", "short")
    assert said(found) == said(annotations(over, "short"))
    assert len(recaption_of) == 12
    assert found.keys() == recaption_of.keys() - {"1-3"}
    (reject,) = (json.loads(line) for line in (together / "short/rejects.jsonl").read_text().splitlines())
    assert (reject["key"], reject["reason"]) == ("1-3", "missing-meta")
    again = write("again", recipe, ("recaption",), **given)
    on_disk = annotations(write("again", recipe, **given) / "short", "short")
    assert said(on_disk) == said(found)
    assert written(again / "short")["manifest"] == written(together / "short")["manifest"]


def test_what_a_prompt_takes_and_a_layer_lacks_is_a_reject(write: Callable[..., Path], described: Path) -> None:
    sets = (*FAST, "recaption.share=0.5", "recaption.max_reject_rate=1", USES, "captions.short.share=1.0")
    out = write("half", settings(*sets, "captions.short.prompts=mine"), shards=[str(described)])
    summary = json.loads((out / "short/summary.json").read_text())
    kept = json.loads((out / "recaption/summary.json").read_text())["out"]
    assert 0 < kept < 12
    assert summary["dropped"]["missing-layer"] == 12 - kept
    with pytest.raises(RejectBudgetError, match=r"captions\.short\.max_reject_rate.*missing-layer"):
        write(
            "strict",
            settings(*sets, "captions.short={prompts='mine',share=1.0,max_reject_rate=0.1}"),
            shards=[str(described)],
        )


def test_layers_that_cannot_be_had_are_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"takes the caption of 'recaption'.*--layer recaption"):
        write("a", settings(USES, "captions.short.prompts=mine"), ("short",))
    sets = ('prompts={one="{layer:b}",two="{layer:a}"}', "captions.a.prompts=one", "captions.b.prompts=two")
    with pytest.raises(RecipeError, match="take each other's captions"):
        write("b", settings(*sets), ("a", "b"))
    assert in_order(settings(sets[0], "captions.a.prompts=one"), ("a", "recaption", "b")) == [
        "recaption",
        "b",
        "a",
    ]


def test_json_captions_keep_to_their_schema_or_are_rejects(write: Callable[..., Path]) -> None:
    schema = 'captions.tags.schema={type="object",properties={tags={type="array",items={type="string"}}}}'
    out = write("json", settings(schema, *FAST, "recaption.retry_temperatures=[0.4]"), ("tags",))
    summary = json.loads((out / "tags/summary.json").read_text())
    assert summary["out"] == 0, "the model is random"
    assert set(summary["defects"]) <= {"not-json", "truncated"}
    assert summary["retries"] > 0


def test_an_estimate_is_of_all_layers(few: Path, model: Path) -> None:
    recipe = settings(*SHORT, *FAST, "recaption.retry_temperatures=[]")
    found = estimate(recipe, shards=[f"{few}/*.tar"], model=model, round=1, layers=BOTH)
    assert found.num_requests == found.tried.num_images > 40
    assert found.num_samples == pytest.approx(2 * 25, abs=8), "as often as there are layers"


def test_the_command_names_layers(few: Path, model: Path, tmp_path: Path) -> None:
    words = ["recaption", "--model", str(model), "--shards", str(few), "--out", str(tmp_path / "out")]
    words += ["--layer", "short", "--layer", "recaption"]
    for one in ("recaption.engine=hf", "recaption.max_reject_rate=1", *FAST, *SHORT):
        words += ["--set", one]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert {one.name for one in (tmp_path / "out").iterdir()} == set(BOTH)
    again = CliRunner().invoke(app, words)
    assert again.output.count("complete, nothing to do") == 2, again.output
    for name, why in {"sft": "name of a stage", "Big": "small letters"}.items():
        refused = CliRunner().invoke(app, [*words, "--layer", name])
        assert isinstance(refused.exception, RecipeError)
        assert why in str(refused.exception)
