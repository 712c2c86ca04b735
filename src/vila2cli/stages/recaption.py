"""`vila2 recaption`: new captions for pretraining images, by the last round's model (VILA^2 section 2.1).

Several caption layers are written in one pass over the images.
With --rewrite alt-text and recaption are merged by a language model (POINTS section 3.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vila2cli.ask.estimate import CostEstimate
from vila2cli.ask.estimate import estimate as estimate_jobs
from vila2cli.ask.fill import SampleTask
from vila2cli.ask.job import Job, write_layers
from vila2cli.ask.provenance import Provenance
from vila2cli.captioning import captioner, rewriter
from vila2cli.captioning.captioner import LAYER
from vila2cli.captioning.layers import check_used, in_order, layers_used
from vila2cli.captioning.summary import CaptionSummary, over_budget, summarise
from vila2cli.errors import DataError
from vila2cli.run.drafting import as_begun, note_of
from vila2cli.run.folder import to_manifest
from vila2cli.run.workers import Worker
from vila2cli.settings import AskingStage
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
    limit: int | None = None,
) -> CaptionSummary:
    """Caption the worker's part of `shards` into the layer folder `out`, going on where it stopped.

    One prompt of the recipe is drawn per image, the same for every worker split. With `rewrite` the two
    captions of each sample of a recaption layer are merged instead; where a merge fails the checks or says what
    neither caption says, the captions named in rewrite.fallback are joined. With a `limit` the first so many
    samples are all there are. Raises as `write_layers` does, and
    DataError when there are no recaptions to rewrite.
    """
    source = open_source(shards, base=base, limit=limit)
    job = to_job(as_begun(recipe, [Path(out)]), source, str(model), round, rewrite=rewrite)
    return write_layers([(job, Path(out))], worker)[0]


def write_captions(
    recipe: Recipe,
    outs: Mapping[str, Path],
    *,
    shards: Sequence[str],
    model: str | Path,
    round: int | None,
    worker: Worker | None = None,
    base: str | None = None,
    limit: int | None = None,
) -> list[CaptionSummary]:
    """Write several caption layers in one pass, each into its folder of `outs`; summaries in that order.

    Every image is read and decoded once. A layer whose prompts take another's caption waits for it sample by
    sample. Raises as `recaption` does.
    """
    recipe = as_begun(recipe, outs.values())
    jobs = to_jobs(recipe, list(outs), open_source(shards, base=base, limit=limit), str(model), round)
    summaries = write_layers([(job, outs[job.layer]) for job in jobs], worker)
    by_layer = {job.layer: summary for job, summary in zip(jobs, summaries, strict=True)}
    return [by_layer[layer] for layer in outs]


def estimate(
    recipe: Recipe,
    *,
    shards: Sequence[str],
    model: str | Path,
    round: int | None,
    base: str | None = None,
    rewrite: bool = False,
    layers: Sequence[str] = (LAYER,),
) -> CostEstimate:
    """What a pass will cost, from the first 64 samples; nothing is written."""
    source = open_source(shards, base=base)
    if rewrite:
        return estimate_jobs([to_job(recipe, source, str(model), round, rewrite=True)])
    return estimate_jobs(to_jobs(recipe, layers, source, str(model), round))


def check_settings(recipe: Recipe, *, rewrite: bool, layers: Sequence[str] = (LAYER,)) -> None:
    """Raise RecipeError for settings that cannot be met."""
    if rewrite:
        rewriter.check_settings(recipe)
        return
    for layer in layers:
        captioner.check_settings(recipe, layer)
    in_order(recipe, layers)


def to_jobs(
    recipe: Recipe, layers: Sequence[str], source: Source, model: str, round: int | None
) -> list[Job[CaptionSummary]]:
    """The jobs of several caption layers, in an order in which they can be written in one pass.

    Raises RecipeError for a prompt that takes a layer which is neither among these nor of the shards.
    """
    jobs: dict[str, Job[CaptionSummary]] = {}
    for layer in in_order(recipe, layers):
        check_used(recipe, layer, layers, {info.name for info in source.layers})
        taken = {name.partition("@")[0] for name in layers_used(recipe, layer)}
        used = {name: job for name, job in jobs.items() if name in taken}
        jobs[layer] = to_job(recipe, source, model, round, layer=layer, used=used)
    return list(jobs.values())


def to_job(
    recipe: Recipe,
    source: Source,
    model: str,
    round: int | None,
    *,
    rewrite: bool = False,
    layer: str = LAYER,
    used: Mapping[str, Job[CaptionSummary]] = MappingProxyType({}),
) -> Job[CaptionSummary]:
    """Captioning or rewriting as a job over this source; raises as `recaption` does before it begins.

    `used` are the jobs of the same pass whose captions its prompts take.
    """
    check_settings(recipe, rewrite=rewrite, layers=[layer])
    layer = rewriter.LAYER if rewrite else layer
    stage: AskingStage = "rewrite" if rewrite else "recaption"
    settings = recipe.rewrite if rewrite else recipe.captions_of(layer)
    table = stage if rewrite or layer == LAYER else f"captions.{layer}"
    if rewrite:
        _check_recaptioned(source)
    provenance = Provenance.of(model, settings, recipe.api, recipe.engine_of(stage), round)

    def make_task(engine: str) -> SampleTask[Any]:
        known = replace(provenance, engine=engine)
        return rewriter.Rewriter(recipe, known) if rewrite else captioner.Captioner(recipe, known, layer)

    return Job(
        layer=layer,
        stage=stage,
        recipe=recipe,
        source=source,
        inputs=_inputs(recipe, stage, layer, source, provenance, used),
        model=model,
        settings=settings,
        pass_of="" if rewrite else "captions",
        uses=tuple(used),
        make_task=make_task,
        summarise=lambda layer: summarise(
            layer.folder, stage=stage, source=source, provenance=provenance, cost=recipe.cost
        ),
        problem=partial(over_budget, max_reject_rate=settings.max_reject_rate, table=table),
        max_reject_rate=settings.max_reject_rate,
        table=table,
        title=layer,
        note="" if rewrite else note_of(recipe, settings.engine),
    )


def _inputs(
    recipe: Recipe,
    stage: AskingStage,
    layer: str,
    source: Source,
    provenance: Provenance,
    used: Mapping[str, Job[CaptionSummary]],
) -> dict[str, Any]:
    """What decides a layer of captions."""
    rewrite = stage == "rewrite"
    settings = recipe.rewrite if rewrite else recipe.captions_of(layer)
    decisive = rewriter.decisive_settings(recipe) if rewrite else captioner.decisive_settings(recipe, layer)
    return {
        "stage": stage,
        "round": provenance.round,
        **({"draw": provenance.draw} if provenance.round is None else {}),
        "seed": recipe.seed,
        "model_sha256": provenance.model_sha256,
        **provenance.dtype,
        **decisive,
        **({"uses": {name: to_manifest(job.inputs).digest for name, job in used.items()}} if used else {}),
        **({"api": recipe.api.deciding()} if settings.engine == "api" else {}),
        "base": source.outline(),
        **filter_inputs(source.layers),
    }


def _check_recaptioned(source: Source) -> None:
    if not any(layer.name == rewriter.RECAPTION for layer in source.layers):
        raise DataError(
            "--rewrite merges alt-text and recaptions, and these shards have no recaption layer over them; "
            "give the folder that vila2 recaption wrote"
        )
