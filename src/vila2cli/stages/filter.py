"""`vila2 filter`: which captions and images are worth training on (POINTS section 3.2).

Two passes. The first scores every sample, shard by shard and by as many workers as there are, into
the layer OUT/scores. The second compares all of them and writes the filter layer OUT: it reads only
scores, so other thresholds cost no model and no image. The worker that finds the last shard scored
runs it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.cost import cost_of
from vila2cli.engine import EngineSettings, dtype_of, identify, open_engine
from vila2cli.errors import RecipeError, RejectBudgetError
from vila2cli.files import read_json
from vila2cli.filtering.deciding import select, write_layer
from vila2cli.filtering.measure import Measure
from vila2cli.filtering.scoring import LAYER as SCORES_LAYER
from vila2cli.filtering.scoring import Scoring, ShardScorer
from vila2cli.model.checkpoint import resolve_model, weights_sha256
from vila2cli.places import tar_stem
from vila2cli.progress import Progress
from vila2cli.recipe import Recipe
from vila2cli.run import Manifest, Worker, api_key, claim, difference, lock, read_manifest, write_json
from vila2cli.run import select as select_shards
from vila2cli.sample import Annotation
from vila2cli.score.perplexity import NEEDS
from vila2cli.score.selection import Cut, Selection
from vila2cli.score.task import TASK_FILE
from vila2cli.settings import FilterSettings
from vila2cli.shards import (
    LayerWriter,
    Shard,
    Source,
    done,
    expected_samples,
    folder_stats,
    open_layer,
    open_source,
)
from vila2cli.stopping import Stop, interruptible
from vila2cli.text.compose import FILTER
from vila2cli.text.prompts import prompt_sha256, prompt_text

SCORES_DIR = "scores"
_MADE_ANEW = ("settings", "seed", "held_out")
"""What of a filter layer's manifest may change: it is then decided anew over the same scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One call of the stage with its inputs settled."""

    recipe: Recipe
    source: Source
    out_dir: Path
    model: str | None
    provenance: tuple[str, str] | None  # the model's full name and the SHA-256 of its weights
    round: int | None
    held_out: Source | None

    @property
    def settings(self) -> FilterSettings:
        return self.recipe.filter

    @property
    def dtype(self) -> dict[str, str]:
        """What provenance says of the number format the model runs in."""
        return {} if self.model is None else dtype_of(self.settings.engine, self.model, self.settings.dtype)

    @property
    def scores_dir(self) -> Path:
        return self.out_dir / SCORES_DIR


def control_dir(out_dir: Path) -> Path:
    """Where the random control of a filter layer lies."""
    return out_dir.with_name(f"{out_dir.name}-random")


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
) -> dict[str, Any]:
    """Score the worker's part of `shards`; when all of them are scored, write the filter layer `out`.

    Images of `tasks` (default: `eval.tasks` of the recipe) are dropped. With `random` a control of as
    many samples drawn at random is written to `out-random`. Returns what summary.json holds, or only
    how far the scoring is ("decided" is false). Raises RecipeError for settings that contradict each
    other or what `out` was scored with, ModelError, DataError, Interrupted after a signal, and
    RejectBudgetError once everything is written when too much of it could not be scored.
    """
    check_settings(recipe.filter, model)
    out_dir, worker = Path(out), worker or Worker()
    for folder in [out_dir, control_dir(out_dir)] if random else [out_dir]:
        _refuse_foreign(folder)
    held_out = _with_tasks(tasks or recipe.eval.tasks) if recipe.filter.overlap != "none" else []
    asked = str(model) if model is not None and recipe.filter.needs_model else None
    job = _Job(
        recipe=recipe,
        source=open_source(shards, base=base),
        out_dir=out_dir,
        model=asked,
        provenance=None if asked is None else identify(recipe.filter.engine, asked, recipe.api),
        round=round,
        held_out=open_source(held_out) if held_out else None,
    )
    with interruptible() as stop:
        manifest = claim(job.scores_dir, scoring_inputs(job), recipe)
        with lock(job.scores_dir, worker):
            layer = open_layer(
                job.scores_dir, layer=SCORES_LAYER, source=job.source, manifest={"digest": manifest.digest}
            )
            with stop.at_once():
                todo = layer.missing(select_shards(job.source.shards, worker))
            if todo:
                _score(job, layer, todo, stop)
            layer.finish()
        num_scored = len({shard.name for shard in job.source.shards} & done(job.scores_dir))
        if num_scored < len(job.source.shards):
            return {"decided": False, "num_shards": len(job.source.shards), "num_shards_done": num_scored}
        with layer.alone():  # the others wait, and then find it done
            summary = _decide(job, manifest, random=random, stop=stop)
    check_budget(summary, out_dir, recipe.filter.max_reject_rate)
    return summary


