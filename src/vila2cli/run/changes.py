"""What has changed between what a folder was made from and what it would be made from now, for people."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vila2cli.files import read_json
from vila2cli.settings.recipe import NO_EFFECT, flatten

MAX_CHANGES = 8
_MODEL = "model_sha256"
_SHARDS = re.compile(r"(?P<what>.*)\bshards\.[^.]+")
"""A shard that something was made from, by its name."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUMMARIES = ("summary.json", "metrics.json")
_NAMES = {
    "captions": "the captions compared (by layers, judge.num_samples and seed; "
    "older builds drew images without any, too)"
}
"""What is compared by digest, where its key says too little."""
_ABSENT = object()


def difference(old: Mapping[str, Any], new: Mapping[str, Any], models: tuple[str, str] = ("", "")) -> str:
    """What differs, as `key was A, now B`; of what is compared by digest what it is of, and no digest.

    `models` are the paths of the model that was asked then and of the one now, where they are known.
    """
    before, after = flatten(old), flatten(new)
    before = {k: v for k, v in before.items() if k in after or k not in NO_EFFECT}
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k) or (k in before) != (k in after)]
    texts = list(dict.fromkeys(_changes(keys, before, after, models)))
    more = f", and {len(texts) - MAX_CHANGES} more" if len(texts) > MAX_CHANGES else ""
    return ", ".join(texts[:MAX_CHANGES]) + more


def model_of(folder: Path) -> str:
    """The path of the model whose answers a folder holds, as its summary has it; "" where it has none."""
    for path in (place / name for place in (folder, folder.parent) for name in _SUMMARIES):
        if path.is_file():
            found = read_json(path).get("model")
            return found if isinstance(found, str) else ""
    return ""


def _changes(
    keys: list[str], before: Mapping[str, Any], after: Mapping[str, Any], models: tuple[str, str]
) -> Iterator[str]:
    """One text for each thing that has changed, the model first, which much else follows from."""
    if _MODEL in keys and before.get(_MODEL) and after.get(_MODEL):
        yield _another_model(models)
        # Drawn anew for the answers of a model to what it was trained on.
        keys = [key for key in keys if key not in (_MODEL, "draw")]
    for key in keys:
        values = before.get(key, _ABSENT), after.get(key, _ABSENT)
        what, _, last = key.rpartition(".")
        if shard := _SHARDS.fullmatch(key):
            yield _other_shards(shard["what"].strip("."), before, after)
        elif last == "sha256" and f"{what}.path" in keys:
            continue  # the path says it
        elif last == "sha256" and f"{what}.path" in after:
            yield f"{what} {after[f'{what}.path']} holds other weights than then"
        elif all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in values):
            name = key.removesuffix("_sha256").removesuffix(".sha256")
            yield f"{_NAMES.get(name, name)} changed"
        else:
            yield f"{key} was {_shown(values[0])}, now {_shown(values[1])}"


def _another_model(models: tuple[str, str]) -> str:
    then, now = models
    if then and then == now:
        return f"the model {now} holds other weights than then"
    if then and now:
        return f"another model ({then}, now {now})"
    return f"another model than then (now {now})" if now else "another model than then"


def _other_shards(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """That something was made from other shards, and how many they were."""
    prefix = f"{what}.shards." if what else "shards."
    nums = [sum(key.startswith(prefix) for key in flat) for flat in (before, after)]
    name = f"other shards in {what}" if what else "other shards"
    return f"{name} ({nums[0]:,}, now {nums[1]:,})"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}"
