"""`vila2 recaption`: new captions for pretraining images, by the last round's model (VILA^2 section 2.1).

With --rewrite alt-text and recaption are merged by a language model (POINTS section 3.1).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vila2cli.ask.estimate import Estimate
from vila2cli.ask.estimate import estimate as estimate_job
from vila2cli.ask.fill import Task
from vila2cli.ask.job import Job, write_layers
from vila2cli.ask.provenance import Provenance
from vila2cli.captioning import captioner, rewriter
from vila2cli.captioning.summary import CaptionSummary, over_budget, summarise
from vila2cli.errors import DataError
from vila2cli.run.folder import Worker
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Source, open_source
from vila2cli.text.compose import filter_inputs


def recaption(
    recipe: Recipe,
    *,
    shards: Sequence[str],
    model: str | Path,
    out: str | Path,
    round: int | None,
    worker: Worker | None = None,
    base: str | None = None,
    rewrite: bool = False,
) -> CaptionSummary:
    """Caption the worker's part of `shards` into the layer folder `out`, going on where it stopped.

    One prompt of the recipe is drawn per image, the same for every worker split. With `rewrite` the two
    captions of each sample of a recaption layer are merged instead; where a merge fails the checks or says what
    neither caption says, the captions named in rewrite.fallback are joined. Raises as `write_layers` does, and
    DataError when there are no recaptions to rewrite.
    """
    job = to_job(recipe, shards, str(model), round, base, rewrite=rewrite)
    return write_layers([(job, Path(out))], worker)[0]


def estimate(
    recipe: Recipe,
    *,
    shards: Sequence[str],
    model: str | Path,
    round: int | None,
    base: str | None = None,
    rewrite: bool = False,
) -> Estimate:
    """What `recaption` will cost, from the first 64 samples; nothing is written."""
    return estimate_job(to_job(recipe, shards, str(model), round, base, rewrite=rewrite))


def check_settings(recipe: Recipe, *, rewrite: bool) -> None:
    """Raise RecipeError for settings that cannot be met."""
    (rewriter if rewrite else captioner).check_settings(recipe)


def to_job(
    recipe: Recipe,
    shards: Sequence[str],
    model: str,
    round: int | None,
    base: str | None,
    *,
    rewrite: bool = False,
) -> Job[CaptionSummary]:
    """Captioning or rewriting as a job over these shards; raises as `recaption` does before it begins."""
    check_settings(recipe, rewrite=rewrite)
    stage = rewriter if rewrite else captioner
    settings = recipe.rewrite if rewrite else recipe.recaption
    source = open_source(shards, base=base)
    if rewrite:
        _check_recaptioned(source)
    provenance = Provenance.of(model, settings, recipe.api, recipe.engine_of(stage.LAYER), round)

    def make_task(engine: str) -> Task[Any]:
        known = replace(provenance, engine=engine)
        return rewriter.Rewriter(recipe, known) if rewrite else captioner.Captioner(recipe, known)

    return Job(
        layer=stage.LAYER,
        stage=stage.LAYER,
        recipe=recipe,
        source=source,
        inputs={
            "stage": stage.LAYER,
            "round": round,
            **({"draw": provenance.draw} if round is None else {}),
            "seed": recipe.seed,
            "model_sha256": provenance.model_sha256,
            **provenance.dtype,
            **stage.decisive_settings(recipe),
            **({"api": recipe.api.deciding()} if settings.engine == "api" else {}),
            "base": source.outline(),
            **filter_inputs(source.layers),
        },
        model=model,
        settings=settings,
        make_task=make_task,
        summarise=lambda layer: summarise(
            layer.folder, stage=stage.LAYER, source=source, provenance=provenance, cost=recipe.cost
        ),
        to_json=CaptionSummary.to_json,
        problem=partial(over_budget, max_reject_rate=settings.max_reject_rate),
        max_reject_rate=settings.max_reject_rate,
        title=stage.LAYER,
    )


def _check_recaptioned(source: Source) -> None:
    if not any(layer.name == rewriter.RECAPTION for layer in source.layers):
        raise DataError(
            "--rewrite merges alt-text and recaptions, and these shards have no recaption layer over them; "
            "give the folder that vila2 recaption wrote"
        )
