"""Where samples come from: shard specs to a source whose base shards are joined with their layers.

The names that stages use are all here; what lies below them is in tarfiles (bytes of an archive),
reader (one shard to samples) and layers (writing).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from vila2cli.errors import DataError
from vila2cli.layers import (
    LAYER_FILE,
    LayerInfo,
    LayerWriter,
    ShardStats,
    ShardWriter,
    Source,
    done,
    folder_stats,
    gather_rejects,
    open_layer,
    write_rejects,
)
from vila2cli.reader import LayerShard, Shard, member_problems, num_samples, read_shard
from vila2cli.tarfiles import TAR_SUFFIXES, TarWriter, file_sha256, read_json, tar_stem, to_json_bytes

__all__ = [
    "LayerInfo",
    "LayerShard",
    "LayerWriter",
    "Shard",
    "ShardStats",
    "ShardWriter",
    "Source",
    "TarWriter",
    "done",
    "expand",
    "file_sha256",
    "folder_stats",
    "gather_rejects",
    "member_problems",
    "num_samples",
    "open_layer",
    "open_source",
    "read_shard",
    "to_json_bytes",
    "write_rejects",
]

_URL = re.compile(r"[a-z][a-z0-9+.-]+:", re.I)


def expand(specs: Sequence[str]) -> list[str]:
    """Paths of the tars that specs name, in the order given and sorted inside a glob or folder.

    A spec is a tar, a glob, a `{000..010}` range, a folder of tars, a layer folder or its layer.json.
    Raises DataError naming the first spec that matches nothing.
    """
    return list(dict.fromkeys(tar for spec in specs for tar in _expand_one(spec)))


def open_source(specs: Sequence[str], *, base: str | None = None) -> Source:
    """Join base shards with the layers over them; `specs` may mix base tars, layer tars and layer folders.

    A layer tar brings its base and the layers below it, as its layer.json names them: as given (from the
    current folder), else relative to the layer folder, else by absolute path. `base` is the folder where
    base shards are now. A base named several times is read once, with all annotations in the order given.
    Raises DataError for what is missing, an unfinished layer folder, or a base that has changed.
    """
    joined: dict[Path, _Joined] = {}
    manifests: dict[Path, dict[str, Any] | None] = {}
    for spec in specs:
        for path in _find(spec):
            tars = _tars_in(path) if path.is_dir() else [path]
            manifest = _manifest(path if path.is_dir() else path.parent, manifests)
            if manifest is not None and path.is_dir():
                _check_complete(path, manifest, tars)
            for tar in tars:
                found = _Joined(tar) if manifest is None else _resolve(tar, manifest, base)
                joined.setdefault(found.path.resolve(), _Joined(found.path, found.name)).add(found.layers)
    if not joined:
        raise DataError("no shards were given; name them with --shards")
    names = _unique_names(list(joined.values()))
    shards = [
        Shard(name, str(one.path), tuple(one.layers)) for name, one in zip(names, joined.values(), strict=True)
    ]
    layers = dict.fromkeys(
        LayerInfo(layer.layer, str(Path(layer.url).parent)) for shard in shards for layer in shard.layers
    )
    return Source(tuple(shards), tuple(layers))


@dataclass(slots=True)
class _Joined:
    """A base tar with the layer tars found for it so far; `name` is the one a layer knows it by."""

    path: Path
    name: str = ""
    layers: list[LayerShard] = field(default_factory=list)

    def add(self, layers: list[LayerShard]) -> None:
        self.layers += [layer for layer in layers if layer not in self.layers]


def _expand_one(spec: str) -> Iterator[str]:
    for path in _find(spec):
        yield from map(str, _tars_in(path) if path.is_dir() else [path])


def _find(spec: str) -> list[Path]:
    """The tars and folders of tars that a spec names."""
    path = Path(spec).expanduser()
    if path.name == LAYER_FILE:
        path = path.parent
    if path.exists():
        return [_checked(path, spec)]
    if _URL.match(spec):
        raise DataError(f"{spec} is a URL; shards are read from local files, so download or mount it first")
    try:
        patterns = list(braceexpand(str(path)))
    except ValueError:
        raise DataError(
            f"the braces in {spec!r} do not match; write a range like data/{{000..010}}.tar"
        ) from None
    found = [path for pattern in patterns for path in _match(pattern, spec)]
    if not found:
        raise DataError(f"no shards match {spec!r}; expected .tar files")
    return found


def _match(pattern: str, spec: str) -> list[Path]:
    if not any(character in pattern for character in "*?["):
        if not Path(pattern).exists():
            raise DataError(f"no shards match {spec!r}: there is no {pattern}")
        return [_checked(Path(pattern), spec)]
    anchor = Path(Path(pattern).anchor)
    found = sorted(anchor.glob(str(Path(pattern).relative_to(anchor))))
    return [path for path in found if (_has_tars(path) if path.is_dir() else tar_stem(path))]


def _checked(path: Path, spec: str) -> Path:
    if path.is_dir() and not _has_tars(path):
        raise DataError(f"no shards match {spec!r}: the folder holds no .tar files")
    if path.is_file() and not tar_stem(path):
        raise DataError(f"{path} is no shard: its name should end in {', '.join(TAR_SUFFIXES)}")
    return path


def _has_tars(folder: Path) -> bool:
    return (folder / LAYER_FILE).is_file() or bool(_tars_in(folder))


def _tars_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if tar_stem(path) and path.is_file())


def _manifest(folder: Path, known: dict[Path, dict[str, Any] | None]) -> dict[str, Any] | None:
    """The layer.json of a folder, None when it holds base shards."""
    if folder not in known:
        path = folder / LAYER_FILE
        known[folder] = value = read_json(path) if path.is_file() else None
        if value is not None and (
            not isinstance(value.get("layer"), str) or not isinstance(value.get("base"), list)
        ):
            raise DataError(f"{path} does not say which layer this is and over which base; was it edited?")
    return known[folder]


def _check_complete(folder: Path, manifest: Mapping[str, Any], tars: list[Path]) -> None:
    names = [str(base["name"]) for base in manifest["base"]]
    there = {tar_stem(tar) for tar in tars}
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"layer {manifest['layer']!r} in {folder} is incomplete: {len(missing)} of {len(names)} shards "
            f"are missing, first {missing[0]}; run the command that writes it again, or name the tars to use"
        )


def _resolve(tar: Path, manifest: Mapping[str, Any], base: str | None) -> _Joined:
    """The base and all layers of one layer tar."""
    name, folder = tar_stem(tar), tar.parent
    entry = next((entry for entry in manifest["base"] if entry["name"] == name), None)
    if entry is None:
        raise DataError(f"{folder / LAYER_FILE} names no base for {tar}; does this tar belong to the layer?")
    layers = []
    for below in entry.get("layers", ()):
        place = next((path for path in _candidates(folder, below) if path.is_file()), None)
        if place is None:
            raise DataError(f"{tar} lies over layer {below['name']!r}, but there is no {below['url']}")
        layers.append(LayerShard(str(below["name"]), str(place)))
    layers.append(LayerShard(str(manifest["layer"]), str(tar)))
    return _Joined(_base_path(tar, entry, base), name, layers)


def _base_path(tar: Path, entry: Mapping[str, Any], base: str | None) -> Path:
    if base is not None:
        parts = Path(entry.get("path", entry["url"])).parts
        moved = [Path(base).joinpath(*parts[-depth:]) for depth in range(min(3, len(parts)), 0, -1)]
        place = next((path for path in moved if path.is_file()), None)
        if place is None:
            raise DataError(f"the base of {tar} is not in {base}: there is no {moved[-1]}")
        return place
    there = [path for path in _candidates(tar.parent, entry) if path.is_file()]
    if not there:
        raise DataError(
            f"the base of {tar} is gone: there is no {entry['url']}; say where it is with --base FOLDER"
        )
    same = [path for path in there if path.stat().st_size == entry.get("num_bytes", path.stat().st_size)]
    if not same:
        raise DataError(
            f"{there[0]} has changed since {tar} was written over it; write the layer again, or say with "
            "--base FOLDER where the base is"
        )
    return same[0]


def _candidates(folder: Path, location: Mapping[str, Any]) -> list[Path]:
    url = location["url"]
    return [Path(url), folder / location.get("relative", url), Path(location.get("path", url))]


def _unique_names(joined: list[_Joined]) -> list[str]:
    """File names without .tar; where several are equal, with as many folders before them as it takes."""
    names = [one.name or tar_stem(one.path) for one in joined]
    for depth in range(1, 8):
        times = Counter(names)
        if len(times) == len(names):
            return names
        names = [
            name if times[name] == 1 else "__".join([*_parents(one.path, depth), tar_stem(one.path)])
            for name, one in zip(names, joined, strict=True)
        ]
    times = Counter(names)
    return [
        name if times[name] == 1 else f"{name}__{sha256(bytes(one.path.absolute())).hexdigest()[:8]}"
        for name, one in zip(names, joined, strict=True)
    ]


def _parents(path: Path, depth: int) -> tuple[str, ...]:
    return path.absolute().parts[1:-1][-depth:]
