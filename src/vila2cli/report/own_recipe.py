"""The recipe of a run, as its stages stored it: a report tells of that, whatever recipe lies around now."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli
from pydantic import ValidationError

from vila2cli.errors import RecipeError
from vila2cli.report.json_reader import MAX_FILE_BYTES, JsonReader
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.tables import Table, TableRow, columns
from vila2cli.report.wording import join_words, visible
from vila2cli.run.folder import digest
from vila2cli.run.recipe_file import RECIPE_FILE, file_of
from vila2cli.settings.recipe import (
    Recipe,
    flatten,
    load_recipe,
    name_of_recipe,
    read_stored,
    resolved_lines,
    shipped_recipes,
)

NOT_STORED = "no stage has stored one"
MAX_DIFFERENCES = 60
"""Settings listed in which stages differ."""
_OF_THE_REPORT = ("cost.", "eval.num_bootstrap")
"""Settings with which a report reckons itself, so that those given with it count."""
_NO_MATTER = ("slurm.",)
MAX_SETS = 8
"""Settings given on the command line that a command to go on with repeats."""
_SET_LINE = re.compile(r"(?P<key>[\w.\"-]+) = (?P<value>.+)  # --set")
_GROUP = re.compile(r"round\d+|final(-.+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRecipe:
    """What is known of the recipe of a run, and the `recipe` that a report reckons with.

    `told` are the settings that somebody has stated, by dotted key: all of them where a stage stored its
    recipe or one was given with its file, else those given alone. `differing` lists in which of them other
    stages differ from the newest.
    """

    recipe: Recipe
    told: Mapping[str, Any]
    about: str
    lines: Sequence[str]
    note: str
    differing: Table
    flags: str = ""


def own_recipe(run: RunRecord, given: Recipe | None, reader: JsonReader) -> OwnRecipe:
    """The newest recipe that a stage of the run stored; else the one `given`."""
    stored = {stage.label: stage.folder / RECIPE_FILE for stage in run.stages}
    stored = {label: path for label, path in stored.items() if path.is_file()}
    # Of equal times, as in a copy, the stage that runs last.
    order = {label: place for place, label in enumerate(stored)}
    for label in sorted(stored, key=lambda one: (stored[one].stat().st_mtime_ns, order[one]), reverse=True):
        recipe = _read(stored[label], reader)
        if recipe is not None:
            text = stored[label].read_text(encoding="utf-8")
            name = visible(file_of(text), 80)
            return OwnRecipe(
                recipe=_reckoning(recipe, given),
                told=flatten(recipe.model_dump(mode="json")),
                about=", ".join(filter(None, (name, _digest(recipe)))),
                lines=[visible(line) for line in text.splitlines() if not line.startswith("# ")],
                note=f"as {label} stored it, the newest stage that has",
                differing=_differing(label, stored),
                flags=_flags(recipe, name, _oldest_like(text, stored.values()), text),
            )
    return _given(given)


def recipe_near(folder: Path, given: Recipe) -> Recipe:
    """The recipe that a stage's folder holds, or that of a stage beside it in a run; else the one `given`."""
    group = folder.resolve().parent
    is_in_run = _GROUP.fullmatch(group.name) or group.parent.name == "specialists"
    beside = sorted(group.glob(f"*/{RECIPE_FILE}")) if is_in_run else []
    for path in (folder / RECIPE_FILE, *beside):
        if path.is_file() and (recipe := _read(path, JsonReader(folder))) is not None:
            return _reckoning(recipe, given)
    return given


def _given(given: Recipe | None) -> OwnRecipe:
    """The recipe that was given with the report, of which defaults are told only where it is a file."""
    recipe = given or Recipe()
    flat = flatten(recipe.model_dump(mode="json"))
    has_file = recipe.path is not None
    lines = [line for line in resolved_lines(recipe) if has_file or not line.endswith("# default")]
    about = f"{visible(recipe.path.name, 80)}, {_digest(recipe)}" if recipe.path is not None else NOT_STORED
    return OwnRecipe(
        recipe=recipe,
        told={key: value for key, value in flat.items() if has_file or _is_set(recipe, key)},
        about=about,
        lines=lines,
        note="as given for this report, as no stage has stored one",
        differing=Table(),
        flags="" if recipe.path is None else _recipe_flag(recipe.path),
    )


