"""Pictures over the limit of pixels, and one that is hardly more than a line: every stage takes them."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from vila2cli.errors import RecipeError
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, open_source
from vila2cli.stages.evaluate import evaluate
from vila2cli.stages.pretrain import pretrain
from vila2cli.stages.recaption import recaption
from vila2cli.stages.shards import check

SIZES = {"square": (4100, 4100), "line": (60_000, 20), "small": (64, 64), "tall": (20, 60_000)}


def picture(size: tuple[int, int], format: str) -> bytes:
    image = Image.new("RGB", size, "white")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of captioned pictures that is a yes-no task as well."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "task.toml").write_text('answer_type = "yesno"\n')
    meta = json.dumps({"question": "Is it red?", "answers": ["yes"]}).encode()
    with TarWriter(folder / "000000.tar") as tar:
        for name, size in SIZES.items():
            extension = "jpg" if name == "square" else "png"
            data = picture(size, "JPEG" if name == "square" else "PNG")
            tar.write_sample(name, {extension: data, "txt": b"A red picture.", "json": meta})
    return folder


def recipe(folder: Path, *sets: str) -> Recipe:
    small = [f"runs_dir={folder}/runs", "recaption.engine=hf", "eval.engine=hf"]
    small += ["recaption.max_new_tokens=4", "eval.max_new_tokens=4", "recaption.max_reject_rate=1"]
    small += ["pretrain.align.batch_size=4", "pretrain.main.batch_size=4", "eval.num_bootstrap=20"]
    return load_recipe(None, [*small, *sets])


def test_no_stage_refuses_them(shards: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, "pretrain.align.max_reject_rate=0")
    specs = [str(shards)]
    assert check(open_source(specs)).problems == ()
    trained = pretrain(made, shards=specs, out=tmp_path / "pretrain", round=0).to_json()
    assert [phase["sources"]["pretrain"]["samples"] for phase in trained["phases"]] == [4, 4]
    assert trained["num_rejected"] == 0
    captions = recaption(made, shards=specs, model=tiny_checkpoint, out=tmp_path / "layer", round=1)
    assert (captions.num_in, captions.num_rejected) == (4, 0)
    metrics = evaluate(made, model=tiny_checkpoint, tasks=[shards], out=tmp_path / "eval").to_json()
    assert (metrics["tasks"][shards.name]["num_samples"], metrics["num_rejected"]) == (4, 0)


def test_the_limit_is_one_and_belongs_to_what_a_layer_and_a_model_are_made_from(
    shards: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    made = recipe(tmp_path, "data.max_pixels=1000")
    specs = [str(shards)]
    summary = pretrain(made, shards=specs, out=tmp_path / "pretrain", round=0).to_json()
    assert summary["max_pixels"] == 1000
    recaption(made, shards=specs, model=tiny_checkpoint, out=tmp_path / "layer", round=1)
    evaluated = evaluate(made, model=tiny_checkpoint, tasks=[shards], out=tmp_path / "eval").to_json()
    assert evaluated["protocol"]["max_pixels"] == 1000
    with pytest.raises(RecipeError, match="max_pixels was 1000, now absent"):
        recaption(recipe(tmp_path), shards=specs, model=tiny_checkpoint, out=tmp_path / "layer", round=1)
    with pytest.raises(RecipeError, match="max_pixels was 1000, now absent"):
        evaluate(recipe(tmp_path), model=tiny_checkpoint, tasks=[shards], out=tmp_path / "eval")
