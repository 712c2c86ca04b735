"""`vila2 specialize --relabel` with LoRA specialists: one pass writes the layers that separate passes do."""

import gc
import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lora_adapter import write_adapter
from vila2cli.cli.app import app
from vila2cli.engine.hf import HfEngine
from vila2cli.errors import DataError, ModelError, RecipeError, RejectBudgetError
from vila2cli.model.adapter import read_adapter
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.stages.specialize import Answering, Relabelled, relabel

pytest.importorskip("peft")
NAMES = ("spatial", "grounding", "ocr")
SHARES = {"spatial": 1.0, "grounding": 0.6, "ocr": 1.0}
NUM_SHARDS, NUM_SAMPLES = 3, 4


@pytest.fixture(scope="module")
def specialists(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("specialists")
    return {
        name: write_adapter(tiny_checkpoint, folder / name, seed=seed, rank=8 * (seed + 1))
        for seed, name in enumerate(NAMES)
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relabel") / "data"
    for shard in range(NUM_SHARDS):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for number in range(NUM_SAMPLES):
                tar.write_sample(f"{shard}-{number}", {"jpg": jpeg(shard * NUM_SAMPLES + number)})
            if shard == 1:
                tar.write_sample("broken", {"jpg": jpeg(1)[:300]})
    return folder


@pytest.fixture(scope="module")
def apart(data: Path, specialists: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each specialist writes in a pass of its own."""
    out = tmp_path_factory.mktemp("apart")
    for name in NAMES:
        label(data, out, {name: specialists[name]})
    return out


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    levels = np.random.default_rng(100 + number).normal(128, 10 + number, (64, 64)).clip(0, 255)
    Image.fromarray(levels.astype(np.uint8)).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def settings(data: Path, engine: str) -> list[str]:
    sets = [f"recaption.engine={engine}", "recaption.max_reject_rate=1", "recaption.batch_size=4"]
    for name, share in SHARES.items():
        sets += [
            f"specialists.{name}.data={data}",
            f"specialists.{name}.prompts={name}-v1",
            f"specialists.{name}.questions={name}",
            f"specialists.{name}.max_new_tokens=8",
            f"specialists.{name}.relabel_share={share}",
            f"specialists.{name}.checks=[]",
        ]
    return sets


def label(
    data: Path,
    out: Path,
    models: dict[str, Path],
    engine: str = "hf",
    worker: Worker | None = None,
    sets: Sequence[str] = (),
) -> list[Relabelled]:
    recipe = load_recipe(None, [*settings(data, engine), *sets])
    answering = [Answering(name, str(model), out / name) for name, model in models.items()]
    return relabel(recipe, answering, shards=[str(data)], worker=worker)


def written(out: Path, name: str) -> dict[str, Any]:
    """What of a layer does not tell the time: annotations byte by byte, counts, rejects."""
    stats = {path.name: json.loads(path.read_text()) for path in sorted((out / name).glob("*.stats.json"))}
    told = ("in", "out", "dropped", "rejected", "tokens", "requests", "answered")
    return {
        "tars": [hashlib.sha256(tar.read_bytes()).hexdigest() for tar in sorted((out / name).glob("*.tar.gz"))],
        "stats": {file: {key: one[key] for key in told} for file, one in stats.items()},
        "rejects": (out / name / "rejects.jsonl").read_text(),
        "manifest": json.loads((out / name / "manifest.json").read_text())["digest"],
    }


def texts(out: Path, name: str) -> dict[str, str]:
    shards = open_source([str(out / name)]).shards
    samples = (one for shard in shards for one in read_shard(shard, on_reject=lambda reject: None))
    return {one.key: found.turns[1].text for one in samples if (found := one.annotation(name))}


def test_one_pass_writes_what_separate_passes_write(
    data: Path, specialists: dict[str, Path], apart: Path, tmp_path: Path
) -> None:
    summaries = label(data, tmp_path / "together", specialists)
    for name, summary in zip(NAMES, summaries, strict=True):
        mine = written(tmp_path / "together", name)
        assert mine == written(apart, name)
        assert len(mine["tars"]) == NUM_SHARDS
        assert summary.num_in == NUM_SHARDS * NUM_SAMPLES + 1 == summary.num_out + sum(summary.dropped.values())
        assert summary.cost.seconds > 0
    assert summaries[0].dropped["bad-image"] == 1
    assert len({tuple(texts(tmp_path / "together", name).values()) for name in NAMES}) == len(NAMES)


def test_records_name_the_adapter_and_its_digest(
    data: Path, specialists: dict[str, Path], tmp_path: Path
) -> None:
    label(data, tmp_path, specialists)
    for name, folder in specialists.items():
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())["inputs"]
        adapter = read_adapter(folder)
        assert manifest["model_sha256"] == adapter.sha256
        assert manifest["adapter_base_sha256"] == adapter.base_sha256
        shards = open_source([str(tmp_path / name)]).shards
        samples = (one for shard in shards for one in read_shard(shard, on_reject=lambda reject: None))
        found = next(one for sample in samples if (one := sample.annotation(name)))
        assert (found.model, found.model_sha256) == (str(folder), adapter.sha256)


def test_it_goes_on_with_what_each_layer_lacks(
    data: Path, specialists: dict[str, Path], apart: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "together"
    data = shutil.copytree(data, tmp_path / "data")
    label(data, out, {"ocr": specialists["ocr"]}, worker=Worker(0, 2))
    label(data, out, {name: specialists[name] for name in ("spatial", "ocr")}, worker=Worker(1, 2))
    cut = data / "000002.tar"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"000002\.tar is damaged or cut off"):
        label(data, out, {name: specialists[name] for name in ("spatial", "grounding")})
    assert [len(list((out / name).glob("*.tar.gz"))) for name in NAMES] == [2, 2, 3]
    cut.write_bytes(whole)
    label(data, out, specialists)
    for name in NAMES:
        mine, other = written(out, name), written(apart, name)
        mine.pop("tars"), other.pop("tars")
        assert mine == other
        assert texts(out, name) == texts(apart, name)
    with pytest.raises(RecipeError, match="another model"):
        label(data, out, {"ocr": tiny_checkpoint})


@pytest.mark.parametrize("num_samples", [5, 60])
def test_one_who_fails_does_not_stop_the_others(
    specialists: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, num_samples: int
) -> None:
    for shard in range(2):
        with TarWriter(tmp_path / "data" / f"{shard:06}.tar") as tar:
            for number in range(num_samples):
                tar.write_sample(f"{shard}-{number}", {"jpg": jpeg(number % 7)})
    broken = write_adapter(tiny_checkpoint, tmp_path / "broken", seed=9)
    weights = load_file(broken / "adapter_model.safetensors")
    save_file({name: one * torch.inf for name, one in weights.items()}, broken / "adapter_model.safetensors")
    sets = ["recaption.max_reject_rate=0.5", "recaption.batch_size=32"]
    data, models = tmp_path / "data", specialists | {"grounding": broken, "ocr": tiny_checkpoint}
    with pytest.raises(RejectBudgetError, match="log-probabilities that are no numbers"):
        label(data, tmp_path / "together", models, sets=sets)
    gc.collect()
    assert not any(type(one) is HfEngine for one in gc.get_objects()), "the next one may need its memory"
    assert not list((tmp_path / "together" / "grounding").glob("*.tar.gz"))
    for name in ("spatial", "ocr"):
        label(data, tmp_path / "alone", {name: models[name]}, sets=sets)
        assert written(tmp_path / "together", name) == written(tmp_path / "alone", name)
        assert len(written(tmp_path / "together", name)["tars"]) == 2
    logged = [(tmp_path / "together" / name / "log.jsonl").read_text() for name in ("spatial", "grounding")]
    assert logged[0] == logged[1] != ""
    with pytest.raises(RejectBudgetError):
        label(data, tmp_path / "together", models, sets=sets)


def test_a_layer_that_is_done_does_without_the_checkpoint_below_its_adapter(
    data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base, run_dir = tmp_path / "base", tmp_path / "runs" / "one"
    shutil.copytree(tiny_checkpoint, base)
    words = ["specialize", "--relabel", "--name", "ocr", "--recipe", str(tmp_path / "recipe.toml")]
    (tmp_path / "recipe.toml").write_text(
        f'name = "one"\nruns_dir = "{run_dir.parent}"\nspecialize.lora = true\n'
    )
    words += [word for one in [*settings(data, "hf"), f"data.pretrain={data}"] for word in ("--set", one)]
    write_adapter(base, run_dir / "specialists" / "ocr" / "checkpoint" / "adapter", seed=0)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    shutil.rmtree(base)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert "complete, nothing to do" in again.output
    (run_dir / "specialists" / "ocr" / "relabel" / "000001.tar.gz").unlink()
    lacking = CliRunner().invoke(app, words)
    assert isinstance(lacking.exception, ModelError)
    assert str(base) in str(lacking.exception)


def test_full_fine_tunes_answer_beside_adapters(
    data: Path, specialists: dict[str, Path], apart: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    label(data, tmp_path / "both", specialists | {"ocr": tiny_checkpoint})
    label(data, tmp_path / "alone", {"ocr": tiny_checkpoint})
    for name in NAMES:
        alone = tmp_path / "alone" if name == "ocr" else apart
        assert written(tmp_path / "both", name) == written(alone, name)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_vllm_answers_for_all_of_them_as_transformers_does(
    data: Path, specialists: dict[str, Path], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    label(data, tmp_path / "hf", specialists)
    label(data, tmp_path / "vllm", specialists, engine="vllm")
    for name in NAMES:
        assert texts(tmp_path / "vllm", name) == texts(tmp_path / "hf", name)
        mine, other = written(tmp_path / "vllm", name), written(tmp_path / "hf", name)
        assert (mine["stats"], mine["rejects"]) == (other["stats"], other["rejects"])
        assert json.loads((tmp_path / "vllm" / name / "layer.json").read_text())["engine"] == "vllm"


def test_the_command_takes_several_names(data: Path, specialists: dict[str, Path], tmp_path: Path) -> None:
    words = ["specialize", "--relabel", "--shards", str(data), "--out", str(tmp_path / "out")]
    for name, folder in specialists.items():
        words += ["--name", name, "--model", str(folder)]
    words += [word for one in settings(data, "hf") for word in ("--set", one)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert [len(list((tmp_path / "out" / name).glob("*.tar.gz"))) for name in NAMES] == [NUM_SHARDS] * 3
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output


def test_specialists_as_adapters_is_one_setting(data: Path) -> None:
    sets = settings(data, "hf")
    recipe = load_recipe(None, [*sets, "specialize.lora=true"])
    assert {one.train for one in recipe.specialists.values()} == {("lora",)}
    assert "lora" not in load_recipe(None, sets).specialists["ocr"].train
    with pytest.raises(RecipeError, match=r"specialists\.ocr\.train names other parts"):
        load_recipe(None, [*sets, "specialize.lora=true", 'specialists.ocr.train=["llm"]'])
