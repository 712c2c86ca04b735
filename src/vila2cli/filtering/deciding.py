"""From a layer of scores to a filter layer: which samples are kept, and why the others are not.

Only score tars are read, no image, so deciding again takes no model and a fraction of the time.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.filtering.image_hash import image_hash
from vila2cli.filtering.job import FilterJob
from vila2cli.filtering.measure import NOT_MET, TOP
from vila2cli.filtering.metadata import below_top
from vila2cli.filtering.perplexity import length_bucket, rank_value
from vila2cli.filtering.selection import Candidate, Cut, Decision, Selection
from vila2cli.image import decode_image
from vila2cli.run.folder import digest
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.settings import FilterSettings
from vila2cli.shards import (
    LayerWriter,
    ShardStats,
    Source,
    gather_rejects,
    layer_tar,
    made_from,
    read_rejects,
    read_shard,
    write_layer_shard,
)
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.records import recorded
from vila2cli.shards.sample import FILTER, Annotation, Reject
from vila2cli.text.language import LANGUAGES
from vila2cli.text.prompts import stable_hash

Scores = Mapping[str, Any]


@dataclass(slots=True)
class HeldOut:
    """How many evaluation images were compared: those not `undecodable` also by their hash.

    `num_rejected` counts samples of tasks that cannot be read, and are compared with nothing.
    """

    num_images: int = 0
    num_undecodable: int = 0
    num_rejected: int = 0


def own_reasons(scores: Scores, settings: FilterSettings) -> list[str]:
    """Why a sample is dropped by itself, [] for no reason; it counts under the first."""
    if "unusable" in scores:
        return [scores["unusable"]]
    num_words = scores["num_words"]
    languages = scores.get("languages", LANGUAGES)  # of no caption, where none is asked for
    is_foreign = settings.language != "" and settings.language not in languages
    broken = {
        **dict.fromkeys(scores.get(NOT_MET, ()), True),
        **{defect: defect in settings.text_defects for defect in scores.get("defects", ())},
        "wrong-language": is_foreign and "wrong-language" in settings.text_defects,
        "too-short": num_words < settings.min_words,
        "too-long": settings.max_words > 0 and num_words > settings.max_words,
        "low-similarity": scores.get("similarity", 1.0) < settings.min_similarity,
        "low-sentence-similarity": scores.get("sentence_similarity_min", 1.0)
        < settings.min_sentence_similarity,
    }
    return [reason for reason, is_broken in broken.items() if is_broken]


def candidates(shard: str, scores_dir: Path, settings: FilterSettings, seed: int) -> Iterator[Candidate]:
    """The samples of one scored shard, by key."""
    for key, annotation in read_annotation_tar(layer_tar(scores_dir, shard)):
        scores = annotation.scores
        num_tokens = int(scores.get("num_tokens", 0))
        yield Candidate(
            id=(shard, key),
            reason=next(iter(own_reasons(scores, settings)), None),
            is_usable="unusable" not in scores,
            image_sha256=annotation.image_sha256,
            image_hash=scores.get("image_hash", ""),
            rank=rank_value(scores, settings.rank_by),
            bucket=length_bucket(num_tokens, settings.length_buckets),
            top=scores.get(TOP),
            tie=stable_hash("tie", seed, shard, key),
            lot=stable_hash("lot", seed, shard, key),
            num_tokens=num_tokens,
        )


def held_out_images(
    source: Source, max_pixels: int, counts: HeldOut, on_image: Callable[[], None]
) -> Iterator[tuple[str, str, str]]:
    """SHARD/KEY, SHA-256 and hash of every evaluation image; the hash is "" where it cannot be decoded."""

    def reject(_: Reject) -> None:
        counts.num_rejected += 1

    for shard in source.shards:
        for sample in read_shard(shard, on_reject=reject):
            for image in sample.images:
                on_image()
                counts.num_images += 1
                try:
                    hash_text = str(image_hash(decode_image(image.data, max_pixels=max_pixels)))
                except DataError:
                    counts.num_undecodable += 1
                    hash_text = ""
                yield f"{shard.name}/{sample.key}", hashlib.sha256(image.data).hexdigest(), hash_text


def select(selection: Selection, job: FilterJob, stop: Stop) -> tuple[list[Cut], HeldOut]:
    """Run all rules of a filter; returns where the kept share was cut, and what was held out.

    There is no cut when everything that is left is kept.
    """
    settings, held_out = job.settings, HeldOut()
    with _step(job, "reading scores", len(job.source.shards), "shards") as progress:
        for name in job.names:
            stop.check()
            selection.add(candidates(name, job.scores_dir, settings, job.recipe.seed))
            progress.advance()
    distances = {"none": None, "exact": None, "perceptual": settings.max_distance}
    if job.held_out is not None:
        with _step(job, "evaluation images", None, "images") as progress:
            tick = _ticking(progress, stop)
            images = held_out_images(job.held_out, job.recipe.data.max_pixels, held_out, lambda: tick(1))
            selection.drop_overlap(images, distances[settings.overlap], lambda num: stop.check())
    if settings.duplicates != "none":
        num_left, _ = selection.totals().get(None, (0, 0))
        with _step(job, "duplicates", num_left, "samples") as progress:
            selection.drop_duplicates(distances[settings.duplicates], _ticking(progress, stop))
    if settings.top.field:
        selection.keep_top(settings.top.share, below_top(settings), per_shard=settings.top.per == "shard")
    cuts = selection.keep_lowest(settings.keep_share, settings.rank_by) if settings.keep_share < 1 else []
    return cuts, held_out


def _step(job: FilterJob, step: str, total: int | None, unit: str) -> Progress:
    return Progress(f"filter, {step}", total, unit, job.log_path)


def _ticking(progress: Progress, stop: Stop) -> Callable[[int], None]:
    def tick(num: int) -> None:
        stop.check()
        progress.advance(num)

    return tick


def write_shards(
    layer: LayerWriter, job: FilterJob, decisions: Iterator[Decision], stop: Stop, *, is_control: bool
) -> None:
    """Write the shards of a filter layer that are not there yet.

    A sample's reasons are the one it counts under and then all others of its own; of a control that
    was drawn, the draw alone.
    """
    complete, scores = layer.done(), scores_digest(job)
    with _step(job, f"writing {layer.folder.name}", len(job.source.shards), "shards") as progress:
        for name in job.names:
            stop.check()
            scored = read_annotation_tar(layer_tar(job.scores_dir, name))
            pairs = [(key, annotation, next(decisions)) for key, annotation in scored]
            assert all((name, key) == decision.id for key, _, decision in pairs), f"{name} is out of step"
            if name not in complete:
                _write_shard(layer, name, job, pairs, scores, is_control=is_control)
            progress.advance()
    gather_rejects(layer.folder, job.names)


def scores_digest(job: FilterJob) -> str:
    """What the decisions about all shards are made from: the scores of each, by their tars' SHA-256."""
    return digest({name: recorded(job.scores_dir / f"{name}.tar").get("sha256") for name in job.names})


