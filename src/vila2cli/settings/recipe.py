"""Reading a recipe: TOML and `--set` to frozen settings, with every problem reported at once."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli
from pydantic import ValidationError

from vila2cli.errors import RecipeError, meant, nearest
from vila2cli.files import read_json
from vila2cli.settings import Origin, Recipe, describe
from vila2cli.shards.credentials import masked
from vila2cli.shards.places import redacted

__all__ = [
    "Recipe",
    "find_recipe",
    "flatten",
    "load_recipe",
    "name_of_recipe",
    "resolved_lines",
    "shipped_recipes",
]

_ONE_SOURCE = "this stage trains on one source; leave it out, or bound what it takes with max_samples or epochs"
REMOVED = {
    "pretrain.align.mixture": _ONE_SOURCE,
    "pretrain.align.text_share": _ONE_SOURCE,
    "specialists.NAME.mixture": _ONE_SOURCE,
    "specialists.NAME.text_share": _ONE_SOURCE,
    "pretrain.align.answers": "the specialists' answers are trained on in pretrain.main; set it there",
}
"""Settings of earlier versions that had no effect, with what to do instead."""
NO_EFFECT = frozenset(("settings.text_share", "settings.align.text_share", "settings.align.answers"))
"""Those of them that earlier versions recorded with what they made, though they decided nothing."""
_MAX_DEPTH = 20
_MAX_KEY = 200
Place = Mapping[str, str]
"""Dotted key -> where it was written, as `recipes/world.toml:12` or `--set KEY=VALUE`."""


def read_stored(path: Path) -> Recipe:
    """The recipe that a stage has stored in its folder, without settings that this version has removed.

    Raises RecipeError naming the version that reads one with other settings.
    """
    tree = _read_toml(path)[0]
    for removed in REMOVED:
        *tables, name = removed.split(".")
        for table in _tables(tree, tables):
            table.pop(name, None)
    try:
        return Recipe.model_validate(tree)
    except ValidationError:
        manifest = path.with_name("manifest.json")
        version = read_json(manifest).get("vila2") if manifest.is_file() else None
        raise RecipeError(
            f"{path} has settings that this version does not know; vila2 {version or 'of another version'} "
            "reads it, or remove the folder to start it over"
        ) from None


def _tables(tree: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The tables of a dotted name that are there, NAME standing for any word."""
    if not isinstance(tree, dict):
        return
    if not names:
        yield tree
    for name in tree if names and names[0] == "NAME" else names[:1]:
        yield from _tables(tree.get(name), names[1:])


def load_recipe(path: Path | str | None = None, sets: Sequence[str] = ()) -> Recipe:
    """Read a recipe (None for the defaults alone) and put `KEY=VALUE` settings on top.

    `path` is a file, or the name of a recipe that comes with the package, such as "world". Raises
    RecipeError with one line per problem: file and line, the key as typed, and the nearest known key.
    """
    path = None if path is None else find_recipe(Path(path))
    tree, places = ({}, {}) if path is None else _read_toml(path)
    origins: dict[str, Origin] = dict.fromkeys(flatten(tree), "recipe")
    problems: list[str] = []
    for text in sets:
        try:
            key, value = _parse_set(text)
            _put(tree, key, value)
        except RecipeError as error:
            problems.append(str(error))
            continue
        for old in [known for known in origins if _is_under(known, [key])]:
            del origins[old]
        for inner in flatten(value, key) if isinstance(value, dict) else [key]:
            origins[inner], places[inner] = "--set", f"--set {_cut(masked(text), 300)}"
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        problems += [_problem(detail, places) for detail in error.errors(include_url=False)]
    if problems:
        head = f"{len(problems)} problems in the recipe:\n  " if len(problems) > 1 else ""
        raise RecipeError(head + "\n  ".join(problems))
    defaults = dict.fromkeys(flatten(recipe.model_dump(mode="json")), "default")
    recipe._origins.update({**defaults, **origins})  # type: ignore[dict-item]
    recipe._path = path
    return recipe


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package by name: `world`, `vila2-8b`, `vila-ablations/vila` ..."""
    # A checkout has them at its top, where people read them; a wheel takes them along.
    folders = [Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes"]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.toml"))}


def name_of_recipe(path: Path) -> str:
    """What `--recipe` is given for a file: its name among `shipped_recipes`, else the path."""
    return next((name for name, known in shipped_recipes().items() if known == path), str(path))


def find_recipe(path: Path) -> Path:
    """The file of a recipe: the one named, else one of `shipped_recipes`; raises RecipeError."""
    if path.exists() or path.suffix == ".toml":
        return path
    shipped = shipped_recipes()
    if str(path) in shipped:
        return shipped[str(path)]
    near = meant(str(path), shipped)
    raise RecipeError(f"there is no recipe {path}: neither a file nor one of {', '.join(shipped)}{near}")


def _check_depth(tree: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError for tables and lists in each other that no setting asks for, and no recursion bears."""
    level: list[Any] = [tree]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    if level:
        raise RecipeError(f"{where}: tables are nested deeper than any setting, which is {_MAX_DEPTH} levels")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table of dotted keys; empty tables vanish."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            flat.update(flatten(value, key))
        else:
            flat[key] = value
    return flat


