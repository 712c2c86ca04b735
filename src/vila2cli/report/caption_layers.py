"""The recaption layers of a run: their lengths, and a few of their samples joined with images."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.report.json_reader import JsonReader, real, table_of, whole
from vila2cli.report.run_folder import RunRecord
from vila2cli.shards import done, expand, layer_tar, open_source
from vila2cli.shards.reader import check_layers, read_layer_shard, read_shard
from vila2cli.shards.sample import Annotation, Sample
from vila2cli.shards.tarfiles import read_members
from vila2cli.text.words import num_words

MAX_CAPTIONS = 20_000
"""Captions per round whose words are counted."""
MAX_SHARDS = 6
MAX_PER_SHARD = 200
"""Samples read from each of MAX_SHARDS shards; those shown are drawn from them."""


@dataclass(frozen=True, slots=True)
class CaptionLayer:
    """A round's recaption folder and the names of its complete shards, sorted."""

    round: int
    folder: Path
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """Words per caption: mean, standard deviation and the number of captions counted."""

    mean: float
    sd: float
    num_captions: int
    is_all: bool


def caption_layers(run: RunRecord) -> list[CaptionLayer]:
    """The recaption layers with at least one complete shard, by round."""
    stages = ((number, run.stage(f"round {number}", "recaption")) for number in run.rounds)
    layers = (
        CaptionLayer(number, stage.folder, tuple(sorted(done(stage.folder))))
        for number, stage in stages
        if stage and stage.state != "missing"
    )
    return [layer for layer in layers if layer.shards]


def written_words(run: RunRecord, layers: Sequence[CaptionLayer], reader: JsonReader) -> dict[str, Words]:
    """Caption lengths by row, the alt-text in round 0: from summary.json, else counted in the layers."""
    by_row: dict[str, Words | None] = {}
    for layer in layers:
        stage = run.stage(f"round {layer.round}", "recaption")
        summary = stage.summary if stage else {}
        by_row.setdefault("round 0", _summary_words(summary, "alt_text_words"))
        written = _summary_words(summary, "words")
        by_row[f"round {layer.round}"] = written or count_caption_words(layer, reader)
    return {group: words for group, words in by_row.items() if words is not None}


def _summary_words(summary: Mapping[str, Any], name: str) -> Words | None:
    mean, sd = (real(table_of(summary.get(name)).get(key)) for key in ("mean", "sd"))
    return None if not mean or sd is None else Words(mean, sd, whole(summary.get("out")), is_all=True)


def read_annotations(layer: CaptionLayer, name: str, reader: JsonReader) -> dict[str, dict[str, Any]]:
    """The annotations of a layer's shard by key, as JSON; a damaged shard is noted and has none."""
    tar = layer_tar(layer.folder, name)
    try:
        records = read_layer_shard(tar)
        return {key: records.fields(key) for key in records.by_key}
    except DataError as error:
        reader.note(tar, error)
        return {}


def count_caption_words(layer: CaptionLayer, reader: JsonReader) -> Words | None:
    """Words of a round's captions, from its first shards up to MAX_CAPTIONS captions."""
    lengths: list[int] = []
    for name in layer.shards:
        if len(lengths) >= MAX_CAPTIONS:
            return _words(lengths, is_all=False)
        texts = (annotation.get("text") for annotation in read_annotations(layer, name, reader).values())
        lengths += [num_words(text) for text in texts if isinstance(text, str)]
    return _words(lengths, is_all=True)


def count_alt_words(specs: Sequence[str], reader: JsonReader) -> Words | None:
    """Words of the alt-texts in base shards; None where the shards are not here."""
    lengths: list[int] = []
    try:
        tars = expand(specs) if specs else []
    except DataError:
        return None
    for tar in tars:
        if len(lengths) >= MAX_CAPTIONS:
            return _words(lengths, is_all=False)
        try:
            for _, data in read_members(Path(tar), lambda name: name.endswith(".txt")):
                if data is not None:
                    lengths.append(num_words(data.decode("utf-8", "replace")))
                if len(lengths) >= MAX_CAPTIONS:
                    break
        except DataError as error:
            reader.note(Path(tar), error)
    return _words(lengths, is_all=True)


def sample_captions(layers: Sequence[CaptionLayer], reader: JsonReader) -> list[Sample]:
    """Samples of a few shards, evenly spread, with the captions of all rounds.

    Without the base shards the samples have captions only.
    """
    samples: list[Sample] = []
    common = set.intersection(*(set(layer.shards) for layer in layers))
    names = sorted(common) or layers[0].shards  # those of the first round where none is of all rounds
    for name in dict.fromkeys(names[i * len(names) // MAX_SHARDS] for i in range(MAX_SHARDS)):
        tars = [layer_tar(layer.folder, name) for layer in layers if name in layer.shards]
        try:
            for shard in open_source(tars).shards:
                check_layers(shard)
                samples += itertools.islice(read_shard(shard, on_reject=lambda reject: None), MAX_PER_SHARD)
        except (DataError, KeyError, TypeError, AttributeError) as error:  # or a layer.json someone edited
            reader.note(tars[0], error)
            samples += _without_base(layers, name, reader)
    return [sample for sample in samples if any(a.text for a in sample.annotations)]


def _without_base(layers: Sequence[CaptionLayer], name: str, reader: JsonReader) -> list[Sample]:
    by_key: dict[str, list[Annotation]] = {}
    for layer in layers:
        if name not in layer.shards:
            continue
        try:
            for key, value in itertools.islice(read_annotations(layer, name, reader).items(), MAX_PER_SHARD):
                by_key.setdefault(key, []).append(Annotation.from_json(value))
        except (DataError, TypeError, AttributeError, ValueError) as error:
            reader.note(layer_tar(layer.folder, name), error)
    return [Sample(key=key, annotations=tuple(annotations)) for key, annotations in by_key.items()]


def _words(lengths: Sequence[int], *, is_all: bool) -> Words | None:
    if not lengths:
        return None
    return Words(statistics.fmean(lengths), statistics.pstdev(lengths), len(lengths), is_all)
