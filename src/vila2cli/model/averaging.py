"""Averaging checkpoints weight by weight, in blocks, so that no model is ever held in memory.

A soup has the file layout, tensor names and number formats of its first member, and its
configuration, tokenizer and chat template; means are taken in float32.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vila2cli.errors import ModelError
from vila2cli.files import naming
from vila2cli.model.checkpoint import identity_files, read_config, resolve_model

INDEX_FILE = "model.safetensors.index.json"
BLOCK_ELEMENTS = 1 << 22
"""Elements of a tensor averaged at a time: 16 MiB in float32."""

_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SIZE_BYTES = 8
"""A safetensors file begins with the length of its JSON header, in so many bytes."""
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_UNIMPORTANT = frozenset(("_name_or_path", "transformers_version", "use_cache"))


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor is stored: its file, the offset of its bytes, its format and shape."""

    file: Path
    start: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]


def weights_files(folder: Path) -> list[Path]:
    """The files that hold the tensors of a checkpoint; raises ModelError when one is missing."""
    index = folder / INDEX_FILE
    if index.is_file():
        names = sorted(set(read_config(index).get("weight_map", {}).values()))
        files = [folder / name for name in names]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise ModelError(f"{folder} is not whole: it has no {file.name}")
    return files


def tensor_places(folder: Path) -> dict[str, TensorPlace]:
    """Every tensor of a checkpoint by name; raises ModelError for a damaged file."""
    places: dict[str, TensorPlace] = {}
    for file in weights_files(folder):
        raw, header = read_header(file)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            start = SIZE_BYTES + len(raw) + begin
            places[name] = TensorPlace(file, start, end - begin, entry["dtype"], tuple(entry["shape"]))
    return places


def check_alike(folders: Sequence[Path]) -> None:
    """Raise ModelError, in one line, for the first difference between checkpoints beyond their weights.

    Compared are tensor names, shapes and number formats, configuration, tokenizer, chat template and
    image processing.
    """
    first, *others = (resolve_model(folder) for folder in folders)
    places, kept = tensor_places(first), _apart_from_weights(first)
    for other in others:
        _check_tensors(first, places, other, tensor_places(other))
        for what, value in _apart_from_weights(other).items():
            if value != kept[what]:
                raise ModelError(
                    f"{first} and {other} cannot be averaged: their {what} differs{_where(kept[what], value)}"
                )


def write_soup(folders: Sequence[Path], shares: Sequence[float], out_dir: Path) -> None:
    """Write the weighted mean of checkpoints that `check_alike` passed; `shares` are positive and sum to 1.

    Raises ModelError when a tensor that has no mean, such as one of integers, differs.
    """
    assert len(folders) == len(shares), "one share per checkpoint"
    first = folders[0]
    places = [tensor_places(folder) for folder in folders]
    out_dir.mkdir(parents=True, exist_ok=True)
    for file in weights_files(first):
        raw, header = read_header(file)
        names = sorted(header, key=lambda name: header[name]["data_offsets"][0])
        with naming(out_dir / file.name), (out_dir / file.name).open("wb") as stream:
            stream.write(len(raw).to_bytes(SIZE_BYTES, "little") + raw)
            for name in names:
                _write_mean(name, [own[name] for own in places], shares, stream)
    copied = [path for path in identity_files(first) if path.suffix != ".safetensors"]
    for path in [*copied, first / INDEX_FILE]:
        if path.is_file():
            shutil.copyfile(path, out_dir / path.name)


def _write_mean(name: str, places: Sequence[TensorPlace], shares: Sequence[float], stream: BinaryIO) -> None:
    dtype = _FLOATS.get(places[0].dtype)
    itemsize = dtype.itemsize if dtype else 1
    step = BLOCK_ELEMENTS * itemsize
    files = [place.file.open("rb") for place in places]
    try:
        for file, place in zip(files, places, strict=True):
            file.seek(place.start)
        for done in range(0, places[0].num_bytes, step):
            size = min(step, places[0].num_bytes - done)
            blocks = (bytearray(file.read(size)) for file in files)
            if dtype is not None:
                mean = weighted_sum((torch.frombuffer(block, dtype=dtype) for block in blocks), shares)
                stream.write(mean.to(dtype).view(torch.uint8).numpy().tobytes())
                continue
            block, *rest = blocks
            if any(other != block for other in rest):
                raise ModelError(f"{name} is {places[0].dtype} and differs between the models: it has no mean")
            stream.write(block)
    finally:
        for file in files:
            file.close()


