"""The from-scratch guard: no round may start from what another one trained (VILA^2 section 2.1)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vila2cli.errors import RecipeError
from vila2cli.files import read_json
from vila2cli.model.checkpoint import LINEAGE_FILE, weights_sha256
from vila2cli.run.folder import RunFolder
from vila2cli.shards.records import file_sha256

_ADVICE = "every round starts from the original bases, name the tower or LLM that it was made from"


def refuse_trained(bases: Mapping[str, Path], run: RunFolder, *, is_later_round: bool) -> None:
    """Raise RecipeError when a base is a checkpoint that vila2 made, a copy of one of the run, or, in a
    later round, not the base that round 0 started from.

    The last catches what no comparison with a checkpoint can: a part taken out of one, or an average.
    """
    products = _recorded_products(run.root)
    first = run.stage("pretrain", 0) / LINEAGE_FILE
    started_from = read_json(first).get("bases", {}) if is_later_round and first.is_file() else {}
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
                f"{recorded['sha256'][:12]}); {_ADVICE}, or give the run another name"
            )


def _lineages(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(root.glob(f"**/{LINEAGE_FILE}")):
        yield path.parent, read_json(path)


def _recorded_products(root: Path) -> dict[str, str]:
    """The checkpoints that others of the run were trained from, by hash; they may be gone by now."""
    products = {}
    for _, made in _lineages(root):
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
