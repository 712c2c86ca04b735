"""Reading an adapter folder: what it lies over, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lora_adapter import write_adapter
from vila2cli.errors import ModelError
from vila2cli.model.adapter import CONFIG_FILE, base_of, is_adapter, read_adapter
from vila2cli.model.checkpoint import resolve_model, weights_sha256

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def written(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny_checkpoint, tmp_path_factory.mktemp("ocr") / "adapter", seed=1)


@pytest.fixture
def adapter(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(written, tmp_path / "checkpoint" / "adapter")


def change(adapter: Path, **settings: Any) -> None:
    path = adapter / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_it_says_what_it_lies_over(adapter: Path, tiny_checkpoint: Path) -> None:
    found = read_adapter(adapter)
    assert (found.base, found.rank, found.parts) == (str(tiny_checkpoint), 4, {"llm"})
    assert found.base_sha256 == weights_sha256(tiny_checkpoint)
    assert is_adapter(adapter)
    assert not is_adapter(tiny_checkpoint)
    assert (base_of(adapter), base_of("org/name")) == (str(tiny_checkpoint), "org/name")


def test_its_digest_is_of_itself_and_of_its_base(adapter: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = read_adapter(adapter).sha256
    change(adapter, lora_alpha=9)
    changed = read_adapter(adapter).sha256
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    (other / "generation_config.json").write_text("{}")
    change(adapter, lora_alpha=9, base_model_name_or_path=str(other))
    assert len({before, changed, read_adapter(adapter).sha256, weights_sha256(tiny_checkpoint)}) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "not a plain LoRA adapter"),
        ({"use_dora": True}, "not a plain LoRA adapter .use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": "/no/where"}, "the base of the adapter .*does not exist"),
    ],
)
def test_others_are_refused_in_one_line(adapter: Path, settings: dict[str, Any], message: str) -> None:
    change(adapter, **settings)
    with pytest.raises(ModelError, match=message) as caught:
        read_adapter(adapter)
    assert "\n" not in str(caught.value)


def test_the_lineage_beside_it_has_to_agree(adapter: Path, tiny_checkpoint: Path) -> None:
    def lineage(train: list[str], sha256: str) -> None:
        value = {"settings": {"train": train}, "parent": {"sha256": sha256}}
        (adapter.parent / "vila2.json").write_text(json.dumps(value))

    own = weights_sha256(tiny_checkpoint)
    lineage(["lora"], own)
    assert read_adapter(adapter).base == str(tiny_checkpoint)
    lineage(["projector", "lora"], own)
    with pytest.raises(ModelError, match=r"not all that was trained: .*another projector"):
        read_adapter(adapter)
    lineage(["lora"], "0" * 64)
    with pytest.raises(ModelError, match="trained over other weights"):
        read_adapter(adapter)


def test_a_damaged_adapter_and_one_taken_for_a_checkpoint(adapter: Path) -> None:
    with pytest.raises(ModelError, match="is a LoRA adapter, which only specialize --relabel can use"):
        resolve_model(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter(adapter)
