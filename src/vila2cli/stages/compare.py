"""`vila2 eval compare`: two evals of the same tasks, sample by sample."""

from pathlib import Path

from vila2cli.evaluation.comparing import Comparison, compare_headlines
from vila2cli.settings.recipe import Recipe


def compare(
    recipe: Recipe, *, first: str | Path, second: str | Path, difference: float | None = None
) -> Comparison:
    """The headline changes of all tasks that two eval folders share, with adjusted p-values.

    How many samples the next eval needs is said for `difference`, else for the difference that was found.
    Raises as `compare_headlines` does.
    """
    changes = compare_headlines(
        Path(first),
        Path(second),
        wanted=difference,
        num_bootstrap=recipe.eval.num_bootstrap,
        seed=recipe.seed,
    )
    return Comparison(changes)
