"""Layers: folders of small tars that annotate base shards, each told what it lies over by its layer.json."""

import dataclasses
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from vila2cli import __version__
from vila2cli.errors import DataError
from vila2cli.reader import Shard, num_samples, read_shard
from vila2cli.sample import Annotation, Reject, Sample
from vila2cli.tarfiles import (
    TarWriter,
    file_sha256,
    read_json,
    stats_path,
    tar_stem,
    to_json_bytes,
    write_atomically,
)

LAYER_FILE = "layer.json"
REJECTS_FILE = "rejects.jsonl"


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer that a source reads: its name and its folder."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Source:
    """Shards with unique names in the order given, and the layers that lie over some or all of them."""

    shards: tuple[Shard, ...]
    layers: tuple[LayerInfo, ...] = ()

    def digest(self) -> dict[str, str]:
        """SHA-256 by shard name ("000001") and by annotated shard ("000001+recaption", "...+recaption.2")."""
        digests: dict[str, str] = {}
        for shard in self.shards:
            digests[shard.name] = file_sha256(Path(shard.url))
            times: Counter[str] = Counter()
            for layer in shard.layers:
                times[layer.layer] += 1
                again = f".{times[layer.layer]}" if times[layer.layer] > 1 else ""
                digests[f"{shard.name}+{layer.layer}{again}"] = file_sha256(Path(layer.url))
        return digests


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStats:
    """Counts of one shard or the sum of several: `num_in == num_out + sum(dropped.values())`.

    `num_rejected` is the part of the dropped that could not be used; the rest was left out on purpose.
    """

    num_in: int = 0
    num_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    num_rejected: int = 0
    seconds: float = 0.0
    tokens: int = 0
    bytes: int = 0

    @property
    def reject_rate(self) -> float:
        """Rejected samples as a share of all, 0 when there were none."""
        return self.num_rejected / self.num_in if self.num_in else 0.0

    def __add__(self, other: "ShardStats") -> "ShardStats":
        return ShardStats(
            num_in=self.num_in + other.num_in,
            num_out=self.num_out + other.num_out,
            dropped=dict(sorted((Counter(self.dropped) + Counter(other.dropped)).items())),
            num_rejected=self.num_rejected + other.num_rejected,
            seconds=self.seconds + other.seconds,
            tokens=self.tokens + other.tokens,
            bytes=self.bytes + other.bytes,
        )

    def to_json(self) -> dict[str, Any]:
        """The counts under the names that SHARD.stats.json uses."""
        return {
            "in": self.num_in,
            "out": self.num_out,
            "dropped": dict(self.dropped),
            "rejected": self.num_rejected,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "bytes": self.bytes,
        }

    @classmethod
    def read(cls, path: Path) -> "ShardStats":
        """Read SHARD.stats.json."""
        value = read_json(path)
        return cls(
            num_in=value.get("in", 0),
            num_out=value.get("out", 0),
            dropped=value.get("dropped", {}),
            num_rejected=value.get("rejected", 0),
            seconds=value.get("seconds", 0.0),
            tokens=value.get("tokens", 0),
            bytes=value.get("bytes", 0),
        )


def done(out_dir: str | Path) -> set[str]:
    """Names of the shards in a folder that are complete: the tar and its stats file are both there."""
    folder = Path(out_dir)
    return {tar_stem(tar) for tar in folder.glob("*.tar") if stats_path(tar).is_file()}


def folder_stats(out_dir: str | Path, names: Iterable[str] | None = None) -> ShardStats:
    """The sum over the complete shards of a folder, or over those named."""
    wanted = done(out_dir) if names is None else done(out_dir) & set(names)
    found = (ShardStats.read(Path(out_dir) / f"{name}.stats.json") for name in sorted(wanted))
    return sum(found, ShardStats())


