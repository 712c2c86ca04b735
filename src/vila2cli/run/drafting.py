"""Going on in a folder as it was begun: how its JPEGs were decoded may have been another version's default."""

from collections.abc import Iterable
from pathlib import Path

import tomli

from vila2cli.errors import RecipeError
from vila2cli.run.folder import read_manifest
from vila2cli.run.recipe_file import RECIPE_FILE
from vila2cli.settings.recipe import Recipe

_WHOLE = 0.0


def as_begun(recipe: Recipe, folders: Iterable[Path]) -> Recipe:
    """The recipe with the `data.draft` that these folders were begun with, where they were with a default.

    Manifests say nothing of a default, the recipe.toml beside them does; versions that have no such setting
    decoded all JPEGs whole. Raises RecipeError where folders of one pass were begun with different ones.
    """
    begun = {folder: draft for folder in folders if (draft := _default_of(folder)) is not None}
    if not begun or not (recipe.data.drafts_by_default or set(begun.values()) == {recipe.data.draft}):
        return recipe  # what is set is compared with the manifest
    if len(set(begun.values())) > 1:
        told = ", ".join(f"{folder} with {draft:g}" for folder, draft in begun.items())
        raise RecipeError(f"layers of one pass were begun with different data.draft: {told}; write them apart")
    draft = next(iter(begun.values()))
    return recipe.model_copy(update={"data": recipe.data.as_begun(draft)})


def _default_of(folder: Path) -> float | None:
    """The default of `data.draft` that a folder was begun with, None where nothing was begun, or it was set."""
    stored, path = read_manifest(folder), folder / RECIPE_FILE
    if stored is None or "draft" in stored.inputs or not path.is_file():
        return None
    try:
        data = tomli.loads(path.read_text(encoding="utf-8")).get("data", {})
        return float(data.get("draft", _WHOLE))
    except (ValueError, TypeError, AttributeError):  # damaged, and for whoever needs all of it
        return None


def note_of(recipe: Recipe, engine: str) -> str:
    """What to tell of a pass that decodes JPEGs as another version did by default, "" of any other."""
    if not recipe.data.drafts_as_begun or engine == "api":  # servers are sent pictures that were decoded whole
        return ""
    return f"going on with data.draft = {recipe.data.draft:g}, as this was begun by another version"
