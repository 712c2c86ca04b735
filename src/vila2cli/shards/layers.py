"""Layers: folders of small tars that annotate base shards, whose layer.json names what they annotate."""

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Self

from vila2cli import __version__
from vila2cli.errors import DataError, DataWarning
from vila2cli.files import one_at_a_time, read_json, sweep, write_atomically
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.packed import write_annotations
from vila2cli.shards.places import PACKED, PLAIN, is_remote, local_path, redacted
from vila2cli.shards.places import folder as folder_of
from vila2cli.shards.reader import Shard, num_samples, read_shard
from vila2cli.shards.records import LAYER_FILE, add_figures, file_sha256, made_from, read_layer_json
from vila2cli.shards.rejects import gather_rejects, write_rejects
from vila2cli.shards.sample import Annotation, Reject, Sample
from vila2cli.shards.stats import ShardStats, done, folder_stats, missing, stats_of_any, to_made_from
from vila2cli.shards.streams import digest_of, fingerprint


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer that a source reads: its name, its folder, and the digest of what decided its content."""

    name: str
    path: str
    digest: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Source:
    """Shards with unique names in the order given, and the layers on top of some or all of them."""

    shards: tuple[Shard, ...]
    layers: tuple[LayerInfo, ...] = ()

    def outline(self) -> dict[str, Any]:
        """What a layer over this source goes by at its start: the shards, their layers, how those were made.

        Nothing of the shards is read for it. That each is what it was when its part of the layer was
        written is held shard by shard, see `LayerWriter.missing`.
        """
        return {
            "shards": {shard.name: [layer.layer for layer in shard.layers] for shard in self.shards},
            "layers": {info.name: info.digest for info in self.layers},
            **self.limit(),
        }

    def limit(self) -> dict[str, dict[str, int]]:
        """For a manifest: how many first samples are meant of the shards that are cut; nothing of others."""
        first = {shard.name: shard.first for shard in self.shards if shard.first is not None}
        return {"first": first} if first else {}

    def digest(self) -> dict[str, str]:
        """SHA-256 of every part by its name, see `Shard.parts`.

        Of a shard that a layer was made from it is the one found then, as long as size and time of
        change are the same; only what is new is read. A remote shard has what its store says of it.
        """
        parts = ((shard, name, place) for shard in self.shards for name, place in shard.parts().items())
        return {name: _digest(shard, name, place) for shard, name, place in parts}

    def places(self) -> dict[str, Any]:
        """Where it lies, for a lineage: the folders of the base shards with how many, and the layers."""
        return {
            "shards": dict(Counter(redacted(folder_of(shard.url)) for shard in self.shards)),
            "layers": [asdict(info) | {"path": redacted(info.path)} for info in self.layers],
        }


def _digest(shard: Shard, name: str, place: str) -> str:
    now = fingerprint(place)
    for layer in shard.layers:
        then = None if is_remote(layer.url) else made_from(local_path(layer.url)).get(shard.name)
        if name == shard.name and then is not None and then.agrees(now):
            return then.sha256
    if is_remote(place):
        return f"{now.num_bytes} bytes, {now.tag}" if now.tag else digest_of(place).sha256
    return file_sha256(local_path(place))


def open_layer(
    out_dir: str | Path,
    *,
    layer: str,
    source: Source,
    manifest: Mapping[str, Any] | None = None,
    may_grow: bool = False,
    is_packed: bool = True,
) -> "LayerWriter":
    """Start a layer over `source`, or go on with one: layer.json is written once and then must stay the same.

    `manifest` is what decides the layer's content; its digest is kept in layer.json. Raises DataError when
    the folder holds a layer over other shards. One that `may_grow` is over any number of sources: layer.json
    names the shards of all of them, and whether one was changed is told shard by shard. Shards are written as
    .tar.gz, see `pack`, or unless `is_packed` as .tar with each annotation in full; a layer that was begun in
    one form is finished in it.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    value = _layer_json(folder, layer, source, manifest or {}) | {"packed": is_packed}
    path = folder / LAYER_FILE
    with one_at_a_time(folder):
        sweep(folder)
        old = read_layer_json(path) if path.exists() else None
        if old is not None and may_grow:
            value["base"] = _joined(old, value)
        elif old is not None:
            _check_same(folder, old, value)
        value["packed"] = _is_packed(old, is_packed)
        if old is None or _places(old) != _places(value):
            _write_layer_json(path, {**value, **_engine_of(old or {})})
    return LayerWriter(folder, layer, source, is_packed=value["packed"])


def layer_suffix(folder: Path, *, is_packed: bool) -> str:
    """How the names of a layer's shards end: as it was begun, else as a new one `is_packed`."""
    path = folder / LAYER_FILE
    old = read_layer_json(path) if path.is_file() else None
    return PACKED if _is_packed(old, is_packed) else PLAIN


def _is_packed(old: Mapping[str, Any] | None, is_packed: bool) -> bool:
    return is_packed if old is None else bool(old.get("packed", False))


