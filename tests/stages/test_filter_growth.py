"""`vila2 filter` over more shards than before, and fewer: scores stay, decisions are made from all of them."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.places import tar_stem
from vila2cli.shards.sample import Annotation
from vila2cli.stages.filter import filter_samples
from vila2cli.world.draw import draw_picture
from vila2cli.world.scenes import draw_scene

NUM_SAMPLES = 6
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four shards; the last one repeats a picture of the first."""
    for shard in range(4):
        with TarWriter(tmp_path / "data" / f"{shard:06}.tar") as tar:
            for index in range(NUM_SAMPLES):
                number = 0 if (shard, index) == (3, 2) else shard * NUM_SAMPLES + index
                text = f"Picture {number} of shard {shard}.".encode()
                tar.write_sample(f"{shard}-{index}", {"png": png(number), "txt": text})
    return tmp_path / "data"


def png(number: int) -> bytes:
    stream = io.BytesIO()
    scene = draw_scene(Random(number), "pretrain")
    draw_picture(scene, Random(number)).convert("RGB").resize((96, 96), Image.Resampling.BOX).save(
        stream, "PNG"
    )
    return stream.getvalue()


@pytest.fixture
def run(data: Path, tiny_checkpoint: Path, tmp_path: Path) -> Run:
    def call(shards: Sequence[int | Path], *sets: str, out: str = "kept", **changes: Any) -> dict[str, Any]:
        recipe = load_recipe(None, ["filter.engine=hf", "filter.keep_share=0.5", *sets])
        places = [str(data / f"{shard:06}.tar" if isinstance(shard, int) else shard) for shard in shards]
        arguments = {"shards": places, "model": tiny_checkpoint, "out": tmp_path / out}
        return filter_samples(recipe, **{**arguments, **changes}).to_json()

    return call


def times(scores: Path) -> dict[str, int]:
    return {tar_stem(path): path.stat().st_mtime_ns for path in scores.glob("*.tar.gz")}


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar.gz"))}


def test_only_new_shards_are_scored_and_all_are_compared(run: Run, tmp_path: Path) -> None:
    scores = tmp_path / "kept" / "scores"
    first = run([0, 1, 2], random=True)
    before = times(scores)
    more = run([0, 1, 2, 3])
    assert first["dropped"].get("duplicate", 0) == 0
    assert more["dropped"]["duplicate"] == 1
    assert more["in"] == 4 * NUM_SAMPLES == more["out"] + sum(more["dropped"].values())
    assert more["control"]["out"] == more["out"], "a control is drawn anew from all of them, too"
    after = times(scores)
    assert before.items() < after.items()
    assert set(after) - set(before) == {"000003"}
    run([0, 1, 2, 3], out="fresh", random=True)
    assert tars(tmp_path / "kept") == tars(tmp_path / "fresh")
    assert tars(tmp_path / "kept-random") == tars(tmp_path / "fresh-random")

    fewer = run([0, 2])
    assert times(scores) == after
    assert fewer["in"] == 2 * NUM_SAMPLES
    run([0, 2], out="few")
    assert tars(tmp_path / "kept") == tars(tmp_path / "few")
    assert run([0, 1, 2])["out"] == first["out"]
    assert times(scores) == after


def test_a_shard_that_is_another_now_is_no_shard_that_was_scored(run: Run, data: Path, tmp_path: Path) -> None:
    no_model: dict[str, Any] = {"model": None}
    sets = ("filter.scores=[]", "filter.keep_share=1", "filter.captions=original")
    run([0, 1], *sets, **no_model)
    source = open_source([str(data / "000000.tar")])
    layer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with layer.shard(source.shards[0]) as writer:
        for sample in writer.samples():
            writer.annotate(sample, Annotation(layer="recaption", kind="caption", text="New."))
    with pytest.raises(DataError, match=r"made from 000000, and now there is 000000 and 000000\+recaption"):
        run([tmp_path / "r1", 1], *sets, **no_model)
    with TarWriter(data / "000001.tar") as tar:
        tar.write_sample("other", {"png": png(50), "txt": b"Another picture."})
    with pytest.raises(DataError, match=r"000001\.tar has changed since"):
        run([0, 1, 2], *sets, **no_model)


def test_what_was_scored_anew_is_decided_anew(run: Run, data: Path, tmp_path: Path) -> None:
    """A shard was repaired and scored again, as the message about it says: no old decision stays."""
    sets = ("filter.scores=[]", "filter.keep_share=1", "filter.captions=original", "filter.min_words=4")
    first = run([0, 1, 2], *sets, model=None)
    with TarWriter(data / "000001.tar") as tar:
        for index in range(NUM_SAMPLES):  # three of them copies of shard 2's
            number = (2 if index < 3 else 1) * NUM_SAMPLES + index
            tar.write_sample(f"1-{index}", {"png": png(number), "txt": b"It is another picture now."})
    with pytest.raises(DataError, match=r"000001\.tar has changed since .*remove 000001\.stats\.json"):
        run([0, 1, 2], *sets, model=None)
    (tmp_path / "kept" / "scores" / "000001.stats.json").unlink()
    again = run([0, 1, 2], *sets, model=None)
    run([0, 1, 2], *sets, out="fresh", model=None)
    assert again["out"] == first["out"] - 3
    assert tars(tmp_path / "kept") == tars(tmp_path / "fresh")
    assert [len(sample) for sample in read_all_decisions(tmp_path / "kept")] == [NUM_SAMPLES] * 3


def read_all_decisions(layer: Path) -> list[list[Any]]:
    rejects: list[Any] = []
    return [list(read_shard(shard, on_reject=rejects.append)) for shard in open_source([str(layer)]).shards]