def open_layer(
    out_dir: str | Path, *, layer: str, source: Source, manifest: Mapping[str, Any] | None = None
) -> "LayerWriter":
    """Start a layer over `source`, or go on with one: layer.json is written once and then must stay the same.

    `manifest` is what decides the layer's content; its digest is kept in layer.json. Raises DataError when
    the folder holds a layer over other shards.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    value = _layer_json(folder, layer, source, manifest or {})
    path = folder / LAYER_FILE
    if path.exists():
        _check_same(folder, read_json(path), value)
    else:
        write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")
    return LayerWriter(folder, layer, source)


def _layer_json(folder: Path, layer: str, source: Source, manifest: Mapping[str, Any]) -> dict[str, Any]:
    content = json.dumps(manifest, sort_keys=True, default=str).encode()
    return {
        "layer": layer,
        "base": [_base_json(folder, shard) for shard in source.shards],
        "layers": [_location(folder, info.path) | {"name": info.name} for info in source.layers],
        "digest": str(manifest.get("digest") or hashlib.sha256(content).hexdigest()),
        "vila2": __version__,
    }


def _base_json(folder: Path, shard: Shard) -> dict[str, Any]:
    path = Path(shard.url)
    value = _location(folder, shard.url) | {
        "name": shard.name,
        "sha256": file_sha256(path),
        "num_bytes": path.stat().st_size,
    }
    if shard.layers:
        value["layers"] = [_location(folder, below.url) | {"name": below.layer} for below in shard.layers]
    return value


def _location(folder: Path, url: str) -> dict[str, str]:
    path = Path(url).absolute()
    return {"url": url, "relative": os.path.relpath(path, folder.absolute()), "path": str(path)}


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if old.get("layer") != new["layer"]:
        raise DataError(
            f"{folder} holds layer {old.get('layer')!r}, not {new['layer']!r}; choose another --out"
        )
    before = {base.get("name"): base.get("sha256") for base in old.get("base", ())}
    now = {base["name"]: base["sha256"] for base in new["base"]}
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        raise DataError(
            f"{folder} was started over other shards: {differing[0]!r} and {len(differing) - 1} more differ; "
            "give the same shards again or choose another --out"
        )


class LayerWriter:
    """Writes a layer shard by shard; `open_layer` makes one.

    with writer.shard(shard) as out:
        for sample in out.samples():
            out.annotate(sample, Annotation(layer="recaption", kind="caption", text="..."))
    writer.finish()
    """

    def __init__(self, folder: Path, layer: str, source: Source):
        self.folder = folder
        self.layer = layer
        self.source = source

    def shard(self, shard: Shard) -> "ShardWriter":
        """A writer for one shard, several may be open at once; use `with`, or `close` and `abort`."""
        return ShardWriter(self.folder, self.layer, shard)

    def done(self) -> set[str]:
        return done(self.folder)

    def stats(self) -> ShardStats:
        """Counts summed over what is complete."""
        return folder_stats(self.folder)

    def finish(self) -> ShardStats:
        """Gather the rejects of all complete shards in rejects.jsonl, in shard order; safe to call again."""
        gather_rejects(self.folder, [shard.name for shard in self.source.shards])
        return self.stats()


class ShardWriter:
    """The annotations of one shard, held until `close` and then written in one go, sorted by key.

    Every sample that the shard holds must be annotated, rejected or skipped exactly once; `close` asserts it.
    """

    def __init__(self, folder: Path, layer: str, shard: Shard):
        self.name = shard.name
        self._folder, self._layer, self._shard = folder, layer, shard
        self._annotations: dict[str, bytes] = {}
        self._rejects: list[Reject] = []
        self._skipped: Counter[str] = Counter()
        self._figures: Counter[str] = Counter()
        self._num_seen: int | None = None
        self._start_s = perf_counter()

    def samples(self, *, verify: bool = True) -> Iterator[Sample]:
        """`read_shard` with rejects noted and samples counted, so that `close` need not scan the shard."""
        self._num_seen = 0
        for sample in read_shard(self._shard, on_reject=self._reject_seen, verify=verify):
            self._num_seen += 1
            yield sample

    def _reject_seen(self, reject: Reject) -> None:
        assert self._num_seen is not None
        self._num_seen += 1
        self.reject(reject)

    def annotate(self, sample: Sample, annotation: Annotation) -> None:
        """Note the annotation of a sample; its image digest and tool version are filled in."""
        assert sample.key not in self._annotations, f"{sample.key!r} is annotated twice"
        assert annotation.layer == self._layer, (
            f"{annotation.layer!r} is no annotation of layer {self._layer!r}"
        )
        complete = dataclasses.replace(
            annotation,
            image_sha256=sample.image_sha256,
            tool_version=annotation.tool_version or __version__,
        )
        self._annotations[sample.key] = to_json_bytes(complete.to_json())

    def reject(self, reject: Reject) -> None:
        """Quarantine a sample that cannot be used; it counts against `max_reject_rate`."""
        self._rejects.append(reject)

    def skip(self, sample: Sample, reason: str) -> None:
        """Leave a sample out on purpose (not drawn, nothing to ask): counted, but no reject."""
        assert sample.key not in self._annotations, f"{sample.key!r} is annotated already"
        self._skipped[reason] += 1

    def count(self, **figures: float) -> None:
        """Add to the figures in the stats file, like `tokens=120`; `seconds` replaces our own clock."""
        self._figures.update(figures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def close(self) -> ShardStats:
        """Write rejects, tar and stats, in this order: the stats file means complete."""
        dropped = Counter(reject.reason for reject in self._rejects) + self._skipped
        num_in = num_samples(self._shard) if self._num_seen is None else self._num_seen
        num_out, num_dropped = len(self._annotations), dropped.total()
        assert num_in == num_out + num_dropped, (
            f"shard {self.name}: {num_in} in, but {num_out} out and {num_dropped} dropped"
        )
        write_rejects(self._folder, self.name, self._rejects)
        stats = {
            **self._figures,
            "in": num_in,
            "out": num_out,
            "dropped": dict(sorted(dropped.items())),
            "rejected": len(self._rejects),
            "seconds": round(self._figures.get("seconds", perf_counter() - self._start_s), 3),
            "tokens": int(self._figures["tokens"]),
        }
        with TarWriter(self._folder / f"{self.name}.tar") as tar:
            tar.stats = stats
            for key in sorted(self._annotations):
                tar.write_sample(key, {"json": self._annotations[key]})
        return ShardStats.read(self._folder / f"{self.name}.stats.json")

    def abort(self) -> None:
        """Forget the shard; nothing of it was written."""
        self._annotations.clear()
        self._rejects.clear()


def write_rejects(out_dir: Path, name: str, rejects: Sequence[Reject]) -> None:
    """Write NAME.rejects.jsonl, sorted by key; with no rejects remove one that an earlier try left."""
    path = out_dir / f"{name}.rejects.jsonl"
    if rejects:
        in_order = sorted(rejects, key=lambda reject: (reject.key, reject.reason, reject.error))
        write_atomically(path, b"".join(to_json_bytes(reject.to_json()) + b"\n" for reject in in_order))
    else:
        path.unlink(missing_ok=True)


def gather_rejects(out_dir: Path, names: Sequence[str]) -> None:
    """Join the rejects of the complete shards among `names` to rejects.jsonl, in this order."""
    with _folder_lock(out_dir):
        complete = done(out_dir)
        parts = [out_dir / f"{name}.rejects.jsonl" for name in names if name in complete]
        lines = b"".join(part.read_bytes() for part in parts if part.is_file())
        write_atomically(out_dir / REJECTS_FILE, lines)


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time gather a folder's rejects; the last one then sees those of all."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