def _write_shard(
    layer: LayerWriter,
    name: str,
    job: FilterJob,
    pairs: list[tuple[str, Annotation, Decision]],
    scores: str,
    *,
    is_control: bool,
) -> None:
    scored = ShardStats.read(job.scores_dir / f"{name}.stats.json")
    rejects = read_rejects(job.scores_dir, name)
    dropped = Counter(reject.reason for reject in rejects)
    num_kept = num_tokens = 0
    decided = {}
    for key, annotation, decision in pairs:
        decided[key] = _decided(annotation, decision, job, is_control=is_control).to_json()
        if "error" in annotation.scores:
            rejects.append(Reject(name, key, annotation.scores["unusable"], annotation.scores["error"]))
        if decision.reason is None:
            num_kept += 1
            num_tokens += annotation.num_tokens or 0
        else:
            dropped[decision.reason] += 1
    assert scored.num_in == num_kept + dropped.total(), f"shard {name} does not add up"
    parts = made_from(layer_tar(job.scores_dir, name))
    made = {part: was.to_json() for part, was in parts.items()}
    write_layer_shard(
        *(layer.folder, name, decided, rejects, dropped),
        {"tokens": num_tokens, "scores": scores, "made_from": made},
        layer=FILTER,
        is_packed=layer.is_packed,
        num_in=scored.num_in,
    )


def _decided(annotation: Annotation, decision: Decision, job: FilterJob, *, is_control: bool) -> Annotation:
    own = [] if is_control else own_reasons(annotation.scores, job.settings)
    reasons = list(dict.fromkeys([*([decision.reason] if decision.reason is not None else []), *own]))
    like = {"like": decision.like} if decision.like is not None else {}
    scores = {**annotation.scores, "keep": decision.reason is None, "reasons": reasons, **like}
    return dataclasses.replace(annotation, layer=FILTER, scores=scores, seed=job.recipe.seed)