def _layer_json(folder: Path, layer: str, source: Source, manifest: Mapping[str, Any]) -> dict[str, Any]:
    content = json.dumps(manifest, sort_keys=True, default=str).encode()
    return {
        "layer": layer,
        "base": [_base_json(folder, shard) for shard in source.shards],
        "layers": [
            _location(folder, info.path) | {"name": info.name, "digest": info.digest} for info in source.layers
        ],
        "digest": str(manifest.get("digest") or hashlib.sha256(content).hexdigest()),
        "vila2": __version__,
    }


def _write_layer_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def _engine_of(layer_json: Mapping[str, Any]) -> dict[str, str]:
    """The engine that a layer.json names, as an entry of it; {} where none does."""
    return {"engine": str(layer_json["engine"])} if "engine" in layer_json else {}


def _base_json(folder: Path, shard: Shard) -> dict[str, Any]:
    value: dict[str, Any] = _location(folder, shard.url) | {"name": shard.name}
    value |= {} if shard.first is None else {"first": shard.first}
    if shard.layers:
        value["layers"] = [_location(folder, below.url) | {"name": below.layer} for below in shard.layers]
    return value


def _location(folder: Path, place: str) -> dict[str, str]:
    if is_remote(place):
        return {"url": redacted(place)}
    path = local_path(place).absolute()
    return {"url": place, "relative": os.path.relpath(path, folder.absolute()), "path": str(path)}


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The base shards of both, as the new one has them where it does."""
    bases = {str(base["name"]): base for value in (old, new) for base in value.get("base", ())}
    return list(bases.values())


def _places(layer_json: Mapping[str, Any]) -> list[str]:
    return [base.get("path", base.get("url")) for base in layer_json["base"]]


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if old.get("layer") != new["layer"]:
        raise DataError(
            f"{folder} holds layer {old.get('layer')!r}, not {new['layer']!r}; choose another --out"
        )
    if differing := sorted(_parts(old).items() ^ _parts(new).items()):
        names = {name for name, _ in differing}
        raise DataError(
            f"{folder} was started over other shards: {differing[0][0]!r} and {len(names) - 1} more differ; "
            "give the same shards again or choose another --out"
        )


def _parts(layer_json: Mapping[str, Any]) -> dict[str, str]:
    """Base shards with the names of the layers over them, and layers with their digests."""
    shards = {
        str(base.get("name")): "+".join(str(below.get("name")) for below in base.get("layers", ()))
        for base in layer_json.get("base", ())
    }
    return shards | {str(info.get("name")): str(info.get("digest")) for info in layer_json.get("layers", ())}


@dataclass(frozen=True, slots=True, eq=False)
class LayerWriter:
    """Writes a layer shard by shard; `open_layer` makes one.

    with writer.shard(shard) as out:
        for sample in out.samples():
            out.annotate(sample, Annotation(layer="recaption", kind="caption", text="..."))
    writer.finish()
    """

    folder: Path
    layer: str
    source: Source
    is_packed: bool = True

    def shard(self, shard: Shard) -> "ShardWriter":
        """A writer for one shard, several may be open at once; use `with`, or `close` and `abort`."""
        return ShardWriter(self.folder, self.layer, shard, is_packed=self.is_packed)

    def done(self) -> set[str]:
        return done(self.folder)

    def missing(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those of `shards` that are still to be written; raises DataError as `check_made_from` does."""
        return missing(self.folder, shards)

    def engine(self) -> str | None:
        """The engine that the layer was begun with, None before one was."""
        return _engine_of(read_json(self.folder / LAYER_FILE)).get("engine")

    def note_engine(self, name: str) -> str:
        """Say in layer.json which engine writes the layer; returns the one that was said first."""
        path = self.folder / LAYER_FILE
        with self.alone():  # workers start together
            value = read_json(path)
            if not _engine_of(value):
                value["engine"] = name
                _write_layer_json(path, value)
        return str(value["engine"])

    def stats(self) -> ShardStats:
        """Counts summed over what is complete."""
        return folder_stats(self.folder)

    def finish(self) -> ShardStats:
        """Gather the rejects of all complete shards in rejects.jsonl, in shard order; safe to call again."""
        gather_rejects(self.folder, [shard.name for shard in self.source.shards])
        return stats_of_any(self.folder, self.source.shards)

    def alone(self) -> AbstractContextManager[None]:
        """Lock the folder while summing it up, so that the last worker to finish writes a summary that includes
        every worker's shards."""
        return one_at_a_time(self.folder)