def resolved(recipe: Recipe, sections: Sequence[str] = ()) -> dict[str, Any]:
    """Every setting by dotted key, or those at or below the `sections`, in the order of the recipe.

    Places stand without their credentials, as all of this is kept and shown.
    """
    flat = flatten(recipe.model_dump(mode="json"))
    return {k: _shown(k, v) for k, v in flat.items() if not sections or _is_under(k, sections)}


def resolved_lines(recipe: Recipe, sections: Sequence[str] = ()) -> list[str]:
    """The same as lines `key = value  # origin`, which is TOML that `load_recipe` reads."""
    return [
        f"{_toml_key(k)} = {_toml_value(v)}  # {recipe.origins.get(k, 'default')}"
        for k, v in resolved(recipe, sections).items()
    ]


def _shown(key: str, value: Any) -> Any:
    """A setting without passwords, signatures and keys; a prompt is what it is."""
    if isinstance(value, list):
        return [_shown(key, one) for one in value]
    return value if key.startswith("prompts.") or not isinstance(value, str) else masked(redacted(value))


def _is_under(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _toml_key(key: str) -> str:
    return ".".join(p if re.fullmatch(r"[\w-]+", p, re.ASCII) else json.dumps(p) for p in key.split("."))


def _toml_value(value: Any) -> str:
    # A JSON string, number, boolean or list of them is TOML as it stands, but for DEL in a string.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_toml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"cannot read the recipe {path}: {reason}") from error
    text = text.removeprefix("\ufeff")
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise RecipeError(f"{path}:{error.lineno}: not valid TOML: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: {str(error).partition(';')[0]}") from None
    _check_depth(tree, str(path))
    return tree, {key: f"{path}:{line}" for key, line in key_lines(text).items()}


KEY_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
KEY = rf"{KEY_PART}(?:\s*\.\s*{KEY_PART})*"
HEADER = re.compile(rf"^\s*\[\[?\s*({KEY})\s*\]", re.ASCII)
ASSIGNMENT = re.compile(rf"^\s*({KEY})\s*=", re.ASCII)


def key_lines(text: str) -> dict[str, int]:
    """The line (from 1) of every table and key that stands at the start of a line of valid TOML."""
    lines: dict[str, int] = {}
    table, open_quote = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if open_quote:
            open_quote = "" if line.count(open_quote) % 2 else open_quote
            continue
        if header := HEADER.match(line):
            table = _plain_key(header[1])
            lines.setdefault(table, number)
        elif assignment := ASSIGNMENT.match(line):
            key = _plain_key(assignment[1])
            lines.setdefault(f"{table}.{key}" if table else key, number)
        open_quote = next((q for q in ('"""', "'''") if line.count(q) % 2), "")
    return lines


def _plain_key(text: str) -> str:
    return ".".join(part.strip("\"'") for part in re.findall(KEY_PART, text, re.ASCII))


def _parse_set(text: str) -> tuple[str, Any]:
    """Split `a.b=VALUE`; a VALUE that is not TOML, or meant for a string setting, is taken as it stands."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if key.count(".") > _MAX_DEPTH:
        raise RecipeError(f"--set {_short(text)}: no setting lies that deep")
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key, re.ASCII):
        raise RecipeError(f"--set {masked(text)}: write it as KEY=VALUE, for example --set sft.epochs=2")
    try:
        parsed = tomli.loads(f"value = {raw}")
    except tomli.TOMLDecodeError:
        return key, raw
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"--set {_short(text)}: {str(error).partition(';')[0]}") from None
    _check_depth(parsed, f"--set {_short(text)}")
    value = parsed["value"] if set(parsed) == {"value"} else raw
    wants_text = any(_matches(known, key) and kind == "string" for known, kind, _, _ in describe())
    return key, raw if wants_text and not isinstance(value, str) else value


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *tables, name = key.split(".")
    for depth, table in enumerate(tables, 1):
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"--set {key}: {'.'.join(tables[:depth])} is a setting, not a table")
    tree[name] = value


def _problem(detail: Any, places: Place) -> str:
    """One line for one pydantic error: where, the key as typed, what is wrong, what was perhaps meant."""
    kind, message = detail["type"], detail["msg"].removeprefix("Value error, ")
    parts = [str(part) for part in detail["loc"] if part != "[key]"]
    if kind == "missing":
        return f"{_place(parts[:-1], places)}{'.'.join(parts)} is missing"
    # Positions inside a list, and the branches of a union, belong to the key before them.
    while parts and ".".join(parts) not in places and len(parts) > 1 and kind != "extra_forbidden":
        parts.pop()
    key = ".".join(parts)
    where = _set_that(message, key, detail["input"], places) or _place(parts, places)
    if kind == "extra_forbidden" and (hint := _removed(key)):
        return f"{where}{key} is no longer a setting: {hint}"
    if kind == "extra_forbidden":
        near = nearest_key(key) if len(key) <= _MAX_KEY else None
        return f"{where}unknown setting {key[:_MAX_KEY]}" + (f"; did you mean {near}?" if near else "")
    what = message[:1].lower() + message[1:]
    return where + what if where.startswith("--set") else f"{where}{key} = {_short(detail['input'])}: {what}"


def _set_that(message: str, table: str, value: Any, places: Place) -> str:
    """The --set of a setting that a problem of a whole table names; "" for none, and for other problems."""
    words = set(re.findall(r"\w+", message))
    inside = f"{table}."
    named = [
        place
        for key, place in places.items()
        if place.startswith("--set")
        and key.startswith(inside)
        and words & set(key.removeprefix(inside).split("."))
    ]
    return f"{named[-1]}: " if named and isinstance(value, Mapping) else ""


def _place(parts: Sequence[str], places: Place) -> str:
    """Where a key, else the nearest table around it, else something below it was written; "" for nowhere."""
    for length in range(len(parts), 0, -1):
        if place := places.get(".".join(parts[:length])):
            return f"{place}: "
    inside = f"{'.'.join(parts)}."
    return next((f"{place}: " for key, place in places.items() if key.startswith(inside)), "")


def _short(value: Any) -> str:
    return _cut(masked(repr(value)), 60)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _matches(known: str, key: str) -> bool:
    """Whether a key fits a `describe()` key, where NAME and KEY stand for any word."""
    pairs = list(zip(known.split("."), key.split("."), strict=False))
    same_length = known.count(".") == key.count(".")
    return same_length and all(a == b or a in ("NAME", "KEY") for a, b in pairs)


def _removed(key: str) -> str:
    """What to do in place of a setting that was removed; "" for any other key."""
    return next((hint for known, hint in REMOVED.items() if _matches(known, key)), "")


def known_keys(key: str) -> Iterator[str]:
    """All dotted keys and their tables, with the word that `key` has in its place for NAME."""
    parts = key.split(".")
    for known, *_ in describe():
        words = known.split(".")
        for place, word in enumerate(words):
            if word == "NAME" and parts[:place] == words[:place] and place < len(parts):
                words[place] = parts[place]
        words = ["" if word == "KEY" else word for word in words]
        yield from (".".join(words[:length]) for length in range(1, len(words) + 1) if all(words[:length]))


def nearest_key(key: str) -> str | None:
    """The known key that was most likely meant: in the same table first, then the same word elsewhere."""
    table, _, name = key.rpartition(".")
    known = list(dict.fromkeys(known_keys(key)))
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == table}
    if close := nearest(name, siblings):
        return siblings[close]
    if same := [k for k in known if k.rpartition(".")[2] == name]:
        return next((k for k in same if "." in k), same[0])  # a setting before a table of the name
    return nearest(key, known)
