"""The recipe.toml beside what a stage made: the resolved settings that it ran with, and whose they were."""

import json
from pathlib import Path

from vila2cli.files import write_atomically
from vila2cli.settings.recipe import Recipe, resolved_lines

RECIPE_FILE = "recipe.toml"
_NAMED = "# of "


def store_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the resolved settings into a folder; the first line names the file that they came from."""
    named = [] if recipe.path is None else [_NAMED + json.dumps(recipe.path.name)]
    write_atomically(folder / RECIPE_FILE, ("\n".join([*named, *resolved_lines(recipe)]) + "\n").encode())


def file_of(stored: str) -> str:
    """The name of the file that a stored recipe came from; "" where it does not say."""
    first = stored.partition("\n")[0]
    try:
        name = json.loads(first.removeprefix(_NAMED)) if first.startswith(_NAMED) else ""
    except ValueError:
        return ""
    return name if isinstance(name, str) else ""
