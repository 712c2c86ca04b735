"""Averaging checkpoints weight by weight, in blocks, so that no model is ever held in memory.

A soup has the file layout, tensor names and number formats of its first member, and its
configuration, tokenizer and chat template; means are taken in float32. A tensor that the first member alone
stores is one that no model reads, and is copied.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vila2cli.errors import ModelError
from vila2cli.files import naming
from vila2cli.model.checkpoint import SIZE_BYTES, identity_files, read_header
from vila2cli.model.likeness import named_alike
from vila2cli.model.tensor_files import FLOATS, INDEX_FILE, TensorPlace, tensor_places, weights_files

BLOCK_ELEMENTS = 1 << 22
"""Elements of a tensor averaged at a time: 16 MiB in float32."""


def write_soup(folders: Sequence[Path], shares: Sequence[float], out_dir: Path) -> None:
    """Write the weighted mean of checkpoints that `check_alike` passed; `shares` are positive and sum to 1.

    Raises ModelError when a tensor that has no mean, such as one of integers, differs.
    """
    assert len(folders) == len(shares), "one share per checkpoint"
    first = folders[0]
    places = [tensor_places(first), *(named_alike(first, other) for other in folders[1:])]
    out_dir.mkdir(parents=True, exist_ok=True)
    for file in weights_files(first):
        raw, header = read_header(file)
        names = sorted(header, key=lambda name: header[name]["data_offsets"][0])
        with naming(out_dir / file.name), (out_dir / file.name).open("wb") as stream:
            stream.write(len(raw).to_bytes(SIZE_BYTES, "little") + raw)
            for name in names:
                own = [tensors[name] for tensors in places if name in tensors]
                _write_mean(name, own, shares if len(own) == len(shares) else (1.0,), stream)
    copied = [path for path in identity_files(first) if path.suffix != ".safetensors"]
    for path in [*copied, first / INDEX_FILE]:
        if path.is_file():
            shutil.copyfile(path, out_dir / path.name)


def _write_mean(name: str, places: Sequence[TensorPlace], shares: Sequence[float], stream: BinaryIO) -> None:
    """Write the mean of a tensor of several files; of fewer places than shares only the first one counts."""
    places = places[: len(shares)]
    dtype = FLOATS.get(places[0].dtype)
    dtypes = [FLOATS.get(place.dtype, torch.uint8) for place in places]
    sizes = [own.itemsize for own in dtypes]
    with ExitStack() as held:
        files = [held.enter_context(place.file.open("rb")) for place in places]
        for file, place in zip(files, places, strict=True):
            file.seek(place.start)
        for done in range(0, places[0].num_bytes // sizes[0], BLOCK_ELEMENTS):
            number = min(BLOCK_ELEMENTS, places[0].num_bytes // sizes[0] - done)
            blocks = (bytearray(file.read(number * size)) for file, size in zip(files, sizes, strict=True))
            if dtype is not None:
                pairs = zip(blocks, dtypes, strict=True)
                mean = weighted_sum((torch.frombuffer(block, dtype=own) for block, own in pairs), shares)
                stream.write(mean.to(dtype).view(torch.uint8).numpy().tobytes())
                continue
            block, *rest = blocks
            if any(other != block for other in rest):
                raise ModelError(f"{name} is {places[0].dtype} and differs between the models: it has no mean")
            stream.write(block)


def weighted_sum(tensors: Any, shares: Sequence[float]) -> Tensor:
    """The weighted sum of equally shaped tensors in float32, one of them in memory at a time."""
    total: Tensor | None = None
    for tensor, share in zip(tensors, shares, strict=True):
        term = tensor.float().mul(share)
        total = term if total is None else total.add_(term)
    assert total is not None, "nothing to average"
    return total
