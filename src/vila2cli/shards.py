"""Where samples come from: shard specs to a source whose base shards are joined with their layers.

The names that stages use are all here; what lies below them is in finding (specs to places), streams
and tarfiles (bytes of an archive), reader (one shard to samples), layers and rejects (writing).
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from os.path import normpath
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import to_json_bytes
from vila2cli.finding import find, read_manifest
from vila2cli.fingerprints import Fingerprint
from vila2cli.layers import (
    LAYER_FILE,
    LayerInfo,
    LayerWriter,
    ShardWriter,
    Source,
    open_layer,
    samples_of,
)
from vila2cli.places import (
    file_name,
    folder,
    folders,
    is_pipe,
    is_remote,
    is_there,
    is_url,
    join,
    local_path,
    tar_stem,
)
from vila2cli.reader import LayerShard, Shard, expected_samples, member_problems, num_samples, read_shard
from vila2cli.records import file_sha256, made_from
from vila2cli.rejects import Unreadable, gather_rejects, read_rejects, write_rejects
from vila2cli.shard_stats import ShardStats, done, folder_figures, folder_stats, missing, to_made_from
from vila2cli.streams import file_system, fingerprint, persistently
from vila2cli.tarfiles import TarWriter

__all__ = [
    "LayerInfo",
    "LayerShard",
    "LayerWriter",
    "Shard",
    "ShardStats",
    "ShardWriter",
    "Source",
    "TarWriter",
    "Unreadable",
    "done",
    "expand",
    "expected_samples",
    "file_sha256",
    "folder_figures",
    "folder_stats",
    "gather_rejects",
    "made_from",
    "member_problems",
    "missing",
    "num_samples",
    "open_layer",
    "open_source",
    "read_rejects",
    "read_shard",
    "samples_of",
    "to_json_bytes",
    "to_made_from",
    "write_rejects",
]


def expand(specs: Sequence[str]) -> list[str]:
    """Places of the tars that specs name, in the order given and sorted inside a glob or folder.

    A spec is a tar, a glob, a `{000..010}` range, a folder of tars, a layer folder or its layer.json,
    on this machine or at any URL that fsspec reads, or a `pipe:` command whose output is a tar.
    Raises DataError naming the first spec that matches nothing.
    """
    return list(dict.fromkeys(tar for spec in specs for found in find(spec) for tar in found.tars))


def open_source(specs: Sequence[str], *, base: str | None = None) -> Source:
    """Join base shards with the layers over them; `specs` may mix base tars, layer tars and layer folders.

    A layer tar brings its base and the layers below it, as its layer.json names them: relative to the layer
    folder, else as given (from the current folder), else by absolute path. `base` is the folder where
    base shards are now. A base named several times is read once, with all annotations in the order given.
    Raises DataError for what is missing, an unfinished layer folder, a base that has changed, or layers over
    two copies of one base; a remote shard is asked for only when it is read.
    """
    found = [one for spec in specs for one in find(spec)]
    manifests = _Manifests()
    commands = {tar for one in found for tar in one.tars if is_pipe(tar)}
    joined: dict[str, _Joined] = {}
    for one in found:
        if one.folder and (manifest := manifests[one.folder]):
            _check_complete(one.folder, manifest, one.tars)
        for tar in one.tars:
            manifest = manifests[folder(tar)]
            here = _Joined(tar) if manifest is None else _resolve(tar, manifest, base, commands)
            joined.setdefault(_identity(here.place), _Joined(here.place, here.name)).add(here.layers)
    if not joined:
        raise DataError("no shards were given; name them with --shards")
    _refuse_copies(list(joined.values()))
    names = _unique_names(list(joined.values()))
    shards = [
        Shard(name, one.place, tuple(one.layers)) for name, one in zip(names, joined.values(), strict=True)
    ]
    return Source(tuple(shards), tuple(_layer_infos(shards, manifests)))


class _Manifests(dict[str, dict[str, Any] | None]):
    """The layer.json of folders, each read once."""

    def __missing__(self, where: str) -> dict[str, Any] | None:
        self[where] = value = read_manifest(where)
        return value


def _layer_infos(shards: Sequence[Shard], manifests: _Manifests) -> Iterator[LayerInfo]:
    places = dict.fromkeys((layer.layer, folder(layer.url)) for shard in shards for layer in shard.layers)
    for name, where in places:
        manifest = manifests[where] or {}
        yield LayerInfo(name, where, str(manifest.get("digest", "")))


@dataclass(slots=True)
class _Joined:
    """A base tar with the layer tars found for it so far; `name` is the one a layer knows it by."""

    place: str
    name: str = ""
    layers: list[LayerShard] = field(default_factory=list)

    def add(self, layers: list[LayerShard]) -> None:
        self.layers += [layer for layer in layers if layer not in self.layers]


def _identity(place: str) -> str:
    return place if is_remote(place) else str(local_path(place).resolve())


def _check_complete(where: str, manifest: Mapping[str, Any], tars: Sequence[str]) -> None:
    names = [str(base["name"]) for base in manifest["base"]]
    there = {tar_stem(tar) for tar in tars}
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"layer {manifest['layer']!r} in {where} is incomplete: {len(missing)} of {len(names)} shards "
            f"are missing, first {missing[0]}; run the command that writes it again, or name the tars to use"
        )


def _resolve(tar: str, manifest: Mapping[str, Any], base: str | None, commands: Collection[str]) -> _Joined:
    """The base and all layers of one layer tar."""
    name, where = tar_stem(tar), folder(tar)
    entry = next((entry for entry in manifest["base"] if entry["name"] == name), None)
    if entry is None:
        raise DataError(
            f"{join(where, LAYER_FILE)} names no base for {tar}; does this tar belong to the layer?"
        )
    layers = []
    for below in entry.get("layers", ()):
        place = next((place for place in _candidates(where, below) if _may_be_there(place)), None)
        if place is None:
            raise DataError(f"{tar} lies over layer {below['name']!r}, but there is no {below['url']}")
        layers.append(LayerShard(str(below["name"]), place))
    layers.append(LayerShard(str(manifest["layer"]), tar))
    place = _base_place(tar, entry, commands) if base is None else _moved_base(tar, entry, base)
    return _Joined(place, name, layers)


def _moved_base(tar: str, entry: Mapping[str, Any], base: str) -> str:
    """The base of a layer tar in the folder where it is now, in subfolders of it as before if need be."""
    parts = [*folders(entry.get("path", entry["url"])), file_name(str(entry["url"]))]
    moved = [join(base, "/".join(parts[-depth:])) for depth in range(min(3, len(parts)), 0, -1)]
    place = next((place for place in moved if _is_there(place)), None)
    if place is None:
        raise DataError(f"the base of {tar} is not in {base}: there is no {moved[-1]}")
    return place


def _base_place(tar: str, entry: Mapping[str, Any], commands: Collection[str]) -> str:
    url = str(entry["url"])
    if is_pipe(url) and url not in commands:
        raise DataError(
            f"the base of {tar} is the command {url!r}, which a layer cannot make run: "
            "give it among the shards, too, or say with --base where the files are"
        )
    there = [place for place in _candidates(folder(tar), entry) if _may_be_there(place)]
    if not there:
        raise DataError(f"the base of {tar} is gone: there is no {url}; say where it is with --base FOLDER")
    expected = _origin(tar)
    same = [
        place
        for place in there
        if expected is None or is_remote(place) or expected.agrees(fingerprint(place)) is not False
    ]
    if not same:
        raise DataError(
            f"{there[0]} has changed since {tar} was written over it; write the layer again, or say with "
            "--base FOLDER where the base is"
        )
    return same[0]


def _candidates(where: str, location: Mapping[str, Any]) -> list[str]:
    """Where a tar that a layer.json names may be: as seen from the layer, as given, by its path.

    From the layer first: a copy of a run goes with the copy of its data, wherever the original is.
    """
    url = str(location["url"])
    if is_remote(url):
        return [url]
    beside = join(where, str(location.get("relative", url)))
    return [beside] if is_remote(where) else [normpath(beside), url, str(location.get("path", url))]


def _may_be_there(place: str) -> bool:
    return is_remote(place) or is_there(local_path(place), Path.is_file)


def _is_there(place: str) -> bool:
    if not is_url(place):
        return is_there(local_path(place), Path.is_file)
    system, path = file_system(place)
    return bool(persistently(lambda: system.exists(path), place))


def _refuse_copies(joined: Sequence[_Joined]) -> None:
    """Raise DataError for layers that annotate one base in two places: each sample would be there twice."""
    times = Counter(tar_stem(one.place) for one in joined)
    first: dict[tuple[str, str], _Joined] = {}
    for one in joined:
        stem = tar_stem(one.place)
        sha256 = _known_sha256(one) if times[stem] > 1 else None
        other = one if sha256 is None else first.setdefault((stem, sha256), one)
        if other is not one and not _layer_folders(one) & _layer_folders(other):
            raise DataError(
                f"{one.place} is a copy of {other.place}, and each has layers of its own, so its samples would "
                "be read twice; say with --base FOLDER which to read, or give layers over one of them"
            )


def _known_sha256(one: _Joined) -> str | None:
    """The digest of a base as a local layer over it recorded it."""
    for layer in one.layers:
        if found := _origin(layer.url):
            return found.sha256 or None
    return None


def _origin(tar: str) -> Fingerprint | None:
    """What a local layer tar says of its base; a stats file that is damaged is told of when the tar is read."""
    try:
        return None if is_remote(tar) else made_from(local_path(tar)).get(tar_stem(tar))
    except DataError:
        return None


def _layer_folders(one: _Joined) -> set[str]:
    return {folder(layer.url) for layer in one.layers}


def _unique_names(joined: list[_Joined]) -> list[str]:
    """File names without .tar; where several are equal, with as many folders before them as it takes."""
    names = [one.name or tar_stem(one.place) for one in joined]
    for depth in range(1, 8):
        times = Counter(names)
        if len(times) == len(names):
            return names
        names = [
            name if times[name] == 1 else "__".join([*folders(one.place)[-depth:], tar_stem(one.place)])
            for name, one in zip(names, joined, strict=True)
        ]
    times = Counter(names)
    return [
        name if times[name] == 1 else f"{name}__{sha256(_identity(one.place).encode()).hexdigest()[:8]}"
        for name, one in zip(names, joined, strict=True)
    ]
