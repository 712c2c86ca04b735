"""What pictures in tiles take of the longest sequences of a recipe's trainings, before there is a model."""

from collections.abc import Mapping
from typing import Any

from vila2cli.errors import RecipeError
from vila2cli.settings import BaseSettings, TrainSettings
from vila2cli.settings.recipe import Recipe

_MERGED = 4
"""Patches that become one token, in both architectures that have tiles."""


def trainings(recipe: Recipe) -> dict[str, TrainSettings]:
    """The settings of all trainings by their tables in the recipe."""
    return {
        **{f"pretrain.{name}": settings for name, settings in recipe.pretrain.phases.items()},
        "sft": recipe.sft,
        **{f"specialists.{name}": settings for name, settings in recipe.specialists.items()},
    }


def tokens_of_tiles(base: BaseSettings, tower: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of a picture in one tile, and in as many as it can have; 0 without tiles, or where sizes lack.

    `tower` is the config.json of the vision tower.
    """
    from vila2cli.model.tiles import tokens_of

    vision = tower.get("vision_config") or tower
    side, patch = base.image_size or _first(vision.get("image_size")), _first(vision.get("patch_size"))
    if base.tiles.method == "none" or not side or not patch:
        return 0, 0
    per_tile = (side // patch) ** 2 // _MERGED
    return tokens_of(1, per_tile), tokens_of(base.tiles.max + base.tiles.thumbnail, per_tile)


def _first(sides: Any) -> int:
    return int((sides[0] if isinstance(sides, list) else sides) or 0)


def tiles_line(recipe: Recipe, tower: Mapping[str, Any]) -> str:
    """How many tokens a picture may take; raises RecipeError where a training has no room for one tile."""
    least, most = tokens_of_tiles(recipe.base, tower)
    lengths = {name: settings.max_length for name, settings in trainings(recipe).items()}
    for name, length in lengths.items():
        if length < least:
            raise RecipeError(
                f"{name}.max_length = {length} is less than the {least} tokens of one tile; raise it"
            )
    number = recipe.base.tiles.max + recipe.base.tiles.thumbnail
    text = f"up to {number} a picture, of {least} to {most:,} tokens at most"
    if short := [f"{name}.max_length = {length}" for name, length in lengths.items() if length < most]:
        text += f"; {short[0]} shows large ones in fewer"
    return text
