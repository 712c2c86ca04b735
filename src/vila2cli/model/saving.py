"""Writing a checkpoint so that transformers and vLLM both read it as it lies."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from vila2cli.errors import DataError
from vila2cli.files import read_json
from vila2cli.model.soup import INDEX_FILE, SIZE_BYTES, read_header, weights_files

_RENAMED = {"llava": ("vision_tower.", "vision_tower.vision_model.")}
"""By architecture, a prefix of tensor names that transformers writes and the one that vLLM looks for;
transformers reads both."""


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say in one line what keeps a file of weights from being written: a full disk, a quota, a lost folder."""
    try:
        yield
    except SafetensorError as error:
        raise DataError(f"cannot write {place}: {error}; make room and run the same command again") from None
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"cannot write {error.filename or place}: {reason}; run the same command again"
        ) from None


def save_checkpoint(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Write model and processor as a plain transformers folder in safetensors."""
    with writing(folder):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        rename_for_vllm(folder)


def rename_for_vllm(folder: Path) -> None:
    """Give the tensors of a saved checkpoint the names that vLLM looks for, where they have others."""
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in _RENAMED:
        return
    written, wanted = _RENAMED[kind]

    def renamed(name: str) -> str:
        head, found, rest = name.partition(written)
        is_ours = found and head in ("", "model.") and not name.startswith(head + wanted)
        return f"{head}{wanted}{rest}" if is_ours else name

    for file in weights_files(folder):
        raw, header = read_header(file)
        names = {name: renamed(name) for name in header}
        if all(old == new for old, new in names.items()):
            continue
        table = json.loads(raw)
        renewed = json.dumps({names.get(name, name): entry for name, entry in table.items()}).encode()
        renewed += b" " * (-len(renewed) % SIZE_BYTES)
        _replace_header(file, len(raw), renewed)
    if (folder / INDEX_FILE).is_file():
        index = read_json(folder / INDEX_FILE)
        index["weight_map"] = {renamed(name): file for name, file in index["weight_map"].items()}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _replace_header(file: Path, old_size: int, header: bytes) -> None:
    new = file.with_name(f"{file.name}.new")
    with file.open("rb") as source, new.open("wb") as target:
        target.write(len(header).to_bytes(SIZE_BYTES, "little") + header)
        source.seek(SIZE_BYTES + old_size)
        shutil.copyfileobj(source, target)
    new.replace(file)
