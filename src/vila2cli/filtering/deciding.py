"""From a layer of scores to a filter layer: which samples are kept, and why the others are not.

Only score tars are read, no image, so deciding anew takes no model and a fraction of the time.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.image import decode_image
from vila2cli.sample import Annotation, Reject
from vila2cli.score.annotations import read_annotation_tar
from vila2cli.score.image_hash import image_hash
from vila2cli.score.perplexity import length_bucket, rank_value
from vila2cli.score.selection import Candidate, Cut, Decision, Selection
from vila2cli.settings import FilterSettings
from vila2cli.shards import (
    ShardStats,
    Source,
    TarWriter,
    done,
    gather_rejects,
    made_from,
    read_shard,
    to_json_bytes,
    write_rejects,
)
from vila2cli.stopping import Stop
from vila2cli.text.compose import FILTER
from vila2cli.text.prompts import stable_hash

Scores = Mapping[str, Any]


def own_reasons(scores: Scores, settings: FilterSettings) -> list[str]:
    """Why a sample is dropped whatever the others are like, [] for no reason; the first one counts."""
    if "unusable" in scores:
        return [scores["unusable"]]
    num_words = scores["num_words"]
    broken = {
        **{defect: defect in settings.text_defects for defect in scores["defects"]},
        "too-short": num_words < settings.min_words,
        "too-long": settings.max_words > 0 and num_words > settings.max_words,
        "low-similarity": scores.get("similarity", 1.0) < settings.min_similarity,
        "low-sentence-similarity": scores.get("sentence_similarity_min", 1.0)
        < settings.min_sentence_similarity,
    }
    return [reason for reason, is_broken in broken.items() if is_broken]


def candidates(shard: str, scores_dir: Path, settings: FilterSettings, seed: int) -> Iterator[Candidate]:
    """The samples of one scored shard, by key."""
    for key, annotation in read_annotation_tar(scores_dir / f"{shard}.tar"):
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
            tie=stable_hash("tie", seed, shard, key),
            lot=stable_hash("lot", seed, shard, key),
            num_tokens=num_tokens,
        )


def held_out_images(source: Source) -> Iterator[tuple[str, str, str]]:
    """SHARD/KEY, SHA-256 and hash of every evaluation image; the hash is "" where it cannot be decoded."""
    for shard in source.shards:
        for sample in read_shard(shard, on_reject=lambda reject: None):
            for image in sample.images:
                try:
                    look = str(image_hash(decode_image(image.data)))
                except DataError:
                    look = ""
                yield f"{shard.name}/{sample.key}", hashlib.sha256(image.data).hexdigest(), look


def select(
    selection: Selection,
    source: Source,
    scores_dir: Path,
    settings: FilterSettings,
    *,
    seed: int,
    held_out: Source | None,
    stop: Stop,
) -> list[Cut]:
    """Run all rules of a filter; returns where the kept share was cut, [] when everything left is kept."""
    for shard in source.shards:
        stop.check()
        selection.add(candidates(shard.name, scores_dir, settings, seed))
    distances = {"none": None, "exact": None, "perceptual": settings.max_distance}
    if held_out is not None and settings.overlap != "none":
        selection.drop_overlap(held_out_images(held_out), distances[settings.overlap])
    stop.check()
    if settings.duplicates != "none":
        selection.drop_duplicates(distances[settings.duplicates])
    stop.check()
    return selection.keep_lowest(settings.keep_share, settings.rank_by) if settings.keep_share < 1 else []


def write_layer(
    out_dir: Path,
    source: Source,
    scores_dir: Path,
    decisions: Iterator[Decision],
    settings: FilterSettings | None,
    stop: Stop,
) -> None:
    """Write the shards of a filter layer that are not there yet.

    With settings a sample's reasons are all of its own, then that of the rule which compared it with
    others; without, the decision alone counts (a control that was drawn).
    """
    complete = done(out_dir)
    for shard in source.shards:
        stop.check()
        scored = read_annotation_tar(scores_dir / f"{shard.name}.tar")
        pairs = [(key, annotation, next(decisions)) for key, annotation in scored]
        assert all((shard.name, key) == decision.id for key, _, decision in pairs), (
            f"{shard.name} is out of step"
        )
        if shard.name not in complete:
            _write_shard(out_dir, shard.name, scores_dir, pairs, settings)
    gather_rejects(out_dir, [shard.name for shard in source.shards])


def _write_shard(
    out_dir: Path,
    name: str,
    scores_dir: Path,
    pairs: list[tuple[str, Annotation, Decision]],
    settings: FilterSettings | None,
) -> None:
    scored = ShardStats.read(scores_dir / f"{name}.stats.json")
    rejects = _read_rejects(scores_dir / f"{name}.rejects.jsonl")
    dropped = Counter(reject.reason for reject in rejects)
    num_kept = num_tokens = 0
    with TarWriter(out_dir / f"{name}.tar") as tar:
        for key, annotation, decision in pairs:
            tar.write_sample(key, {"json": to_json_bytes(_decided(annotation, decision, settings).to_json())})
            if "error" in annotation.scores:
                rejects.append(Reject(name, key, annotation.scores["unusable"], annotation.scores["error"]))
            if decision.reason is None:
                num_kept += 1
                num_tokens += annotation.num_tokens or 0
            else:
                dropped[decision.reason] += 1
        assert scored.num_in == num_kept + dropped.total(), f"shard {name} does not add up"
        write_rejects(out_dir, name, rejects)
        tar.stats = {
            "in": scored.num_in,
            "out": num_kept,
            "dropped": dict(sorted(dropped.items())),
            "rejected": len(rejects),
            "tokens": num_tokens,
            "made_from": {part: was.to_json() for part, was in made_from(scores_dir / f"{name}.tar").items()},
        }


def _decided(annotation: Annotation, decision: Decision, settings: FilterSettings | None) -> Annotation:
    reasons = own_reasons(annotation.scores, settings) if settings is not None else []
    if decision.reason is not None and decision.reason not in reasons:
        reasons.append(decision.reason)
    like = {"like": decision.like} if decision.like is not None else {}
    scores = {**annotation.scores, "keep": decision.reason is None, "reasons": reasons, **like}
    return dataclasses.replace(annotation, layer=FILTER, scores=scores)


def _read_rejects(path: Path) -> list[Reject]:
    """What a scored shard held that made no sample."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Reject(**json.loads(line)) for line in lines]