def _with_tasks(specs: Sequence[str]) -> list[str]:
    """Shard specs of evaluation tasks: a folder of task folders stands for them, anything else for itself."""
    inside = {spec: sorted(str(path.parent) for path in Path(spec).glob(f"*/{TASK_FILE}")) for spec in specs}
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
    if problems:
        raise RecipeError("; ".join(problems))


def scoring_inputs(job: _Job) -> dict[str, Any]:
    """Everything that decides the scores; the engine is noted in each of them, but may change on resuming."""
    settings, own = job.settings, job.recipe.prompts
    models = {}
    if job.provenance is not None:
        models["model_sha256"] = job.provenance[1]
        models["prompt_sha256"] = prompt_sha256(settings.prompt, own)
        models |= job.dtype
    if "similarity" in settings.scores:
        models["similarity_model_sha256"] = weights_sha256(resolve_model(settings.similarity_model))
    return {"stage": SCORES_LAYER, "settings": settings.scoring(), "base": job.source.outline(), **models}


def _score(job: _Job, layer: LayerWriter, todo: Sequence[Shard], stop: Stop) -> None:
    settings, recipe = job.settings, job.recipe
    blank = Annotation(layer=SCORES_LAYER, kind="score", round=job.round)
    engine = None
    if job.model is not None and job.provenance is not None:
        engine_settings = EngineSettings(
            dtype=settings.dtype,
            batch_size=settings.batch_size,
            max_images=1,
            api=recipe.api,
            api_key=api_key(recipe.api),
        )
        engine = open_engine(settings.engine, job.model, engine_settings, stop)
        blank = Annotation(
            layer=SCORES_LAYER,
            kind="score",
            round=job.round,
            model=job.provenance[0],
            model_sha256=job.provenance[1],
            prompt_id=settings.prompt,
            prompt_sha256=prompt_sha256(settings.prompt, recipe.prompts),
            sampling={"engine": engine.name, **job.dtype},
        )
    encoder = None
    if "similarity" in settings.scores:
        from vila2cli.model.dual_encoder import DualEncoder

        encoder = DualEncoder(settings.similarity_model)
    scoring = Scoring(
        measure=Measure(settings.captions, settings.language, settings.max_pixels),
        scores=settings.scores,
        blank=blank,
        prompt=prompt_text(settings.prompt, recipe.prompts),
        engine=engine,
        encoder=encoder,
    )
    total, is_exact = expected_samples(todo)
    log_path = job.out_dir / "log.jsonl"
    with Progress("filter", total, log_path=log_path, is_estimate=not is_exact) as progress:
        ShardScorer(scoring, layer, stop=stop, progress=progress).run(todo)


def _decide(job: _Job, scores: Manifest, *, random: bool, stop: Stop) -> dict[str, Any]:
    """Write the filter layer, and the control, where they are not there as these settings want them."""
    decisive = {
        "stage": FILTER,
        "scores": scores.digest,
        "settings": job.settings.deciding(),
        "seed": job.recipe.seed,
        "held_out": job.held_out.digest() if job.held_out is not None else {},
    }
    outputs = {job.out_dir: {**decisive, "control": False}}
    if random:
        outputs[control_dir(job.out_dir)] = {**decisive, "control": True}
    with Progress("filter", len(job.source.shards), "shards", job.out_dir / "log.jsonl") as progress:
        missing = [
            folder for folder, wanted in outputs.items() if not _is_decided(job, folder, wanted, progress)
        ]
        if missing:
            with Selection.open(job.out_dir / ".selection.sqlite") as selection:
                _write(job, selection, outputs, missing, stop)
        progress.advance(len(job.source.shards))
    summary = read_json(job.out_dir / "summary.json")
    if random:
        summary["control"] = read_json(control_dir(job.out_dir) / "summary.json")
    return {"decided": True, **summary}


def _is_decided(job: _Job, folder: Path, wanted: Mapping[str, Any], progress: Progress) -> bool:
    """Claim the folder of a filter layer, after removing decisions over the same scores with other settings."""
    stored = read_manifest(folder)
    if stored is not None and all(
        stored.inputs.get(key) == value for key, value in wanted.items() if key not in _MADE_ANEW
    ):
        was, now = ({key: one.get(key) for key in _MADE_ANEW} for one in (stored.inputs, wanted))
        if was != now:
            progress.note(f"{folder} is decided anew: {difference(was, now)}")
            _clear(folder)
    claim(folder, wanted, job.recipe)
    names = {shard.name for shard in job.source.shards}
    return names <= done(folder) and (folder / "summary.json").is_file()


