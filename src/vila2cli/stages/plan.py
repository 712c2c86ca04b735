"""`vila2 plan`: what a run will take, stage by stage."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from vila2cli.run.forecast import Forecasts, count_data, forecast, measured_rates, with_sizes
from vila2cli.run.stages import SPECIALISTS, plan_stages
from vila2cli.settings.recipe import Recipe


def plan(
    recipe: Recipe,
    *,
    target: str | None = None,
    sizes: Mapping[str, int] = MappingProxyType({}),
    rates: Path | None = None,
) -> Forecasts:
    """The hours and dollars of every stage that a target needs, by default of all that the recipe has.

    `sizes` are numbers of samples in place of those counted, and `rates` is the run whose speed counts, by
    default the recipe's own. Raises RecipeError for a target, or data, that the recipe does not have.
    """
    targets = [target or SPECIALISTS] if target or recipe.specialists else []
    stages = [stage for stage in plan_stages(recipe, *targets) if stage.kind != "world"]  # is drawn in seconds
    counts = with_sizes(count_data(recipe), sizes)
    return Forecasts(tuple(forecast(stages, recipe, counts, measured_rates(rates or recipe.run_dir))))
