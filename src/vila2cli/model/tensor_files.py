"""Where the tensors of a checkpoint lie: the headers of its safetensors files."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vila2cli.errors import ModelError
from vila2cli.model.checkpoint import SIZE_BYTES, read_config, read_header

INDEX_FILE = "model.safetensors.index.json"
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The number formats of reals that are averaged, by the name that a header has for them."""


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
