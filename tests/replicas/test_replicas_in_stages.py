"""Every stage beside recaptioning that asks a model writes with two replicas what it writes with one engine."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from replica_data import tars

from tiny_vlm import picture
from vila2cli.model.build import build
from vila2cli.model.saving import save_checkpoint
from vila2cli.settings import BaseSettings
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.stages.evaluate import evaluate
from vila2cli.stages.filter import filter_samples
from vila2cli.stages.judge import judge
from vila2cli.stages.recaption import recaption
from vila2cli.stages.specialize import Answering, relabel

SETS = (
    *(f"{stage}.engine=hf" for stage in ("recaption", "filter", "judge", "eval")),
    "recaption.max_new_tokens=8",
    "recaption.retry_temperatures=[]",
    "recaption.max_reject_rate=1.0",
    "filter.max_reject_rate=1.0",
    "eval.max_new_tokens=8",
    "eval.num_bootstrap=10",
    "eval.max_reject_rate=1.0",
    'judge.judges=["model"]',
    "specialists.ocr.data=unused",
    "specialists.ocr.questions=ocr",
    'specialists.ocr.prompts=["long-v1"]',
)


def recipe(num_replicas: int, *more: str) -> Recipe:
    return load_recipe(None, [*SETS, f"engine.replicas={num_replicas}", *more])


@pytest.fixture(scope="module")
def captioned(shards: Path, random_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer over the first shards."""
    out = tmp_path_factory.mktemp("captioned") / "layer"
    recaption(recipe(1), shards=[str(one) for one in first(shards)], model=random_vlm, out=out, round=1)
    return out


def first(shards: Path) -> list[Path]:
    return sorted(shards.glob("*.tar"))[:3]


@pytest.fixture(scope="module")
def tasks(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tasks of a shard each, which have the same name."""
    folder = tmp_path_factory.mktemp("tasks")
    samples = [
        sample
        for shard in open_source([str(shards)]).shards[:2]
        for sample in read_shard(shard, on_reject=lambda reject: None)
    ]
    for name in ("one", "other"):
        (folder / name).mkdir()
        (folder / name / "task.toml").write_text('answer_type = "short"\n')
        with TarWriter(folder / name / "000000.tar") as tar:
            for sample in samples:
                meta = f'{{"question": "What {name}?", "answers": ["red"]}}'.encode()
                tar.write_sample(sample.key, {"png": sample.images[0].data, "json": meta})
    return [str(folder / name) for name in ("one", "other")]


Stage = Callable[[Recipe, Path], object]


def test_every_stage_writes_the_same(
    shards: Path, captioned: Path, tasks: list[str], random_vlm: Path, tmp_path: Path
) -> None:
    model, layer = str(random_vlm), [str(captioned)]

    def filtered(given: Recipe, out: Path) -> object:
        return filter_samples(given, shards=layer, model=model, out=out)

    def relabelled(given: Recipe, out: Path) -> object:
        named = [str(one) for one in first(shards)]
        return relabel(given, [Answering("ocr", model, out)], shards=named)

    def judged(given: Recipe, out: Path) -> object:
        return judge(given, layers=["alt-text", captioned], model=model, out=out)

    def evaluated(given: Recipe, out: Path) -> object:
        return evaluate(given, model=model, tasks=tasks, out=out)

    for stage in (filtered, relabelled, judged, evaluated):
        for num in (1, 2):
            stage(recipe(num), tmp_path / f"{stage.__name__}-{num}")
        one, two = (tars(tmp_path / f"{stage.__name__}-{num}") for num in (1, 2))
        assert one, stage.__name__
        assert one == two, stage.__name__


def test_pictures_in_tiles_get_the_same_captions(tmp_path: Path) -> None:
    """Some of them in fewer tiles, which each replica counts."""
    model, data, summaries = tmp_path / "model", tmp_path / "data", []
    save_checkpoint(*build(BaseSettings(tiles={"method": "catty", "max": 6}), seed=0), model)
    for shard, sizes in enumerate([((64, 64), (300, 64)), ((90, 300), (1, 1)), ((5000, 300), (128, 128))]):
        with TarWriter(data / f"{shard:06}.tar") as tar:
            for number, size in enumerate(sizes):
                stream = io.BytesIO()
                picture(number).resize(size).save(stream, "PNG")
                tar.write_sample(f"{shard}-{number}", {"png": stream.getvalue(), "txt": b"a picture"})
    for num in (1, 2):
        given = recipe(num, "engine.max_model_len=110")
        out = tmp_path / f"{num}"
        summaries.append(recaption(given, shards=[str(data)], model=model, out=out, round=1))
    assert tars(tmp_path / "1") == tars(tmp_path / "2") != {}
    assert summaries[0].num_fewer_tiles == summaries[1].num_fewer_tiles > 0