class ShardWriter:
    """The annotations of one shard, held until `close` and then written in one go, sorted by key.

    Every sample that the shard holds must be annotated, rejected or skipped exactly once; `close` asserts it.
    """

    def __init__(self, folder: Path, layer: str, shard: Shard, *, is_packed: bool):
        self.name = shard.name
        self._folder, self._layer, self._shard, self._is_packed = folder, layer, shard, is_packed
        self._annotations: dict[str, Mapping[str, Any]] = {}
        self.kept: dict[str, Annotation] = {}
        """Annotations by key while `keeps` is set, for layers of the same pass that take them."""
        self.keeps = False
        self._rejects: list[Reject] = []
        self._skipped: Counter[str] = Counter()
        self._figures: dict[str, Any] = {"tokens": 0}
        self._num_seen: int | None = None
        self._made_from: dict[str, Fingerprint] = {}
        self._notes: list[str] = []
        self._start_s = perf_counter()

    def samples(self) -> Iterator[Sample]:
        """`read_shard` with rejects noted, samples counted and files fingerprinted, for `close` to write."""
        return samples_of([self])

    def annotate(self, sample: Sample, annotation: Annotation) -> None:
        """Note the annotation of a sample; its image digest and tool version are filled in."""
        assert sample.key not in self._annotations, f"{sample.key!r} is annotated twice"
        assert annotation.layer == self._layer, f"{annotation.layer!r} is not of layer {self._layer!r}"
        version = annotation.tool_version or __version__
        complete = replace(annotation, image_sha256=sample.image_sha256, tool_version=version)
        self._annotations[sample.key] = complete.to_json()
        if self.keeps:
            self.kept[sample.key] = complete

    def reject(self, reject: Reject) -> None:
        """Quarantine a sample that cannot be used; it counts against `max_reject_rate`."""
        self._rejects.append(reject)

    def skip(self, sample: Sample, reason: str) -> None:
        """Leave a sample out on purpose (not drawn, nothing to ask): counted, but no reject."""
        assert sample.key not in self._annotations, f"{sample.key!r} is annotated already"
        self._skipped[reason] += 1

    def count(self, **figures: float | Mapping[str, float]) -> None:
        """Add to the figures in the stats file, like `tokens=120` or `kept={"model": 1}`.

        `seconds` replaces our own clock.
        """
        add_figures(self._figures, figures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def close(self) -> ShardStats:
        """Write what was noted, see `write_layer_shard`; raises DataError when the layer is no longer there."""
        dropped = Counter(reject.reason for reject in self._rejects) + self._skipped
        num_in = num_samples(self._shard) if self._num_seen is None else self._num_seen
        num_out, num_dropped = len(self._annotations), dropped.total()
        assert num_in == num_out + num_dropped, (
            f"shard {self.name}: {num_in} in, but {num_out} out and {num_dropped} dropped"
        )
        path = self._folder / LAYER_FILE
        # A shard in a new folder would pass for a base.
        if not path.is_file() or read_json(path).get("layer") != self._layer:
            raise DataError(
                f"{self._folder} was removed or replaced while it was written; run the same command again"
            )
        figures = {
            **self._figures,
            "seconds": round(self._figures.get("seconds", perf_counter() - self._start_s), 3),
            "tokens": int(self._figures["tokens"]),
            "made_from": to_made_from(self._shard, self._made_from),
            **({"notes": self._notes} if self._notes else {}),
        }
        told = self._annotations, self._rejects, dropped
        write_layer_shard(self._folder, self.name, *told, figures, layer=self._layer, is_packed=self._is_packed)
        return ShardStats.read(self._folder / f"{self.name}.stats.json")

    def abort(self) -> None:
        """Forget the shard; nothing of it was written."""
        self._annotations.clear()
        self._rejects.clear()


def write_layer_shard(
    folder: Path,
    name: str,
    annotations: Mapping[str, Mapping[str, Any]],
    rejects: Sequence[Reject],
    dropped: Counter[str],
    figures: Mapping[str, Any],
    *,
    layer: str,
    is_packed: bool,
    num_in: int | None = None,
) -> None:
    """Write rejects, tar and stats of a shard, in this order: the stats file means complete.

    `num_in` is what was annotated and dropped, unless what was dropped is annotated, too. `figures` are what
    the stats file says beside the counts.
    """
    num_in = len(annotations) + dropped.total() if num_in is None else num_in
    counts = {"in": num_in, "out": num_in - dropped.total(), "dropped": dict(sorted(dropped.items()))}
    lines = write_rejects(folder, name, rejects)
    stats = {**figures, "layer": layer, **counts, "rejected": len(rejects), **lines}
    write_annotations(folder, name, annotations, stats, is_packed=is_packed)


def samples_of(writers: Sequence[ShardWriter]) -> Iterator[Sample]:
    """Read a shard once for its writers in several layers, each of which is told what `samples` tells one."""
    shard = writers[0]._shard
    assert all(writer._shard == shard for writer in writers), "they write over the same shard"
    fingerprints: dict[str, Fingerprint] = {}
    for writer in writers:
        writer._num_seen, writer._made_from = 0, fingerprints

    def seen() -> None:
        for writer in writers:
            assert writer._num_seen is not None
            writer._num_seen += 1

    def on_reject(reject: Reject) -> None:
        seen()
        for writer in writers:
            writer.reject(reject)

    def on_note(text: str) -> None:
        for writer in writers:
            writer._notes.append(text)
        warnings.warn(f"{shard.url}: {text}", DataWarning, stacklevel=2)

    for sample in read_shard(shard, on_reject=on_reject, on_note=on_note, fingerprints=fingerprints):
        seen()
        yield sample
