"""A layer is written by one engine, whichever worker comes first."""

import json
from pathlib import Path

import pytest

from vila2cli.ask.opening import open_layer_engine
from vila2cli.engine import EngineSettings
from vila2cli.errors import RecipeError
from vila2cli.run.stopping import Stop
from vila2cli.shards import LayerWriter, Source, TarWriter, open_layer, open_source


@pytest.fixture
def source(tmp_path: Path) -> Source:
    with TarWriter(tmp_path / "data" / "000000.tar") as tar:
        tar.write_sample("a", {"txt": b"a ring"})
    return open_source([str(tmp_path / "data")])


def begin(source: Source, folder: Path) -> LayerWriter:
    return open_layer(folder, layer="recaption", source=source)


def open_for(layer: LayerWriter, model: Path, kind: str) -> str:
    return open_layer_engine([layer], kind, str(model), EngineSettings(), Stop()).name


def test_a_layer_names_its_engine_from_the_first_worker_on(
    source: Source, random_vlm: Path, tmp_path: Path
) -> None:
    layer = begin(source, tmp_path / "r1")
    assert layer.engine() is None
    for _ in range(2):
        assert open_for(layer, random_vlm, "hf") == "hf"
    assert json.loads((tmp_path / "r1" / "layer.json").read_text())["engine"] == "hf"
    assert layer.note_engine("vllm") == "hf"
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = begin(open_source([str(tmp_path / "moved")]), tmp_path / "r1")
    assert moved.engine() == "hf", "it is kept where the base has moved to"


def test_another_engine_is_refused_before_it_is_loaded(source: Source, tmp_path: Path) -> None:
    layer = begin(source, tmp_path / "r1")
    layer.note_engine("vllm")
    with pytest.raises(RecipeError, match=r"r1 was begun with the engine vllm, .* go on with hf \(as set\)"):
        open_for(layer, tmp_path / "no model is looked for", "hf")
    assert layer.engine() == "vllm"


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_auto_goes_on_with_no_other_engine(
    source: Source, random_vlm: Path, small_head_vlm: Path, tmp_path: Path
) -> None:
    layer = begin(source, tmp_path / "r1")
    layer.note_engine("hf")
    with pytest.raises(RecipeError, match="engine hf, and here it would go on with vllm"):
        open_for(layer, random_vlm, "auto")
    # What vLLM knows by name and then cannot load is told apart only once it was tried.
    layer = begin(source, tmp_path / "r2")
    layer.note_engine("vllm")
    with pytest.raises(RecipeError, match="engine vllm, and here it would go on with hf"):
        open_for(layer, small_head_vlm, "auto")
