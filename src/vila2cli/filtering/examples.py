"""What `--explain` shows: kept and dropped samples with their captions and scores, for the terminal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.shards import Source, layer_tar, read_shard
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.sample import Annotation
from vila2cli.text.compose import compose_caption
from vila2cli.text.printable import printable
from vila2cli.text.prompts import stable_hash

NUM_SHOWN = 4
_CAPTION_CHARACTERS = 160
KEPT = "kept"
_SHOWN_SCORES = {
    "perplexity": "perplexity",
    "text_perplexity": "without image",
    "image_gain": "image gain",
    "similarity": "similarity",
    "sentence_similarity_min": "lowest sentence",
    "num_words": "words",
    "top": "value",
}


@dataclass(frozen=True, slots=True)
class _Example:
    shard: str
    key: str
    annotation: Annotation


def explain(out_dir: Path, source: Source, captions: tuple[str, ...]) -> Iterator[str]:
    """Lines with a few kept samples and a few for every reason to drop one, drawn by their keys.

    Of the data only those shards are opened that hold one of them; `source` is what was filtered.
    """
    drawn = _draw(out_dir, source)
    texts = dict(_captions(source, drawn, captions))
    for reason in sorted(drawn, key=lambda reason: (reason != KEPT, reason)):
        yield reason if reason == KEPT else f"dropped: {reason}"
        for example in sorted(drawn[reason], key=lambda one: one.annotation.scores.get("perplexity", 0.0)):
            yield from _lines(example, texts.get((example.shard, example.key)))


def _draw(out_dir: Path, source: Source) -> dict[str, list[_Example]]:
    drawn: dict[str, list[_Example]] = {}
    for shard in source.shards:
        for key, annotation in read_annotation_tar(layer_tar(out_dir, shard.name)):
            examples = drawn.setdefault(str((annotation.scores.get("reasons") or [KEPT])[0]), [])
            examples.append(_Example(shard.name, key, annotation))
            if len(examples) > NUM_SHOWN:
                examples.remove(max(examples, key=lambda one: stable_hash("explain", one.shard, one.key)))
    return drawn


def _captions(
    source: Source, drawn: Mapping[str, list[_Example]], captions: tuple[str, ...]
) -> Iterator[tuple[tuple[str, str], str]]:
    wanted = {(example.shard, example.key) for examples in drawn.values() for example in examples}
    for shard in source.shards:
        keys = {key for name, key in wanted if name == shard.name}
        for sample in read_shard(shard, on_reject=lambda reject: None) if keys else ():
            if sample.key in keys:
                keys.discard(sample.key)
                yield (shard.name, sample.key), compose_caption(sample, captions, " | ") or ""
            if not keys:
                break


def _lines(example: _Example, caption: str | None) -> Iterator[str]:
    scores = example.annotation.scores
    figures = [f"{name} {_figure(scores[key])}" for key, name in _SHOWN_SCORES.items() if key in scores]
    reasons = scores.get("reasons", [])
    also = [f"also {', '.join(reasons[1:])}"] if len(reasons) > 1 else []
    like = [f"like {scores['like']}"] if "like" in scores else []
    yield printable(f"  {example.shard}/{example.key}: {', '.join([*figures, *like, *also])}")
    if scores.get("error"):
        yield printable(f"    {scores['error']}")
    elif caption:
        short = caption if len(caption) <= _CAPTION_CHARACTERS else f"{caption[:_CAPTION_CHARACTERS]}..."
        yield printable(f"    {' '.join(short.split())}")


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
