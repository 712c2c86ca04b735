"""A LoRA adapter as peft writes it: a folder of few weights that names the checkpoint they adapt."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vila2cli.errors import ModelError
from vila2cli.files import read_json
from vila2cli.model.checkpoint import LINEAGE_FILE, read_config, resolve_model, weights_sha256
from vila2cli.settings import Part
from vila2cli.shards.records import file_sha256

ADAPTER = "adapter"
"""Folder of a checkpoint that holds the adapter by itself."""
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

_UNLIKE_LORA = ("modules_to_save", "use_dora", "lora_bias", "trainable_token_indices", "layer_replication")
"""Settings of peft under which an adapter is more, or something else, than low-rank matrices."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter folder: its base (a folder or hub id), its rank, and the parts it changes."""

    folder: Path
    base: str
    rank: int
    parts: frozenset[Part]

    @property
    def sha256(self) -> str:
        """SHA-256 of the adapter and of its base, which together decide every answer."""
        files = [file_sha256(self.folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)]
        return hashlib.sha256("\n".join([*files, self.base_sha256]).encode()).hexdigest()

    @property
    def base_sha256(self) -> str:
        return weights_sha256(resolve_model(self.base))


def is_adapter(model: str | Path) -> bool:
    """Whether a model is an adapter folder, as against a checkpoint or a hub id."""
    return (Path(model) / CONFIG_FILE).is_file()


def base_of(model: str | Path) -> str:
    """The checkpoint that holds a model's weights: for an adapter its base; raises as `read_adapter`."""
    return read_adapter(model).base if is_adapter(model) else str(model)


def named_base(folder: Path) -> str:
    """The base that an adapter folder names, whether it exists or not; raises ModelError."""
    base = read_config(folder / CONFIG_FILE).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / CONFIG_FILE} names no base; set base_model_name_or_path in it")
    return base


def read_adapter(model: str | Path) -> Adapter:
    """Read an adapter folder, weights' names but no weights.

    Raises ModelError where it is damaged, more than LoRA, without its base, or by the lineage beside it
    only a part of what was trained, or trained over other weights than its base has now.
    """
    folder = Path(model)
    config, base = read_config(folder / CONFIG_FILE), named_base(folder)
    odd = [name for name in _UNLIKE_LORA if config.get(name)]
    if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
        what = odd[0] if odd else f"peft_type {config.get('peft_type')}, bias {config.get('bias')}"
        raise ModelError(f"{folder} is not a plain LoRA adapter ({what}); merge it into its base and give that")
    try:
        resolve_model(base)
    except ModelError as error:
        raise ModelError(
            f"the base of the adapter {folder}: {error}; base_model_name_or_path in {CONFIG_FILE} says where"
        ) from None
    rank = max(int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values()), 1)
    adapter = Adapter(folder, base, rank, _parts(folder))
    _check_lineage(adapter)
    return adapter


def _parts(folder: Path) -> frozenset[Part]:
    from vila2cli.model.freeze import part_of  # with it comes transformers

    try:
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as weights:
            return frozenset(part_of(name.partition(".lora_")[0]) for name in weights.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS_FILE} cannot be read: {error}") from None


def _check_lineage(adapter: Adapter) -> None:
    """Compare an adapter inside a checkpoint of ours with what the lineage says it was made from."""
    checkpoint = adapter.folder.parent
    if adapter.folder.name != ADAPTER or not (checkpoint / LINEAGE_FILE).is_file():
        return
    lineage = read_json(checkpoint / LINEAGE_FILE)
    trained = (lineage.get("settings") or {}).get("train") or ["lora"]
    if others := [part for part in trained if part != "lora"]:
        raise ModelError(
            f"{adapter.folder} is not all that was trained: {checkpoint} has another {others[0]}, too; "
            f'give {checkpoint}, or train with train = ["lora"]'
        )
    then = (lineage.get("parent") or {}).get("sha256")
    if then is not None and then != adapter.base_sha256:
        raise ModelError(
            f"{adapter.folder} was trained over other weights than {adapter.base} has now; train it again"
        )
