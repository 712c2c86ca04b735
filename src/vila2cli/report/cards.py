"""Model and data cards in the Hugging Face form, made from what lies on the disk and nothing else."""

from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.report.data_card import data_card
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.model_card import model_card
from vila2cli.settings.recipe import Recipe

CARD_FILE = "README.md"
STAGES = ("sft", "recaption", "rewrite", "checkpoint", "relabel")
"""Whose folders of a run get a card: what others may want to use."""


def find_cards(folder: Path) -> list[Path]:
    """The checkpoints and annotation layers that a folder is, or that a run folder holds.

    Raises DataError where there are none.
    """
    if _is_checkpoint(folder) or _is_layer(folder):
        return [folder]
    stages = [*folder.glob("*/*"), *folder.glob("specialists/*/*")]
    found = sorted(one for one in stages if one.name in STAGES and (_is_checkpoint(one) or _is_layer(one)))
    if not found:
        known = "no checkpoint, no caption layer, and no run folder that holds one"
        what = known if folder.is_dir() else "not there"
        raise DataError(f"{folder} is {what}; name a folder like runs/world/round1/sft or .../recaption")
    return found


def card(folder: Path, recipe: Recipe) -> str:
    """The card of a checkpoint or a layer, YAML head included; raises DataError for any other folder."""
    if _is_checkpoint(folder):
        return model_card(folder, recipe)
    if _is_layer(folder):
        return data_card(folder, recipe)
    raise DataError(f"{folder} is no checkpoint (vila2.json and config.json) and no layer (layer.json)")


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "vila2.json").is_file() and (folder / "config.json").is_file()


def _is_layer(folder: Path) -> bool:
    """Whether a folder is a layer that says something of images, and no answers of an eval or a judge."""
    path = folder / "layer.json"
    return path.is_file() and JsonReader(folder).read(path).get("layer") not in ("eval", "judge")
