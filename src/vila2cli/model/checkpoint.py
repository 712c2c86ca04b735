"""Where a checkpoint is, what number format it has, and what its weights hash to."""

import functools
import hashlib
import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vila2cli.errors import DataError, ModelError
from vila2cli.files import read_json
from vila2cli.shards.records import file_sha256

LINEAGE_FILE = "vila2.json"
"""What a checkpoint of ours was made from, beside its weights."""
_DOWNLOADED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_IDENTITY = """
    *.safetensors config.json generation_config.json processor_config.json *preprocessor_config.json tokenizer*
    special_tokens_map.json added_tokens.json vocab.* merges.txt chat_template*
"""
"""What decides a checkpoint's text; lineage and metrics beside it do not."""
SIZE_BYTES = 8
"""A safetensors file begins with the length of its JSON header, in so many bytes."""
_UNREAD = ("pytorch_model*.bin", "*.gguf", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
"""Weights of other formats; most of them may hold code."""
_POINTER, _LONGEST_POINTER = b"version https://git-lfs", 1024
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def resolve_model(model: str | Path) -> Path:
    """The folder of a checkpoint: a local folder unchanged, a hub id downloaded into the hub's cache.

    A hub id may name a branch, tag or commit, as in `org/name@main`. Raises ModelError when it is
    neither, or when the folder holds no config.json and safetensors.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _download(str(model))
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is a LoRA adapter, which only specialize --relabel can use directly; "
            "give the checkpoint that it is merged into"
        )
    if not (folder / "config.json").is_file():
        snapshots = sorted((folder / "snapshots").glob("*/config.json"))
        wanted = snapshots[-1].parent if snapshots else "the folder that save_pretrained wrote"
        raise ModelError(f"{folder} is not a checkpoint: it has no config.json; give {wanted}")
    _check_weights_files(folder)
    return folder


def _check_weights_files(folder: Path) -> None:
    """Raise ModelError unless a folder has weights in the only format that is read."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        if file.stat().st_size <= _LONGEST_POINTER and file.read_bytes().startswith(_POINTER):
            raise ModelError(
                f"{file} is a pointer of Git LFS in place of the file; run git lfs pull in {folder}"
            )
    if files:
        return
    if others := sorted(file.name for pattern in _UNREAD for file in folder.glob(pattern)):
        raise ModelError(
            f"{folder} has no *.safetensors weights, and no others are read, such as its {others[0]}: load "
            "them with transformers and write them again with save_pretrained"
        )
    raise ModelError(f"{folder} has no *.safetensors weights; was the training stage finished?")


def model_name(model: str | Path) -> str:
    """How provenance names a model: a local folder as given, a hub id with the commit it resolved to."""
    if Path(model).is_dir():
        return str(model)
    return f"{str(model).partition('@')[0]}@{resolve_model(model).name}"


def looks_local(model: str) -> bool:
    """Whether what is no folder was rather meant to be one than a hub id: `models/llm`, `./llm`, `/llm`."""
    name = model.partition("@")[0]
    above = Path(name).parent
    return _is_no_hub_id(name) or above.name == "models" or (above != Path() and above.is_dir())


def _is_no_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) > 2 or not all(parts) or parts[0] in (".", "..", "~")


@functools.cache
def _download(model: str) -> Path:
    """The snapshot of a hub id, whose folder name is the commit; the same for the whole process."""
    name, _, revision = model.partition("@")
    if _is_no_hub_id(name):
        raise ModelError(f"model folder {model} does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if looks_local(model):
            raise ModelError(f"model folder {model} does not exist, nor can it be had from the hub") from None
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"model {model} is neither a folder nor available from the hub: {reason}") from None


def own_dtype(folder: str | Path) -> str:
    """The number format of a checkpoint, as its config states it, else that of most of its weights.

    Raises ModelError for a config that cannot be read.
    """
    config = read_config(Path(folder) / "config.json")
    for part in (config, config.get("text_config") or {}):
        stated = part.get("dtype") or part.get("torch_dtype")
        if stated in _STORED.values():
            return str(stated)
    return _weights_dtype(Path(folder))


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint; raises ModelError where it cannot be read."""
    try:
        return read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from None


def _weights_dtype(folder: Path) -> str:
    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        for tensor in read_header(path)[1].values():
            counts[_STORED.get(tensor["dtype"], "float32")] += math.prod(tensor["shape"])
    return counts.most_common(1)[0][0] if counts else "float32"


def read_header(file: Path) -> tuple[bytes, dict[str, Any]]:
    """The JSON header of a safetensors file, unchanged, and its tensors by name; raises ModelError."""
    try:
        with safe_open(file, framework="numpy"):  # checks that header and length fit
            pass
        with file.open("rb") as stream:
            raw = stream.read(int.from_bytes(stream.read(SIZE_BYTES), "little"))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or cut off: {error}") from None
    header = json.loads(raw)
    header.pop("__metadata__", None)
    return raw, header


def weights_sha256(folder: str | Path) -> str:
    """SHA-256 over names and contents of weights, configs, tokenizer and chat template; not over the path.

    A file that has not changed is read once per process.
    """
    files = identity_files(Path(folder))
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = pool.map(file_sha256, files)
        lines = [f"{path.name} {sha256}\n" for path, sha256 in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def identity_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide what it generates, by name."""
    return sorted({path for pattern in _IDENTITY.split() for path in folder.glob(pattern) if path.is_file()})
