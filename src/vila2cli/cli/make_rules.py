"""The table of stages as rules for make, for people who read, edit and compose a run there."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vila2cli.errors import RecipeError
from vila2cli.run.stages import Stage
from vila2cli.settings.recipe import Recipe

_HEAD = """\
# Made by `vila2 run --print make`. Each target is a file that its stage writes last.
VILA2 ?= vila2
EQUALS := =
.DELETE_ON_ERROR:
"""


def rules(
    stages: Sequence[Stage], goals: Mapping[str, Sequence[str]], recipe: Recipe, flags: Sequence[str]
) -> Iterator[str]:
    """The lines of a makefile: a target for each of the `goals`, and a rule for every stage.

    `goals` names the stages that each target is complete with. `flags` are the recipe and settings that
    follow the words of a stage. Raises RecipeError for what make cannot hold: a setting of several lines, a
    file with ; in its name.
    """
    if broken := [flag for flag in flags if "\n" in flag]:
        first = broken[0].splitlines()[0]
        raise RecipeError(f"--set {first}...: make cannot hold a line break; write it into a recipe")
    by_name = {stage.name: stage for stage in stages}
    yield from _HEAD.splitlines()
    yield "RECIPE_AND_SETTINGS := " + _words(flags).replace("#", "\\#")
    for target, names in goals.items():
        needed = " ".join(_needed(marker) for name in names for marker in by_name[name].markers)
        yield f".PHONY: {_needed(target)}"
        yield f"{_made(target)}: {needed}"
        places = dict.fromkeys(str(by_name[name].out.parent) for name in names)
        yield f"\t@echo {_words([f'{target} is complete: ' + ', '.join(places)])}"
    for stage in stages:
        yield ""
        before = [marker for name in stage.after for marker in by_name[name].markers]
        if recipe.path is not None and stage.kind != "world" and set(stage.after) <= {"world"}:
            before.append(recipe.path)
        outs = " ".join(_made(marker) for marker in stage.markers)
        # Only a group is complete with several files.
        yield f"{outs}{' &' if stage.beside else ''}: {' '.join(map(_needed, before))}".rstrip()
        yield f"\t$(VILA2) {_words(stage.words)} $(RECIPE_AND_SETTINGS)"
        yield f"\t@touch {_words(map(str, stage.markers))}"


def _made(path: Path | str) -> str:
    """A file as make reads it in front of the colon of a rule, where % would stand for anything."""
    return _needed(path).replace("%", "\\%")


def _needed(path: Path | str) -> str:
    """A file as make reads it behind the colon; raises RecipeError for one that make cannot name."""
    text = str(path)
    if held := re.search(r"[;|\\\t]|^~", text):
        raise RecipeError(f"{text}: make cannot hold {held[0]!r} in the name of a file; rename it")
    return re.sub(r"([ #:*?\[])", r"\\\1", text.replace("$", "$$")).replace("=", "$(EQUALS)")


def _words(words: Iterable[str]) -> str:
    """Words as the shell of a recipe line reads them."""
    return shlex.join(words).replace("$", "$$")
