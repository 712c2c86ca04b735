"""Writing a checkpoint so that transformers and vLLM both read it unchanged."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from vila2cli.errors import DataError, ModelError
from vila2cli.files import read_json
from vila2cli.model.chat import Chat
from vila2cli.model.checkpoint import SIZE_BYTES, read_header
from vila2cli.model.loading import is_tied, load_whole
from vila2cli.model.tensor_files import INDEX_FILE, weights_files

_WRITTEN, _WANTED = "vision_tower.", "vision_tower.vision_model."
"""A prefix of tensor names that transformers writes and the one that vLLM looks for, in towers of these kinds;
transformers reads both."""
_NESTED_TOWERS = ("clip", "siglip", "siglip2")


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Report in one line why a file of weights cannot be written: a full disk, a quota, a lost folder."""
    try:
        yield
    except SafetensorError as error:
        raise DataError(f"cannot write {place}: {error}; make room and run the same command again") from None
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"cannot write {error.filename or place}: {reason}; run the same command again"
        ) from None
    except Exception as error:
        if type(error) is not Exception or "(os error" not in str(error):
            raise
        # tokenizers raises nothing narrower for what the system says of a file
        raise DataError(f"cannot write {place}: {error}; make room and run the same command again") from None


def save_checkpoint(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Write model and processor as a plain transformers folder in safetensors.

    Its generation config names all tokens that end an answer, and nothing of sampling that contradicts
    itself; its config says at both places alike whether the head is the matrix of the word embeddings.
    Raises ModelError where transformers would not find all tensors again.
    """
    _set_ends(model, Chat(processor).end_ids)
    _set_ties(model)
    with writing(folder):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        rename_for_vllm(folder, type(model))
    if problem := unreadable(folder, type(model)):
        raise ModelError(f"transformers cannot read what it wrote of a {type(model).__name__}: {problem}")


def unreadable(folder: Path, kind: Any) -> str:
    """What a class does not find in a checkpoint by its tensors' names and shapes; "" for nothing."""
    try:
        load_whole(kind, folder, device_map="meta")
    except ModelError as error:
        return str(error)
    return ""


def with_ends(known: int | Sequence[int] | None, ends: Sequence[int]) -> list[int]:
    """The end tokens that a generation config names, in its order, and others after them, each once."""
    own = [] if known is None else [known] if isinstance(known, int) else list(known)
    return list(dict.fromkeys(int(token) for token in (*own, *ends)))


def _set_ends(model: PreTrainedModel, ends: Sequence[int]) -> None:
    config = model.generation_config
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:  # which transformers reads and does not write
        config = GenerationConfig(
            **{name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
            do_sample=False,
        )
        model.generation_config = config
    ids = with_ends(config.eos_token_id, ends)
    if ids and ids != with_ends(config.eos_token_id, ()):
        config.eos_token_id = ids[0] if len(ids) == 1 else ids


def _set_ties(model: PreTrainedModel) -> None:
    """Say at both places of a vision-language config, which its readers choose from, what is the case."""
    text = model.config.get_text_config()
    if text is not model.config and model.get_output_embeddings() is not None:
        model.config.tie_word_embeddings = text.tie_word_embeddings = is_tied(model)


def rename_for_vllm(folder: Path, kind: Any = AutoModelForImageTextToText) -> None:
    """Give the tensors of a saved checkpoint the names that vLLM looks for, where they have others.

    Where the class would then not find them, they keep their own.
    """
    tower = read_json(folder / "config.json").get("vision_config") or {}
    if str(tower.get("model_type")).removesuffix("_vision_model") not in _NESTED_TOWERS:
        return

    def nested(name: str) -> str:
        head, prefix, rest = name.partition(_WRITTEN)
        is_ours = prefix and head in ("", "model.") and not name.startswith(head + _WANTED)
        return f"{head}{_WANTED}{rest}" if is_ours else name

    def flat(name: str) -> str:
        return name.replace(_WANTED, _WRITTEN, 1) if name.startswith((_WANTED, f"model.{_WANTED}")) else name

    if _rename(folder, nested) and unreadable(folder, kind):
        _rename(folder, flat)


def _rename(folder: Path, renamed: Callable[[str], str]) -> bool:
    """Rename the tensors of a checkpoint in its files' headers; whether there was one to rename."""
    changed = False
    for file in weights_files(folder):
        raw, header = read_header(file)
        names = {name: renamed(name) for name in header}
        if all(old == new for old, new in names.items()):
            continue
        changed = True
        table = json.loads(raw)
        renewed = json.dumps({names.get(name, name): entry for name, entry in table.items()}).encode()
        renewed += b" " * (-len(renewed) % SIZE_BYTES)
        _replace_header(file, len(raw), renewed)
    if (folder / INDEX_FILE).is_file():
        index = read_json(folder / INDEX_FILE)
        index["weight_map"] = {renamed(name): file for name, file in index["weight_map"].items()}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return changed


def _replace_header(file: Path, old_size: int, header: bytes) -> None:
    new = file.with_name(f"{file.name}.new")
    with file.open("rb") as source, new.open("wb") as target:
        target.write(len(header).to_bytes(SIZE_BYTES, "little") + header)
        source.seek(SIZE_BYTES + old_size)
        shutil.copyfileobj(source, target)
    new.replace(file)
