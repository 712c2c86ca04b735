"""Model and data cards in the Hugging Face form, made from what is on disk and nothing else."""

from collections.abc import Callable
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.report.data_card import data_card
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.merged_card import is_merged, merged_card
from vila2cli.report.model_card import model_card
from vila2cli.report.own_recipe import recipe_near
from vila2cli.settings.recipe import Recipe

CARD_FILE = "README.md"
STAGES = ("sft", "recaption", "rewrite", "checkpoint", "relabel")
"""Whose folders of a run get a card: what others may want to use."""


def is_carded(name: str) -> bool:
    """Whether a folder of a run that is called so gets a card, a further caption layer among them."""
    return name in STAGES or name.startswith("recaption-")


def find_cards(folder: Path) -> list[Path]:
    """The checkpoint, annotation layer or merged shards that a folder is, or those that a run folder holds.

    Raises DataError where there are none.
    """
    if _writer(folder):
        return [folder]
    stages = [*folder.glob("*/*"), *folder.glob("specialists/*/*")]
    found = {stage for stage in stages if is_carded(stage.name) and _writer(stage)}
    found |= {place for place in (*folder.glob("*"), *stages) if is_merged(place, JsonReader(place))}
    if found:
        return sorted(found)
    known = "no checkpoint, no caption layer, and no run folder that holds one"
    what = known if folder.is_dir() else "not there"
    raise DataError(
        f"{folder} is {what}; name a folder like runs/world/round1/sft or .../recaption, or merged shards"
    )


def card(folder: Path, recipe: Recipe) -> str:
    """The card of a checkpoint, a layer or merged shards, YAML head included; DataError for another folder.

    What it takes from a recipe is that of the stage where one is stored (`recipe_near`).
    """
    write = _writer(folder)
    if write is None:
        raise DataError(f"{folder} is no checkpoint (vila2.json and config.json) and no layer (layer.json)")
    return write(folder, recipe_near(folder, recipe))


def _writer(folder: Path) -> Callable[[Path, Recipe], str] | None:
    """What writes the card of a folder; answers of an eval or a judge have none, as they describe no image."""
    if (folder / "vila2.json").is_file() and (folder / "config.json").is_file():
        return model_card
    if is_merged(folder, JsonReader(folder)):
        return merged_card
    layer = folder / "layer.json"
    is_layer = layer.is_file() and JsonReader(folder).read(layer).get("layer") not in ("eval", "judge")
    return data_card if is_layer else None
