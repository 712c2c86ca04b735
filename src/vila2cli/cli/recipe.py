"""`vila2 recipe`: the recipes that come with the package."""

from typing import Annotated

import typer

from vila2cli.cli.documents import Recipes, RecipeText
from vila2cli.cli.terminal import show
from vila2cli.errors import RecipeError
from vila2cli.settings.recipe import shipped_recipes

app = typer.Typer(no_args_is_help=True, help="List the recipes that come with the package, and print one.")


@app.command("list")
def list_recipes() -> None:
    """Name every recipe, with its first line.

    \b
    vila2 recipe list
    """
    texts = {name: path.read_text(encoding="utf-8") for name, path in shipped_recipes().items()}
    show(Recipes({name: text.partition("\n")[0].removeprefix("#").strip() for name, text in texts.items()}))


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe that `vila2 recipe list` names.")],
) -> None:
    """Print a recipe, to start from.

    \b
    vila2 recipe show world > my.toml
    """
    recipes = shipped_recipes()
    if name not in recipes:
        raise RecipeError(f"{name} is none of the recipes {', '.join(recipes)}")
    show(RecipeText(name, recipes[name].read_text(encoding="utf-8")), is_whole=True)
