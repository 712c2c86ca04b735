"""Whether what a run holds was made with the settings that are given now, as told before it goes on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vila2cli.errors import RecipeError
from vila2cli.run.changes import difference
from vila2cli.run.recipe_file import RECIPE_FILE
from vila2cli.run.stages import SPECIALISTS, Stage, plan_stages
from vila2cli.settings.recipe import Recipe, read_stored

_TABLES = {
    "pretrain": ("base", "pretrain"),
    "sft": ("base", "sft"),
    "specialize": ("base",),
    "relabel": ("recaption",),
    "rewrite": ("rewrite",),
    "filter": ("filter",),
    "eval": ("eval",),
    "judge": ("judge",),
}


def made_otherwise(recipe: Recipe) -> tuple[int, list[str]]:
    """How many folders the stages of a run have begun, and of each with other settings what differs."""
    num, texts = 0, []
    for stage in plan_stages(recipe, *([SPECIALISTS] if recipe.specialists else [])):
        for folder in (stage.out, *stage.beside):
            if not (folder / RECIPE_FILE).is_file():
                continue
            num += 1
            try:
                stored = read_stored(folder / RECIPE_FILE)
            except RecipeError as error:
                texts.append(str(error))
                continue
            before, now = (_deciding(one, stage, folder) for one in (stored, recipe))
            if changed := difference(before, now):
                texts.append(f"{folder} was made with other settings: {changed}")
    return num, texts


def _deciding(recipe: Recipe, stage: Stage, folder: Path) -> Mapping[str, Any]:
    """The settings that decide what a stage writes, by their keys in a recipe."""
    return {"seed": recipe.seed, **dict(_tables(recipe, stage, folder))}


def _tables(recipe: Recipe, stage: Stage, folder: Path) -> Iterator[tuple[str, Any]]:
    prompts: tuple[str, ...] = ()
    if stage.kind == "recaption":
        layer = folder.name.removeprefix("recaption-")
        settings = recipe.captions_of(layer)
        prompts = settings.prompts
        yield (f"captions.{layer}" if layer in recipe.captions else "recaption"), settings.deciding()
    for name in _TABLES.get(stage.kind, ()):
        yield name, getattr(recipe, name).deciding()
    if stage.kind in ("specialize", "relabel"):
        name = folder.parent.name
        if name in recipe.specialists:
            prompts = recipe.specialists[name].prompts
            yield f"specialists.{name}", recipe.specialists[name].deciding()
    if stage.kind == "rewrite":
        prompts = (recipe.rewrite.prompt,)
    yield "prompts", {name: recipe.prompts[name] for name in prompts if name in recipe.prompts}
