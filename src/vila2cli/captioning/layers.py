"""Which caption layers there are, which of them take each other's captions, and which a training takes."""

from collections.abc import Collection, Sequence

from vila2cli.captioning.captioner import check_settings
from vila2cli.errors import DataError, RecipeError, meant
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import open_source
from vila2cli.shards.sample import ORIGINAL, is_source
from vila2cli.text.prompts import prompt_text, slots_of


def layers_used(recipe: Recipe, layer: str) -> dict[str, str]:
    """The layers whose captions stand in the prompts of a layer, each with the first such prompt."""
    used: dict[str, str] = {}
    for prompt_id in recipe.captions_of(layer).prompts:
        for name in slots_of(prompt_text(prompt_id, recipe.prompts)).layers:
            used.setdefault(name, prompt_id)
    return used


def in_order(recipe: Recipe, layers: Sequence[str]) -> list[str]:
    """The layers in an order in which each comes after those of them whose captions its prompts take.

    Raises RecipeError for layers that wait for each other.
    """
    needs = {layer: {one.partition("@")[0] for one in layers_used(recipe, layer)} - {layer} for layer in layers}
    ordered: list[str] = []
    while len(ordered) < len(needs):
        ready = [one for one in needs if one not in ordered and not needs[one] & set(needs) - set(ordered)]
        if not ready:
            waiting = " and ".join(one for one in needs if one not in ordered)
            raise RecipeError(f"the prompts of {waiting} take each other's captions; change one of them")
        ordered += ready[:1]
    return ordered


def check_used(recipe: Recipe, layer: str, beside: Sequence[str], below: Collection[str]) -> None:
    """Raise RecipeError for a layer whose prompts take one that is neither written beside it nor below it."""
    known = [ORIGINAL, *(one for one in beside if one != layer), *sorted(below)]
    for name, prompt_id in layers_used(recipe, layer).items():
        if not is_source(name, known):
            raise RecipeError(
                f"prompt {prompt_id} of the layer {layer} takes the caption of {name!r}; there are "
                f"{', '.join(known)}{meant(name, known)}: ask for --layer {name} in the same command, or give "
                "shards with that layer"
            )


def check_trained(recipe: Recipe, below: Collection[str]) -> None:
    """Raise RecipeError for captions to train on that no layer of the recipe, or of those below, is called."""
    known = list(dict.fromkeys([ORIGINAL, *recipe.caption_layers, "rewrite", *sorted(below)]))
    for phase, settings in recipe.pretrain.phases.items():
        for name in settings.captions:
            if not is_source(name, known):
                table = "choose" if settings.choose else "captions"
                raise RecipeError(
                    f"pretrain.{phase}.{table} names {name!r}, which is neither a caption layer of the recipe "
                    f"nor one of the data; there are {', '.join(known)}{meant(name, known)}"
                )


def check_caption_layers(recipe: Recipe) -> str:
    """Look at all caption layers of a recipe and at what is trained on; raises as the stages would."""
    try:
        below = {layer.name for layer in open_source(recipe.data.pretrain).layers}
    except DataError:  # of data that are not there, which is a finding of its own
        below = set()
    layers = in_order(recipe, recipe.caption_layers)
    for layer in layers:
        check_settings(recipe, layer)
        check_used(recipe, layer, layers, below)
    check_trained(recipe, below)
    if len(layers) == 1:
        return f"one layer, {layers[0]}"
    return f"{len(layers)} layers, written in one pass: {', '.join(layers)}"
