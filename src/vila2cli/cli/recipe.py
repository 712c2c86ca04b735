"""`vila2 recipe`: the recipes that come with the package."""

from typing import Annotated

import typer

from vila2cli.cli.terminal import say
from vila2cli.errors import RecipeError
from vila2cli.settings.recipe import shipped_recipes

app = typer.Typer(no_args_is_help=True, help="List the recipes that come with the package, and print one.")


@app.command("list")
def list_recipes() -> None:
    """Name every recipe, with its first line.

    \b
    vila2 recipe list
    """
    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        say(f"{name:<{width}}  {first.removeprefix('#').strip()}")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe that `vila2 recipe list` names.")],
) -> None:
    """Print a recipe, to start from.

    \b
    vila2 recipe show world > my.toml
    """
    recipes = shipped_recipes()
    if name not in recipes:
        raise RecipeError(f"{name} is none of the recipes {', '.join(recipes)}")
    say(*recipes[name].read_text(encoding="utf-8").splitlines(), is_whole=True)
