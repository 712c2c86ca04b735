"""The from-scratch guard: no round may start from what another one trained (VILA^2 section 2.1).

Rounds that continue from a checkpoint of others all continue from the same one.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vila2cli.errors import RecipeError
from vila2cli.files import read_json
from vila2cli.model.checkpoint import LINEAGE_FILE, weights_sha256
from vila2cli.run.folder import RunFolder
from vila2cli.shards.records import file_sha256

_ADVICE = "every round starts from the original bases, name the tower or LLM that it was made from"
_NAMED = "give the run another name"


def refuse_trained(bases: Mapping[str, Path], run: RunFolder, *, is_later_round: bool) -> None:
    """Raise RecipeError when a base is a checkpoint that vila2 made, a copy of one of the run, or, in a
    later round, not the base that round 0 started from.

    The last catches what no comparison with a checkpoint can: a part taken out of one, or an average.
    """
    products = _recorded_products(run.root)
    begun = _first_round(run) if is_later_round else {}
    if begun.get("parent"):
        raise RecipeError(
            f"round 0 of this run continued from {begun['parent'].get('path')}, and this one is to start from "
            f"scratch; set pretrain.model again, or {_NAMED}"
        )
    started_from = begun.get("bases", {})
    for name, folder in bases.items():
        if (folder / LINEAGE_FILE).exists():
            raise RecipeError(f"base.{name} = {folder} was trained by vila2; {_ADVICE}")
        sha256 = weights_sha256(folder)
        if (product := products.get(sha256) or _same_weights(folder, run.root)) is not None:
            raise RecipeError(f"base.{name} = {folder} is a copy of {product}, which was trained; {_ADVICE}")
        recorded = started_from.get(name, {})
        if recorded and recorded["sha256"] != sha256:
            raise RecipeError(
                f"base.{name} = {folder} is not what round 0 started from ({recorded['path']}, "
                f"{recorded['sha256'][:12]}); {_ADVICE}, or {_NAMED}"
            )


def refuse_own(model: Path, run: RunFolder, *, is_later_round: bool) -> None:
    """Raise RecipeError where a round is to continue from a checkpoint of its own run or a copy of one, or, in
    a later round, not from what round 0 continued from."""
    sha256 = weights_sha256(model)
    begun = _first_round(run) if is_later_round else {}
    parent = begun.get("parent") or {}
    if begun and parent.get("sha256") != sha256:
        origin = f"continued from {parent.get('path')}" if parent else "started from scratch"
        raise RecipeError(f"pretrain.model = {model}, but round 0 of this run {origin}; {_NAMED}")
    if parent:  # what the rounds continue from is their parent, and was not trained here
        return
    own = model if model.resolve().is_relative_to(run.root.resolve()) else None
    if product := own or _recorded_products(run.root).get(sha256) or _same_weights(model, run.root):
        raise RecipeError(
            f"pretrain.model = {model} was trained in this run ({product}); no round starts from another one, "
            f"name the checkpoint that the run began with, or {_NAMED}"
        )


def _first_round(run: RunFolder) -> dict[str, Any]:
    """What round 0 of a run was made from, {} where it is not there."""
    first = run.stage("pretrain", 0) / LINEAGE_FILE
    return read_json(first) if first.is_file() else {}


def _lineages(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(root.glob(f"**/{LINEAGE_FILE}")):
        yield path.parent, read_json(path)


def _recorded_products(root: Path) -> dict[str, str]:
    """The checkpoints that others of the run were trained from, by hash; they may be gone by now."""
    products = {}
    for _, made in _lineages(root):
        if made.get("stage") == "pretrain":  # what rounds continue from was not trained in the run
            continue
        for parent in (made.get("parent"), *(made.get("parents") or ())):
            if parent and parent.get("sha256"):
                products[parent["sha256"]] = str(parent.get("path"))
    return products


def _same_weights(folder: Path, root: Path) -> Path | None:
    """A checkpoint of the run with a weights file that is one of the folder's, whatever their names."""
    sizes = {path: path.stat().st_size for path in folder.glob("*.safetensors")}
    for checkpoint, _ in _lineages(root):
        for path in checkpoint.glob("*.safetensors"):
            equal = [own for own, size in sizes.items() if size == path.stat().st_size]
            if any(file_sha256(own) == file_sha256(path) for own in equal):
                return checkpoint
    return None
