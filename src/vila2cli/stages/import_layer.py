"""`vila2 shards convert layer`: captions by key that another tool wrote become a caption layer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import MARK
from vila2cli.formats.captions.items import sources_of
from vila2cli.formats.captions.keyed import CaptionTable, columns_for, sha256_of
from vila2cli.formats.registry import find_format
from vila2cli.run.folder import claim, write_json
from vila2cli.run.locks import lock
from vila2cli.run.stopping import interruptible
from vila2cli.run.written import ShardsWritten
from vila2cli.settings.layers import check_layer_name
from vila2cli.shards import (
    LayerWriter,
    Shard,
    ShardWriter,
    Source,
    Unreadable,
    folder_figures,
    folder_stats,
    open_layer,
)
from vila2cli.shards.annotations import read_annotations
from vila2cli.shards.sample import Annotation, Reject, Sample, kept_instead

EMPTY, ABSENT, TWICE = "empty-caption", "not-in-file", "key-in-two-shards"


@dataclass(frozen=True, kw_only=True)
class LayerImported(ShardsWritten):
    """The counts of an imported layer, `files` by SHA-256, and of their rows (`file`) what was odd."""

    layer: str
    files: Mapping[str, str]
    key: str
    text: str
    match: str
    file: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        words = {"not_in_base": "not in the base", "double": "repeated keys"}
        words |= {"empty": "empty captions", "bad": "unreadable"}
        odd = [f"{what} {self.file[name]:,}" for name, what in words.items() if self.file.get(name)]
        dropped = ", ".join(f"{num:,} {reason}" for reason, num in self.dropped.items()) or "none"
        yield f"convert: done ({self.out_dir})"
        yield f"  {self.num_out:,} of {self.num_in:,} samples have a caption; dropped: {dropped}"
        yield f"  of {self.file.get('rows', 0):,} rows: {', '.join(odd) or 'all were taken'}"


def import_layer(
    inputs: Sequence[Path],
    source: Source,
    out: Path,
    *,
    layer: str = "recaption",
    key: str = "",
    text: str = "",
    match: str = "key",
) -> LayerImported:
    """Write a caption layer over `source` from tables of keys and captions.

    `key` and `text` name their columns. What a key is compared with is the sample's key, or with another
    `match` that field of its metadata. The first of several rows of a key counts. Each annotation names its
    file with its SHA-256. Raises DataError for files or shards that cannot be read and when no key is the
    base's, RecipeError where the folder was made from others and for a name that no caption layer can have.
    """
    try:
        check_layer_name(layer)
    except ValueError as error:
        raise RecipeError(f"--layer {layer}: {error}") from None
    files = {path: sha256_of(path) for path in sources_of(find_format("shards convert", "layer"), inputs)}
    digests = {path.name: sha256 for path, sha256 in files.items()}
    if len(digests) < len(files):
        raise RecipeError("two of the files have the same name, by which captions say where they are from")
    columns = {path: columns_for(path, key, text, layer) for path in files}
    claimed: dict[str, Any] = {
        "stage": "import",
        "layer": layer,
        "files": digests,
        "key": key,
        "text": text,
        "match": match,
    }
    with lock(out), interruptible() as stop:
        manifest = claim(out, claimed)
        writer = open_layer(out, layer=layer, source=source, manifest={"digest": manifest.digest})
        unreadable = Unreadable()
        with stop.at_once(), CaptionTable.open(out / f"{MARK}captions.sqlite") as table:
            for path in files:
                table.add(path, columns[path], {shard.name for shard in source.shards})
            _take_again(table, out)
            unreadable.each(
                writer.missing(source.shards), lambda shard: _write(table, writer, shard, match, digests)
            )
            counts, num_keys = dict(table.counts), table.num_keys
        writer.finish()
        unreadable.check()
    names = [shard.name for shard in source.shards]
    counts["not_in_base"] = num_keys - int(folder_figures(out, names)["matched"])
    stats = folder_stats(out, names)
    write_json(out / "summary.json", {**claimed, **stats.to_json(), "file": counts})
    imported = LayerImported.counting(stats, **claimed, out_dir=out, file=counts)
    if not imported.num_out:
        raise DataError(
            f"no sample of the base has a caption: none of {num_keys:,} keys is the {match} of one, "
            f"{counts.get('bad', 0):,} rows have no key and text; name their columns with --key and --text, or "
            "what keys are compared with by --match"
        )
    return imported


def _take_again(table: CaptionTable, out: Path) -> None:
    """Note which rows finished shards have taken."""
    for (shard, key), _ in read_annotations(out):
        if (found := table.find(key, shard)) is not None:
            table.take(found[0], shard)


def _write(table: CaptionTable, writer: LayerWriter, shard: Shard, match: str, digests: dict[str, str]) -> None:
    with writer.shard(shard) as out:
        for sample in out.samples():
            name = sample.key if match == "key" else sample.meta.get(match)
            found = None if name is None else table.find(str(name), shard.name)
            if found is None:
                out.skip(sample, ABSENT)
                continue
            number, text, about, file, taken = found
            if taken not in (None, shard.name):
                error = f"a sample of shard {taken} has its caption; a column `shard` would tell them apart"
                out.reject(Reject(shard.name, sample.key, TWICE, error))
                continue
            if taken is None:
                table.take(number, shard.name)
                out.count(matched=1)
            _annotate(
                out, sample, writer.layer, text, json.loads(about), {"file": file, "sha256": digests[file]}
            )


def _annotate(
    out: ShardWriter, sample: Sample, layer: str, text: str, about: dict[str, Any], file: dict[str, str]
) -> None:
    if not text:
        out.skip(sample, EMPTY)
        return
    source = about.pop("source", None)
    decision = {"source": source if kept_instead(source) else "import", **file}
    out.annotate(sample, Annotation(layer=layer, kind="caption", text=text, decision=decision, **about))