def weighted_sum(tensors: Any, shares: Sequence[float]) -> Tensor:
    """The weighted sum of equally shaped tensors in float32, one of them in memory at a time."""
    total: Tensor | None = None
    for tensor, share in zip(tensors, shares, strict=True):
        term = tensor.float().mul(share)
        total = term if total is None else total.add_(term)
    assert total is not None, "nothing to average"
    return total


def read_header(file: Path) -> tuple[bytes, dict[str, Any]]:
    """The JSON header of a safetensors file, unchanged, and its tensors by name."""
    try:
        with safe_open(file, framework="pt"):  # checks that header and length fit
            pass
        with file.open("rb") as stream:
            raw = stream.read(int.from_bytes(stream.read(SIZE_BYTES), "little"))
    except SafetensorError as error:
        raise ModelError(f"{file} is damaged or cut off: {error}") from None
    header = json.loads(raw)
    header.pop("__metadata__", None)
    return raw, header


def _check_tensors(
    first: Path, places: Mapping[str, TensorPlace], other: Path, others: Mapping[str, TensorPlace]
) -> None:
    for have, lack, names in (
        (first, other, sorted(places.keys() - others.keys())),
        (other, first, sorted(others.keys() - places.keys())),
    ):
        if names:
            raise ModelError(
                f"{first} and {other} cannot be averaged: {lack} has no {names[0]}, which {have} has"
                + (f", nor {len(names) - 1} more of its tensors" if len(names) > 1 else "")
            )
    for name, place in places.items():
        for what in ("shape", "dtype"):
            value, other_value = getattr(place, what), getattr(others[name], what)
            if value != other_value:
                raise ModelError(
                    f"{first} and {other} cannot be averaged: {name} has {what} {_shown(value)} in the one, "
                    f"{_shown(other_value)} in the other"
                )


def _shown(value: str | tuple[int, ...]) -> str:
    return value if isinstance(value, str) else " x ".join(map(str, value)) or "scalar"


def _apart_from_weights(folder: Path) -> dict[str, Any]:
    """What models must share to be averaged, by what it is called in an error."""
    return {
        "configuration": _without(read_config(folder / "config.json"), _UNIMPORTANT),
        "tokenizer": _tokenizer(folder),
        "chat template": chat_template(folder),
        "image processing": {
            name: read_config(folder / name)
            for name in ("preprocessor_config.json", "processor_config.json")
            if (folder / name).is_file()
        },
    }


def _tokenizer(folder: Path) -> dict[str, Any]:
    """What decides the ids of a text; how batches are padded or cut does not."""
    config = folder / "tokenizer_config.json"
    stated = read_config(config) if config.is_file() else {}
    special: dict[str, Any] = {name: stated.get(name) for name in _SPECIAL_TOKENS}
    whole = folder / "tokenizer.json"
    if whole.is_file():
        return special | _without(read_config(whole), frozenset(("padding", "truncation")))
    parts = sorted({*folder.glob("*.model"), *folder.glob("vocab.*"), *folder.glob("merges.txt")})
    return special | {path.name: path.read_bytes() for path in parts}


def chat_template(folder: Path) -> Any:
    """The chat template of a checkpoint wherever it is kept, None without one."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and (template := read_config(path).get("chat_template")):
            return template
    return None


def _where(first: Any, other: Any) -> str:
    """The first key in which two tables differ, as ` in text_config.vocab_size`."""
    keys: list[str] = []
    while isinstance(first, dict) and isinstance(other, dict):
        key = next(key for key in {**first, **other} if first.get(key) != other.get(key))
        keys.append(str(key))
        first, other = first.get(key), other.get(key)
    return f" in {'.'.join(keys)}" if keys else ""


def _without(table: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {
        key: _without(value, names) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if key not in names
    }
