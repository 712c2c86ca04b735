"""`vila2 recaption --rewrite`: alt-text and recaption merged by a language model (POINTS section 3.1)."""

from collections.abc import Sequence
from pathlib import Path

from vila2cli.captioning import rewriter
from vila2cli.captioning.estimate import Estimate
from vila2cli.captioning.estimate import estimate as estimate_job
from vila2cli.captioning.layer import Job, write_layer
from vila2cli.captioning.summary import CaptionSummary
from vila2cli.errors import DataError
from vila2cli.run.folder import Worker
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import open_source


def rewrite(
    recipe: Recipe,
    *,
    shards: Sequence[str],
    model: str | Path,
    out: str | Path,
    round: int | None,
    worker: Worker | None = None,
    base: str | None = None,
) -> CaptionSummary:
    """Merge the two captions of each sample of a recaption layer into the layer folder `out`.

    Where a merge fails the checks or says what neither caption says, the captions named in
    rewrite.fallback are joined instead. Raises as `recaption` does, and DataError when `shards`
    hold no recaptions.
    """
    job = to_job(recipe, shards, str(model), round, base)
    return write_layer(job, Path(out), worker or Worker())


def estimate(
    recipe: Recipe, *, shards: Sequence[str], model: str | Path, round: int | None, base: str | None = None
) -> Estimate:
    """What rewriting will cost, from the first 64 samples; nothing is written."""
    return estimate_job(to_job(recipe, shards, str(model), round, base))


def to_job(recipe: Recipe, shards: Sequence[str], model: str, round: int | None, base: str | None) -> Job:
    """Rewriting as a job over a recaption layer; raises RecipeError for settings that cannot be met."""
    rewriter.check_settings(recipe)
    source = open_source(shards, base=base)
    if not any(layer.name == rewriter.RECAPTION for layer in source.layers):
        raise DataError(
            "--rewrite merges alt-text and recaptions, and these shards have no recaption layer over them; "
            "give the folder that vila2 recaption wrote"
        )
    return Job(
        layer=rewriter.LAYER,
        recipe=recipe,
        settings=recipe.rewrite,
        make_task=rewriter.Rewriter,
        deciding=rewriter.decisive_settings(recipe),
        source=source,
        model=model,
        round=round,
    )