def _flags(recipe: Recipe, name: str, stored: Path, text: str) -> str:
    """What gives a command this stored recipe: the file that it came from with what was set, else itself.

    Of that file only the name is known: it is told where it lies here and says the same.
    """
    found = [_SET_LINE.fullmatch(line) for line in text.splitlines()]
    sets = [f"{line['key']}={line['value']}" for line in found if line]
    shipped = [path for path in shipped_recipes().values() if path.name == name]
    near = [path for path in (Path(name), Path("recipes", name)) if name and path.is_file()]
    own = next((path for path in (*near, *shipped) if _is_like(path, sets, recipe)), None)
    if own is None or len(sets) > MAX_SETS:
        return _recipe_flag(stored)
    return " ".join([_recipe_flag(own), *(f"--set {shlex.quote(visible(one, 200))}" for one in sets)])


def _oldest_like(text: str, stored: Iterable[Path]) -> Path:
    """The first stored recipe with this text: `vila2 run` looks again at stages older than its recipe."""
    alike = [path for path in stored if path.read_bytes() == text.encode()]
    return min(alike, key=lambda path: path.stat().st_mtime_ns)


def _recipe_flag(path: Path) -> str:
    """How commands are given a recipe: one that comes with the package by its short name."""
    return f"--recipe {shlex.quote(visible(name_of_recipe(path), 300))}"


def _is_like(path: Path, sets: Sequence[str], recipe: Recipe) -> bool:
    """Whether a recipe that comes with the package, and these settings, say the same as a stored one."""
    try:
        return load_recipe(path, sets).deciding() == recipe.deciding()
    except RecipeError:
        return False


def _digest(recipe: Recipe) -> str:
    return f"digest {digest(recipe.deciding())[:12]}"


def _is_set(recipe: Recipe, key: str) -> bool:
    return recipe.origins.get(key, "default") != "default"


def _reckoning(stored: Recipe, given: Recipe | None) -> Recipe:
    """The stored recipe with the prices and the like that were given for this report."""
    flat = {} if given is None else flatten(given.model_dump(mode="json"))
    asked = {key: value for key, value in flat.items() if given is not None and _is_set(given, key)}
    asked = {key: value for key, value in asked.items() if key.startswith(_OF_THE_REPORT)}
    if not asked:
        return stored
    tree = stored.model_dump(mode="json")
    for key, value in asked.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    return Recipe.model_validate(tree)


def _read(path: Path, reader: JsonReader) -> Recipe | None:
    """A stored recipe; None, with a note, for one that is damaged or of another version."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RecipeError(f"larger than {MAX_FILE_BYTES:,} bytes")
        return read_stored(path)
    except (RecipeError, ValidationError, OSError) as error:
        reader.note(path, error)
        return None


def _differing(newest: str, stored: Mapping[str, Path]) -> Table:
    """The settings in which stages differ from the newest one, and what they are there."""
    flat = {label: _settings(path) for label, path in stored.items()}
    mine = flat.pop(newest)
    found: dict[str, dict[str, list[str]]] = {}
    for label, settings in flat.items():
        for key in {**mine, **settings}:
            if settings and mine.get(key) != settings.get(key) and not key.startswith(_NO_MATTER):
                found.setdefault(key, {}).setdefault(_shown(settings, key), []).append(label)
    rows = tuple(
        TableRow(visible(key, 120), (_shown(mine, key), value, join_words(labels)))
        for key, others in list(found.items())[:MAX_DIFFERENCES]
        for value, labels in others.items()
    )
    more = len(found) - MAX_DIFFERENCES
    note = f"And {more:,} more settings." if more > 0 else ""
    return Table(columns("Setting", "Newest", long=("Otherwise", "In")), rows, note)


def _settings(path: Path) -> dict[str, Any]:
    """A stored recipe of any version by dotted key; empty for one that cannot be read."""
    try:
        return flatten(tomli.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _shown(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "not there"
    return visible(json.dumps(settings[key], ensure_ascii=False, default=str), 200)
