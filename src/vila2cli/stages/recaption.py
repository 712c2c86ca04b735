"""`vila2 recaption`: new captions for pretraining images, by the last round's model (VILA^2 section 2.1)."""

from collections.abc import Sequence
from pathlib import Path

from vila2cli.captioning import captioner
from vila2cli.captioning.estimate import Estimate
from vila2cli.captioning.estimate import estimate as estimate_job
from vila2cli.captioning.layer import Job, write_layer
from vila2cli.captioning.summary import CaptionSummary
from vila2cli.run.folder import Worker
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import open_source


def recaption(
    recipe: Recipe,
    *,
    shards: Sequence[str],
    model: str | Path,
    out: str | Path,
    round: int | None,
    worker: Worker | None = None,
    base: str | None = None,
) -> CaptionSummary:
    """Caption the worker's part of `shards` into the layer folder `out`, going on where it stopped.

    One prompt of the recipe is drawn per image, the same for every worker split. Raises
    RecipeError when `out` was begun with other settings, ModelError, DataError, Interrupted after a
    signal, and RejectBudgetError once everything is written when too much of it was unusable.
    """
    job = to_job(recipe, shards, str(model), round, base)
    return write_layer(job, Path(out), worker or Worker())


def estimate(
    recipe: Recipe, *, shards: Sequence[str], model: str | Path, round: int | None, base: str | None = None
) -> Estimate:
    """What recaptioning will cost, from the first 64 images; nothing is written."""
    return estimate_job(to_job(recipe, shards, str(model), round, base))


def to_job(recipe: Recipe, shards: Sequence[str], model: str, round: int | None, base: str | None) -> Job:
    """Captioning as a job over these shards; raises RecipeError for settings that cannot be met."""
    captioner.check_settings(recipe)
    return Job(
        layer=captioner.LAYER,
        recipe=recipe,
        settings=recipe.recaption,
        make_task=captioner.Captioner,
        deciding=captioner.decisive_settings(recipe),
        source=open_source(shards, base=base),
        model=model,
        round=round,
    )
