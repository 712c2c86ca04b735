"""Where a checkpoint lies and what its weights hash to."""

import functools
import hashlib
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vila2cli.errors import DataError, ModelError
from vila2cli.files import read_json

_DOWNLOADED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_IDENTITY = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "*preprocessor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
"""What decides a checkpoint's text; lineage and metrics that lie beside it do not."""
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_hashes: dict[tuple[tuple[str, int, int], ...], str] = {}


def resolve_model(model: str | Path) -> Path:
    """The folder of a checkpoint: a local folder as it is, a hub id downloaded into the hub's cache.

    A hub id may name a branch, tag or commit, as in `org/name@main`. Raises ModelError when it is
    neither, or when the folder holds no config.json and safetensors.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _download(str(model))
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is a LoRA adapter, which only specialize --relabel asks as it is; "
            "give the checkpoint that it is merged into"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is no checkpoint: it has no config.json; give the folder that save_pretrained wrote"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no *.safetensors weights; was the training stage finished?")
    return folder


def model_name(model: str | Path) -> str:
    """How provenance names a model: a local folder as given, a hub id with the commit it resolved to."""
    if Path(model).is_dir():
        return str(model)
    return f"{str(model).partition('@')[0]}@{resolve_model(model).name}"


@functools.cache
def _download(model: str) -> Path:
    """The snapshot of a hub id, whose folder name is the commit; the same one for a whole process."""
    name, _, revision = model.partition("@")
    parts = name.split("/")
    if len(parts) > 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise ModelError(f"model folder {model} does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"model {model} is neither a folder nor to be had from the hub: {reason}") from None


def own_dtype(folder: str | Path) -> str:
    """The number format of a checkpoint, as its config states it, else that of most of its weights.

    Raises ModelError for a config that cannot be read.
    """
    try:
        config = read_json(Path(folder) / "config.json")
    except DataError as error:
        raise ModelError(str(error)) from None
    for part in (config, config.get("text_config") or {}):
        stated = part.get("dtype") or part.get("torch_dtype")
        if stated in _STORED.values():
            return str(stated)
    return _weights_dtype(Path(folder))


def _weights_dtype(folder: Path) -> str:
    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  (it is no mapping)
                    tensor = file.get_slice(name)
                    counts[_STORED.get(tensor.get_dtype(), "float32")] += math.prod(tensor.get_shape())
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged or cut off: {error}") from None
    return counts.most_common(1)[0][0] if counts else "float32"


def weights_sha256(folder: str | Path) -> str:
    """SHA-256 over names and contents of weights, configs, tokenizer and chat template; not over the path.

    Kept in memory by path, size and modification time, so asking again costs nothing.
    """
    files = identity_files(Path(folder))
    stats = [(path, path.stat()) for path in files]
    cache_key = tuple((str(path.absolute()), stat.st_mtime_ns, stat.st_size) for path, stat in stats)
    if cache_key not in _hashes:
        with ThreadPoolExecutor(max_workers=4) as pool:
            lines = [
                f"{path.name} {sha}\n" for path, sha in zip(files, pool.map(file_sha256, files), strict=True)
            ]
        _hashes[cache_key] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return _hashes[cache_key]


def identity_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide what it generates, by name."""
    found = {path for pattern in _IDENTITY for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
