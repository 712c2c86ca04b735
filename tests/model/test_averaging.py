"""Averages of checkpoints: exact, streamed, and refused where models do not belong together."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.errors import ModelError
from vila2cli.model import averaging
from vila2cli.model.averaging import write_soup
from vila2cli.model.likeness import check_alike
from vila2cli.model.tensor_files import INDEX_FILE, tensor_places

Member = Callable[..., Path]


@pytest.fixture
def member(tiny_checkpoint: Path, tmp_path: Path) -> Member:
    """`member("a", seed=1)` is the tiny checkpoint with noise on its weights."""

    def make(name: str, seed: int = 0) -> Path:
        folder = shutil.copytree(tiny_checkpoint, tmp_path / name)
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(folder / "model.safetensors")
        noisy = {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in tensors.items()}
        save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2)])
def test_the_mean_is_right_to_float32_rounding(
    member: Member, tmp_path: Path, shares: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "BLOCK_ELEMENTS", 1000)  # so that blocks end inside of tensors
    folders = [member(name, seed) for seed, name in enumerate("abc")]
    write_soup(folders, shares, tmp_path / "soup")
    parts = [tensors_of(folder) for folder in folders]
    for name, found in tensors_of(tmp_path / "soup").items():
        exact = sum(share * part[name].double() for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=1e-8)


def test_a_soup_is_a_whole_checkpoint(member: Member, tmp_path: Path) -> None:
    folders = [member("a", 1), member("b", 2)]
    write_soup(folders, (0.5, 0.5), tmp_path / "soup")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "soup")
    assert AutoProcessor.from_pretrained(tmp_path / "soup").chat_template
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(logits).all()
    names = {path.name for path in folders[0].iterdir()}
    assert {path.name for path in (tmp_path / "soup").iterdir()} == names


def test_equal_models_average_to_themselves(member: Member, tmp_path: Path) -> None:
    one, two = member("a", 1), member("b", 1)
    write_soup([one, two], (0.5, 0.5), tmp_path / "soup")
    assert (tmp_path / "soup" / "model.safetensors").read_bytes() == (one / "model.safetensors").read_bytes()


def small(folder: Path, parts: dict[str, dict[str, torch.Tensor]]) -> Path:
    """A checkpoint whose tensors lie in several files, with the index that save_pretrained writes."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name, tensors in parts.items():
        save_file(tensors, folder / name)
    if len(parts) > 1:
        weight_map = {key: name for name, tensors in parts.items() for key in tensors}
        (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_files_may_be_cut_differently_and_formats_are_kept(tmp_path: Path) -> None:
    values = {
        "a": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "b": torch.ones(4, dtype=torch.float16),
        "c": torch.tensor([3, 4]),
        "d": torch.tensor(1.5),
    }
    two = {"model-00001-of-00002.safetensors": {k: values[k] for k in "ab"}}
    two["model-00002-of-00002.safetensors"] = {k: values[k] for k in "cd"}
    other = {k: v if k == "c" else v * 3 for k, v in values.items()}
    folders = [small(tmp_path / "one", two), small(tmp_path / "two", {"model.safetensors": other})]
    check_alike(folders)
    write_soup(folders, (0.5, 0.5), tmp_path / "soup")
    assert {path.name for path in (tmp_path / "soup").glob("*.safetensors")} == set(two)
    assert (tmp_path / "soup" / INDEX_FILE).read_text() == (folders[0] / INDEX_FILE).read_text()
    found = tensors_of(tmp_path / "soup")
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value if name == "c" else value * 2)
    assert tensor_places(tmp_path / "soup").keys() == values.keys()
    third = small(tmp_path / "three", {"model.safetensors": values | {"c": torch.tensor([3, 5])}})
    with pytest.raises(ModelError, match="c is I64 and differs"):
        write_soup([folders[0], third], (0.5, 0.5), tmp_path / "never")


def test_what_does_not_belong_together_is_one_line(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.ones(2)}
    first = small(tmp_path / "first", {"model.safetensors": weights})
    cases = {
        "less": ({"a": weights["a"]}, "less has no b, which .*first has$"),
        "more": (weights | {"z": torch.ones(1), "y": torch.ones(1)}, "first has no y, .* nor 1 more"),
        "shape": (weights | {"a": torch.ones(3, 2)}, "a has shape 2 x 3 in the one, 3 x 2"),
        "dtype": (weights | {"b": torch.ones(2).long()}, "b has dtype F32 in the one, I64"),
    }
    for name, (tensors, message) in cases.items():
        other = small(tmp_path / name, {"model.safetensors": tensors})
        with pytest.raises(ModelError, match=message) as caught:
            check_alike([first, other])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"model_type": "llama", "rope": {"theta": 2}}', "configuration differs in rope"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 0}}}', r"tokenizer differs in model\.vocab\.a"),
        ("tokenizer_config.json", '{"eos_token": "<end>"}', "tokenizer differs in eos_token"),
        ("chat_template.jinja", "other", "chat template differs"),
        ("processor_config.json", '{"image_seq_len": 9}', "image processing differs in processor_config"),
    ],
)
def test_other_texts_or_images_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    tensors = {"model.safetensors": {"a": torch.ones(2)}}
    first, other = small(tmp_path / "first", tensors), small(tmp_path / "other", tensors)
    for folder in (first, other):
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1}}, "padding": null}')
    (other / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1}}, "padding": {"length": 9}}')
    (other / "config.json").write_text('{"model_type": "llama", "transformers_version": "9"}')
    check_alike([first, other])
    (other / file).write_text(text)
    with pytest.raises(ModelError, match=message):
        check_alike([first, other])


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    tensors = {f"model-0000{i}-of-00002.safetensors": {f"t{i}": torch.ones(9)} for i in (1, 2)}
    first, other = small(tmp_path / "first", tensors), small(tmp_path / "other", tensors)
    (other / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="other is not whole: it has no model-00002"):
        check_alike([first, other])
    (other / "model-00002-of-00002.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors is damaged"):
        check_alike([first, other])
    outside = json.dumps({"weight_map": {"t1": "../first/model-00001-of-00002.safetensors"}})
    (other / INDEX_FILE).write_text(outside)
    with pytest.raises(ModelError, match="is not whole"):
        check_alike([first, other])


def test_no_model_is_held_in_memory(tmp_path: Path) -> None:
    mib = 1 << 20
    tensors = {name: torch.full((16, mib), float(i)) for i, name in enumerate("abcd")}  # 256 MiB
    for name in ("one", "two"):
        small(tmp_path / name, {"model.safetensors": tensors})
    script = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from vila2cli.model.averaging import write_soup\n"
        "from vila2cli.model.likeness import check_alike\n"
        "root = Path(sys.argv[1])\nfolders = [root / 'one', root / 'two']\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\nbefore = peak()\n"
        "check_alike(folders)\nwrite_soup(folders, (0.5, 0.5), root / 'soup')\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 130  # MiB: a tensor of two models is 128
    assert torch.equal(load_file(tmp_path / "soup" / "model.safetensors")["d"], tensors["d"])