def _clear(folder: Path) -> None:
    """Remove a layer's files, the manifest last, so that what is left says what it is."""
    tars = sorted(path for path in folder.iterdir() if path.is_file() and tar_stem(path))
    beside = [
        tar.with_name(f"{tar_stem(tar)}.{end}") for tar in tars for end in ("stats.json", "rejects.jsonl")
    ]
    named = [folder / name for name in ("summary.json", "rejects.jsonl", "layer.json", "recipe.toml")]
    for path in [*beside, *tars, *named, folder / "manifest.json"]:
        path.unlink(missing_ok=True)


def _write(
    job: _Job,
    selection: Selection,
    outputs: Mapping[Path, Mapping[str, Any]],
    missing: Sequence[Path],
    stop: Stop,
) -> None:
    settings = job.settings
    cuts = select(
        selection,
        job.source,
        job.scores_dir,
        settings,
        seed=job.recipe.seed,
        held_out=job.held_out,
        stop=stop,
    )
    for folder, wanted in outputs.items():
        is_control = bool(wanted["control"])
        if is_control:
            selection.draw_control()
        if folder in missing:
            open_layer(folder, layer=FILTER, source=job.source, manifest={"digest": read_digest(folder)})
            own = None if is_control else settings
            write_layer(folder, job.source, job.scores_dir, selection.decisions(), own, stop)
            summary = summarise(job, folder, [] if is_control else cuts)
            write_json(folder / "summary.json", summary)


def read_digest(folder: Path) -> str:
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} was claimed"
    return manifest.digest


def summarise(job: _Job, folder: Path, cuts: Sequence[Cut]) -> dict[str, Any]:
    """What summary.json holds: `in = out + dropped`, where the shares were cut, and the cost of the scores."""
    stats = folder_stats(folder, [shard.name for shard in job.source.shards])
    scored = scored_totals(job.scores_dir, job.source)
    model, model_sha256 = job.provenance or (None, None)
    return {
        "stage": FILTER,
        "round": job.round,
        "model": model,
        "model_sha256": model_sha256,
        "num_shards": len(job.source.shards),
        "in": stats.num_in,
        "out": stats.num_out,
        "dropped": dict(stats.dropped),
        "rejected": stats.num_rejected,
        "reject_rate": stats.reject_rate,
        "tokens_in": int(scored["tokens"]),
        "tokens_out": stats.tokens,
        "rank_by": job.settings.rank_by,
        "cuts": [_cut_json(cut, job.settings) for cut in cuts],
        "cost": cost_of(job.recipe.cost, scored).to_json(),
    }


def scored_totals(scores_dir: Path, source: Source) -> Counter[str]:
    """The figures of a score layer summed over its shards."""
    total: Counter[str] = Counter()
    for shard in source.shards:
        stats = read_json(scores_dir / f"{shard.name}.stats.json")
        total.update({name: value for name, value in stats.items() if isinstance(value, int | float)})
    return total


def _cut_json(cut: Cut, settings: FilterSettings) -> dict[str, Any]:
    """One length bucket: its first length in tokens, what it kept, and the score at which it was cut."""
    edges = [0, *sorted(settings.length_buckets)]
    lowest_first = settings.rank_by in ("perplexity", "text-perplexity")
    value = cut.rank if cut.rank is None or lowest_first else -cut.rank
    return {
        "from_tokens": edges[cut.bucket],
        "out": cut.num_kept,
        "in": cut.num_ranked,
        "worst_kept": value,
    }


def check_budget(summary: Mapping[str, Any], out_dir: Path, max_reject_rate: float) -> None:
    """Raise RejectBudgetError when the share of samples that could not be scored is above the limit."""
    if summary["reject_rate"] > max_reject_rate:
        raise RejectBudgetError(
            f"{summary['rejected']} of {summary['in']} samples ({summary['reject_rate']:.1%}) could not be "
            f"scored, above filter.max_reject_rate {max_reject_rate:.1%}; see {out_dir}/rejects.jsonl"
        )


def _refuse_foreign(folder: Path) -> None:
    """Refuse to score for hours towards a folder that belongs to something else."""
    stored = read_manifest(folder) if folder.is_dir() else None
    stage = stored.inputs.get("stage") if stored is not None else None
    shard = next((path for path in folder.iterdir() if tar_stem(path)), None) if folder.is_dir() else None
    if stage not in (None, FILTER) or (stored is None and shard is not None):
        raise RecipeError(f"{folder} holds the output of {stage or 'something else'}; give another --out")
