"""`vila2 filter`: which captions and images are worth training on (POINTS section 3.2).

Two passes. The first scores every sample, shard by shard and by as many workers as there are, into
the layer OUT/scores. The second compares all of them and writes the filter layer OUT: it reads only
scores, so other thresholds cost no model and no image. The worker that finds the last shard scored
runs it. Scores stay with their shard: with one more, or one fewer, only that one is scored, and all are
compared anew.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.ask.job import AskedLayer, Job, counts_of, write_layers
from vila2cli.engine import identify
from vila2cli.errors import DataError, RecipeError
from vila2cli.filtering.choosing import choose
from vila2cli.filtering.job import FilterJob, control_dir
from vila2cli.filtering.layer import decide
from vila2cli.filtering.measure import Measure
from vila2cli.filtering.metadata import Chooser
from vila2cli.filtering.outcome import FilterSummary, check_budget, who
from vila2cli.filtering.perplexity import NEEDS
from vila2cli.filtering.scoring import LAYER as SCORES_LAYER
from vila2cli.filtering.scoring import CaptionScorer, Similarity
from vila2cli.model.checkpoint import model_name, resolve_model, weights_sha256
from vila2cli.run.drafting import as_begun, note_of
from vila2cli.run.folder import read_manifest
from vila2cli.run.locks import lock
from vila2cli.run.splitting import Unfinished
from vila2cli.run.stopping import interruptible
from vila2cli.run.workers import Worker
from vila2cli.score.task import TASK_FILE
from vila2cli.settings import FilterSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Source, done, open_source
from vila2cli.shards.places import redacted, tar_stem
from vila2cli.shards.sample import FILTER, ORIGINAL, Annotation
from vila2cli.text.compose import filter_inputs
from vila2cli.text.prompts import prompt_sha256, prompt_text


def filter_samples(
    recipe: Recipe,
    *,
    shards: Sequence[str],
    out: str | Path,
    model: str | Path | None = None,
    round: int | None = None,
    worker: Worker | None = None,
    base: str | None = None,
    tasks: Sequence[str] = (),
    random: bool = False,
    limit: int | None = None,
) -> FilterSummary | Unfinished:
    """Score the worker's part of `shards`; when all of them are scored, write the filter layer `out`.

    Images of `tasks` (default: `eval.tasks` of the recipe) are dropped. With `random` a control of as
    many samples drawn at random is written to `out-random`. Until all shards are scored, or while another
    worker decides, what is returned is `Unfinished`. With a `limit` the first so many samples are all there
    are. Raises RecipeError for settings that contradict each
    other or what `out` was scored with, ModelError, DataError, Interrupted after a signal, and
    RejectBudgetError once everything is written when too much of it could not be scored or nothing is kept.
    """
    check_settings(recipe.filter, model)
    source = open_source(shards, base=base, limit=limit)
    out_dir, worker = Path(out), worker or Worker()
    for folder in [out_dir, control_dir(out_dir)] if random else [out_dir]:
        _refuse_foreign(folder)
    job = _job(recipe, source, model=model, out_dir=out_dir, round=round, tasks=tasks)
    job = replace(job, recipe=as_begun(recipe, [job.scores_dir]))
    if recipe.filter.needs_header_only and not random and not _has_scores(out_dir):
        summary = choose(job, worker)
        if isinstance(summary, FilterSummary):
            check_budget(summary, out_dir, recipe.filter.max_reject_rate)
        return summary
    try:
        (scored,) = write_layers([(_scoring(job), job.scores_dir)], worker)
    except DataError as error:  # of some shards
        raise DataError(
            f"{error}; {len(done(job.scores_dir) & set(job.names))} of {len(job.names)} shards are scored "
            f"({job.scores_dir}/summary.json), and what is kept is decided when all are"
        ) from error
    num_shards, num_done = scored.num_shards, scored.num_shards_done
    undecided = Unfinished(done="decided", num_shards=num_shards, num_shards_done=num_done)
    if num_done < num_shards:
        return undecided
    manifest = read_manifest(job.scores_dir)
    assert manifest is not None, "its layer was just written"
    with interruptible() as stop, ExitStack() as held:
        try:
            held.enter_context(lock(out_dir))
        except DataError as error:
            if worker.count == 1:
                raise
            return replace(undecided, done_by=str(error))
        summary = decide(job, manifest, random=random, stop=stop)
    check_budget(summary, out_dir, recipe.filter.max_reject_rate)
    return summary


def _job(
    recipe: Recipe,
    source: Source,
    *,
    model: str | Path | None,
    out_dir: Path,
    round: int | None,
    tasks: Sequence[str],
) -> FilterJob:
    settings, similarity = recipe.filter, None
    _check_captions(settings, source)
    if "similarity" in settings.scores:
        weights = weights_sha256(resolve_model(settings.similarity_model))
        similarity = model_name(settings.similarity_model), weights
    asked = str(model) if model is not None and settings.needs_model else None
    held_out = _with_tasks(tasks or recipe.eval.tasks) if settings.overlap != "none" else []
    return FilterJob(
        recipe=recipe,
        source=source,
        out_dir=out_dir,
        model=asked,
        provenance=None if asked is None else identify(settings.engine, asked, recipe.api),
        similarity=similarity,
        round=round,
        tasks=[redacted(spec) for spec in held_out],
        held_out=open_source(held_out) if held_out else None,
    )


def _with_tasks(specs: Sequence[str]) -> list[str | Path]:
    """Shard specs of evaluation tasks: a folder of task folders stands for them, anything else for itself."""
    inside: dict[str, list[str | Path]] = {
        spec: sorted(path.parent for path in Path(spec).glob(f"*/{TASK_FILE}")) for spec in specs
    }
    return [folder for spec, folders in inside.items() for folder in folders or [spec]]


def check_settings(settings: FilterSettings, model: str | Path | None) -> None:
    """Raise RecipeError naming every setting that asks for a score which is not computed."""
    problems = []
    if settings.needs_model and model is None:
        problems.append(f"filter.scores = {list(settings.scores)} needs a model: name one with --model")
    if "similarity" in settings.scores and not settings.similarity_model:
        problems.append("filter.scores has similarity: name a CLIP or SigLIP model in filter.similarity_model")
    missing = [score for score in NEEDS[settings.rank_by] if score not in settings.scores]
    if settings.keep_share < 1 and missing:
        problems.append(f"filter.rank_by = {settings.rank_by} needs {', '.join(missing)} in filter.scores")
    if (
        max(settings.min_similarity, settings.min_sentence_similarity) > -1
        and "similarity" not in settings.scores
    ):
        problems.append("filter.min_similarity and min_sentence_similarity need similarity in filter.scores")
    if settings.length_buckets and not settings.needs_model:
        problems.append("filter.length_buckets needs a perplexity in filter.scores, which counts the tokens")
    if problems:
        raise RecipeError("; ".join(problems))


def _check_captions(settings: FilterSettings, source: Source) -> None:
    """Raise RecipeError for captions that no layer of the source has; the default pair fits plain shards."""
    layers = {layer.name for layer in source.layers}
    unknown = [name for name in settings.captions if name not in layers | {ORIGINAL}]
    is_needed = settings.reads_captions and not layers <= {FILTER}
    is_default = settings.captions == FilterSettings().captions and not is_needed
    if unknown and not is_default:
        raise RecipeError(
            f"filter.captions names {', '.join(unknown)}, and no such layer lies over the shards; they have "
            f"{', '.join([ORIGINAL, *sorted(layers)])}: set filter.captions, or give the layer with --shards"
        )


def scoring_inputs(job: FilterJob) -> dict[str, Any]:
    """Everything that decides a sample's scores, whatever other shards there are.

    The engine is in layer.json, and what each shard was made from in its stats file.
    """
    settings, recipe = job.settings, job.recipe
    models: dict[str, Any] = {}
    if job.provenance is not None:
        models["model_sha256"] = job.provenance[1]
        models["prompt_sha256"] = prompt_sha256(settings.prompt, recipe.prompts)
        models |= job.dtype
        if settings.engine == "api":
            models["api"] = recipe.api.deciding()
    if job.similarity is not None:
        models["similarity_model_sha256"] = job.similarity[1]
    return {
        "stage": SCORES_LAYER,
        "settings": settings.scoring(),
        **recipe.data.limits(),
        "separator": recipe.pretrain.main.separator,
        **filter_inputs(job.source.layers),
        **job.source.limit(),
        **models,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresSummary(AskedLayer):
    """The counts of a layer of scores, and by which model they are."""

    stage: str
    round: int | None
    model: str | None
    model_sha256: str | None


def _scoring(job: FilterJob) -> Job[ScoresSummary]:
    """The layer of scores, to be written."""
    settings, recipe = job.settings, job.recipe
    measure = Measure(
        settings.captions,
        recipe.pretrain.main.separator,
        recipe.data.max_pixels,
        settings.reads_captions,
        settings.decodes_pictures,
        Chooser(settings) if settings.by_metadata else None,
        draft=recipe.data.draft,
        shows="perplexity" in settings.scores,
    )
    prompt = prompt_text(settings.prompt, recipe.prompts)
    drawn = _drawn(recipe)
    notes = (
        drawn and f"pretraining draws per image ({drawn}); scored are the best captions in their order",
        note_of(recipe, settings.engine if job.model else ""),
    )
    return Job(
        layer=SCORES_LAYER,
        stage="filter",
        recipe=recipe,
        source=job.source,
        inputs=scoring_inputs(job),
        model=job.model,
        settings=settings,
        make_task=lambda engine: CaptionScorer(measure, settings.scores, _blank(job, engine), prompt),
        together=None if job.similarity is None else Similarity(settings.similarity_model),
        summarise=lambda layer: ScoresSummary(
            stage=SCORES_LAYER, **who(job), **counts_of(layer.folder, job.names, recipe.cost)
        ),
        problem=lambda summary: None,
        title=FILTER,
        note="; ".join(filter(None, notes)),
        log_path=job.log_path,
        may_grow=True,
    )


def _blank(job: FilterJob, engine: str) -> Annotation:
    """The record of a sample before its scores: where they come from."""
    settings, recipe = job.settings, job.recipe
    sampling: dict[str, Any] = {}
    if engine:
        sampling |= {"engine": engine, **job.dtype}
    if job.similarity is not None:
        sampling |= dict(zip(("similarity_model", "similarity_model_sha256"), job.similarity, strict=True))
    model, model_sha256 = job.provenance or job.similarity or (None, None)
    return Annotation(
        layer=SCORES_LAYER,
        kind="score",
        round=job.round,
        model=model,
        model_sha256=model_sha256,
        prompt_id=None if not engine else settings.prompt,
        prompt_sha256=None if not engine else prompt_sha256(settings.prompt, recipe.prompts),
        sampling=sampling,
    )


def _drawn(recipe: Recipe) -> str:
    """The settings of pretraining under which it may join the captions in another way than was scored."""
    names = ("draw_candidate", "shuffle_captions", "caption_dropout")
    return ", ".join(name for name in names if getattr(recipe.pretrain.main, name))


def _has_scores(out_dir: Path) -> bool:
    """Whether a filter layer was decided over a layer of scores, as one with a random control is."""
    stored = read_manifest(out_dir) if out_dir.is_dir() else None
    return stored is not None and "scores" in stored.inputs


def _refuse_foreign(folder: Path) -> None:
    """Refuse to score for hours towards a folder that belongs to something else."""
    stored = read_manifest(folder) if folder.is_dir() else None
    stage = stored.inputs.get("stage") if stored is not None else None
    shard = next((path for path in folder.iterdir() if tar_stem(path)), None) if folder.is_dir() else None
    if stage not in (None, FILTER) or (stored is None and shard is not None):
        raise RecipeError(f"{folder} holds the output of {stage or 'something else'}; give another --out")
