"""Whether checkpoints may be averaged: what they have in common beyond their weights, and under which names.

A stock checkpoint and what was trained from it are alike although an older release wrote the one: names of
tensors, tables of defaults and the layout of files changed since. What differs as text is therefore compared
again as transformers reads it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from vila2cli.errors import ModelError
from vila2cli.model.checkpoint import read_config, resolve_model
from vila2cli.model.loading import LOAD_ERRORS, NO_CODE, is_tied, load_processor, outline, quiet_transformers
from vila2cli.model.templates import chosen_template
from vila2cli.model.tensor_files import FLOATS, TensorPlace, tensor_places

_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_UNIMPORTANT = frozenset(
    ("_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype", "architectures")
)
_TIES = frozenset(("tie_word_embeddings",))
"""Which of a config's two places counts differs from class to class; the tensors tell."""
_WRAPPERS = frozenset(("model", "language_model", "text_model", "vision_model"))
"""Words of tensor names that releases of transformers put in and left out."""
_HEAD, _WORDS = "lm_head.weight", "embed_tokens.weight"


def check_alike(folders: Sequence[Path]) -> None:
    """Raise ModelError, in one line, for the first difference between checkpoints beyond their weights.

    Compared are tensor names and shapes, configuration, tokenizer, chat template and image processing.
    """
    quiet_transformers()
    first, *others = (resolve_model(folder) for folder in folders)
    kept = _apart_from_weights(first)
    for other in others:
        for what, value in _apart_from_weights(other).items():
            if value != kept[what] and not _is_read_alike(what, first, other):
                raise ModelError(
                    f"{first} and {other} cannot be averaged: their {what} differs{_where(kept[what], value)}"
                )
        named_alike(first, other)


def named_alike(first: Path, other: Path) -> dict[str, TensorPlace]:
    """The tensors of a checkpoint under the names that another one has for them.

    What only `first` stores and no model reads, such as a pooling head, is left out. Raises ModelError for
    tensors of other names, shapes or kinds of numbers.
    """
    places, others = tensor_places(first), tensor_places(other)
    if places.keys() != others.keys():
        ours, theirs = _bare(places), _bare(others)
        found = {name: others[theirs[bare]] for bare, name in ours.items() if bare in theirs}
        if _HEAD in ours and _HEAD not in theirs and _WORDS in theirs:  # stored though it is tied
            found[ours[_HEAD]] = others[theirs[_WORDS]]
        if ours.keys() != theirs.keys():
            _check_whole(first, other, ours, theirs)
        others = found
    for name, place in others.items():
        _check_tensor(first, name, places[name], other, place)
    return others


def _bare(places: Mapping[str, TensorPlace]) -> dict[str, str]:
    """The names of tensors by what all releases have of them; by themselves where that is not one for each."""
    bare = {".".join(word for word in name.split(".") if word not in _WRAPPERS): name for name in places}
    return bare if len(bare) == len(places) else {name: name for name in places}


def _check_whole(first: Path, other: Path, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Raise ModelError unless what one of two checkpoints stores alone is nothing that their class reads."""
    try:
        if is_tied(outline(first)) == is_tied(outline(other)):
            return
    except ModelError:
        pass
    for have, own, lack, others in ((first, ours, other, theirs), (other, theirs, first, ours)):
        if names := sorted(own[bare] for bare in own.keys() - others.keys()):
            raise ModelError(
                f"{first} and {other} cannot be averaged: {lack} has no {names[0]}, which {have} has"
                + (f", nor {len(names) - 1} more of its tensors" if len(names) > 1 else "")
            )


def _check_tensor(first: Path, name: str, place: TensorPlace, other: Path, others: TensorPlace) -> None:
    """Raise ModelError for tensors of two shapes, or of two number formats that are not both of reals."""
    are_reals = place.dtype in FLOATS and others.dtype in FLOATS
    for what, value, other_value in (
        ("shape", place.shape, others.shape),
        ("dtype", place.dtype, place.dtype if are_reals else others.dtype),
    ):
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
        "configuration": _without(read_config(folder / "config.json"), _UNIMPORTANT | _TIES),
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


def _is_read_alike(what: str, first: Path, other: Path) -> bool:
    """Whether transformers makes the same of two checkpoints' files that differ as text."""
    read: Callable[[Path], Any] | None = _READERS.get(what)
    try:
        return read is not None and bool(read(first) == read(other))
    except _UNREADABLE:
        return False


def _read_tokenizer(folder: Path) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    special: dict[str, Any] = {name: str(getattr(tokenizer, name)) for name in _SPECIAL_TOKENS}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is None:
        return {**special, **tokenizer.get_vocab()}
    return special | _without(json.loads(backend.to_str()), frozenset(("padding", "truncation")))


_UNREADABLE: tuple[type[Exception], ...] = (ModelError, *LOAD_ERRORS)
_OF_TEXTS = frozenset(("chat_template", "processor_class"))
_READERS: Mapping[str, Callable[[Path], Any]] = {
    "configuration": lambda folder: _plain(AutoConfig.from_pretrained(folder, **NO_CODE).to_dict()),
    "tokenizer": _read_tokenizer,
    "chat template": lambda folder: chosen_template(load_processor(folder)),
    "image processing": lambda folder: _without(_plain(load_processor(folder).to_dict()), _OF_TEXTS),
}


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of transformers' without what says nothing of the model."""
    own = {key: value for key, value in table.items() if not key.startswith("_")}
    return _without(own, _UNIMPORTANT | _TIES)


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
