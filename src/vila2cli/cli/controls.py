"""Controls of the final model, each a `--round` of its own: is it the specialists' answers that help?

`final-direct` puts the specialists' own training data straight into pretraining, without their answers;
`final-equal-compute` has neither, and as many more passes as give the final model's number of tokens;
`final-only-NAME` has the answers of one specialist.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vila2cli.errors import RecipeError
from vila2cli.files import read_json
from vila2cli.run.folder import RunFolder
from vila2cli.run.stages import DIRECT, EQUAL_COMPUTE, ONLY
from vila2cli.settings.recipe import Recipe

_CONTROL = re.compile(rf"{DIRECT}|{EQUAL_COMPUTE}|{ONLY}[a-z][a-z0-9-]*")


def is_final(round_text: str) -> bool:
    """Whether `--round` names the final training or one of its controls."""
    return round_text == "final" or _CONTROL.fullmatch(round_text) is not None


def answering(recipe: Recipe, round_text: str) -> list[str]:
    """The specialists whose answers the final training, or a control of it, is given."""
    names = list(recipe.specialists)
    if not round_text.startswith(ONLY):
        return names if round_text == "final" else []
    name = round_text.removeprefix(ONLY)
    if name not in names:
        raise RecipeError(f"--round {round_text}: the recipe has no [specialists.{name}]; it has {names}")
    return [name]


def mixed_in(recipe: Recipe, round_text: object) -> Mapping[str, Sequence[str]]:
    """Task shards by specialist that a control pretrains on beside the captions."""
    if round_text != DIRECT:
        return {}
    return {f"specialist-{name}": one.data for name, one in recipe.specialists.items()}


def equal_epochs(recipe: Recipe) -> float:
    """Passes over the last round's data that give as many training tokens as the final model had.

    Raises RecipeError before the final model is trained, as nobody knows how much it takes.
    """
    folder = RunFolder(recipe.run_dir)
    last = folder.stage("pretrain", recipe.rounds) / "vila2.json"
    final = folder.stage("pretrain", None) / "vila2.json"
    for path in (last, final):
        if not path.is_file():
            raise RecipeError(f"--round {EQUAL_COMPUTE} takes its length from {path}, which is not there yet")
    epochs = float(read_json(last)["settings"]["main"]["epochs"])
    return round(epochs * _num_tokens(final) / _num_tokens(last), 3)


def _num_tokens(path: Path) -> int:
    return int(read_json(path)["phases"][-1]["num_tokens"])
