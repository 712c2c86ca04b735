"""Where samples come from: shard specs to a source whose base shards are joined with their layers.

The names that stages use are all here; what lies below them is in finding (specs to places), streams
and tarfiles (bytes of an archive), reader (one shard to samples), layers and rejects (writing).
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from os.path import normpath
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, DataWarning
from vila2cli.shards.finding import find, read_manifest
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.layers import LayerInfo, Source
from vila2cli.shards.places import (
    PIPE,
    Command,
    command_stem,
    file_name,
    folder,
    folders,
    found_locally,
    from_record,
    is_pipe,
    is_remote,
    is_there,
    is_url,
    join,
    local_path,
    redacted,
    tar_stem,
    typed,
)
from vila2cli.shards.reader import LayerShard, Shard, num_samples
from vila2cli.shards.records import LAYER_FILE, made_from
from vila2cli.shards.streams import file_system, fingerprint, persistently

_DIGEST_AT_END = re.compile(r"#[0-9a-f]{8}$")


def expand(specs: Sequence[str | Path]) -> list[str]:
    """Places of the tars that specs name, in the order given and sorted inside a glob or folder.

    A spec is a tar, a glob, a `{000..010}` range, a folder of tars, a layer folder or its layer.json,
    on this machine or at any URL that fsspec reads, or a `pipe:` command whose output is a tar. A Path is
    the file or folder of that name, as `find` says.
    Raises DataError naming the first spec that matches nothing.
    """
    return list(dict.fromkeys(tar for spec in specs for match in find(spec) for tar in match.tars))


def open_source(specs: Sequence[str | Path], *, base: str | None = None, limit: int | None = None) -> Source:
    """Join base shards with the layers over them; `specs` may mix base tars, layer tars and layer folders.

    Text is what the user typed, and a `pipe:` command in it is run; what was found or recorded is a Path.

    A layer tar brings its base and the layers below it, as its layer.json names them: relative to the layer
    folder, else as given (from the current folder), else by absolute path. `base` is the folder where
    base shards are now, or the `pipe:` commands that give them. What a layer.json names is never run, and a
    URL in it is read with the credentials of the one that was typed, where that is the same place.
    A base named several times is read once, with all annotations in the order given.
    With a `limit` the first so many samples are all there are; a layer over them has no others, either, and a
    base that is named beside such a layer is read as far as that goes, with a DataWarning.
    Raises DataError for what is missing, an unfinished layer folder, a base that has changed, or layers over
    two copies of one base; a remote shard is asked for only when it is read.
    """
    matches = [match for spec in specs for match in find(spec)]
    manifests = _Manifests()
    given = [tar for match in matches for tar in match.tars if is_remote(tar)]
    joined: dict[str, _Joined] = {}
    named: set[str] = set()
    for match in matches:
        if match.folder and (manifest := manifests[match.folder]):
            _check_complete(match.folder, manifest, match.tars)
        for tar in match.tars:
            manifest = manifests[folder(tar)]
            here = _Joined(tar) if manifest is None else _resolve(tar, manifest, base, given)
            joined.setdefault(_identity(here.place), _Joined(here.place, here.name)).add(here)
            named |= {here.place} if manifest is None else set()
    if not joined:
        raise DataError("no shards were given; name them with --shards")
    for cut in (base for base in joined.values() if base.first is not None and base.place in named):
        warnings.warn(
            f"{redacted(cut.place)}: only its first {cut.first:,} samples are read, as a layer given with it "
            "is of these alone",
            DataWarning,
            stacklevel=2,
        )
    _refuse_copies(list(joined.values()))
    names = _unique_names(list(joined.values()))
    shards = [
        Shard(name, tar.place, tuple(tar.layers), tar.first)
        for name, tar in zip(names, joined.values(), strict=True)
    ]
    shards = shards if limit is None else _first_samples(shards, limit)
    return Source(tuple(shards), tuple(_layer_infos(shards, manifests)))


def _first_samples(shards: Sequence[Shard], limit: int) -> list[Shard]:
    """The shards that hold the first `limit` samples and rejects, the last of them cut to what is left.

    It is cut as well where the limit falls between two shards: what is made of them is not made of all.
    """
    kept: list[Shard] = []
    for shard in shards:
        has = num_samples(replace(shard, first=limit + 1 if shard.first is None else shard.first))
        is_last = has == limit and shard is shards[-1]
        kept.append(shard if has < limit or is_last else replace(shard, first=limit))
        limit -= min(has, limit)
        if not limit:
            break
    return kept


class _Manifests(dict[str, dict[str, Any] | None]):
    """The layer.json of folders, each read once."""

    def __missing__(self, where: str) -> dict[str, Any] | None:
        self[where] = value = read_manifest(where)
        return value


def _layer_infos(shards: Sequence[Shard], manifests: _Manifests) -> Iterator[LayerInfo]:
    places = dict.fromkeys((layer.layer, folder(layer.url)) for shard in shards for layer in shard.layers)
    for name, where in places:
        yield LayerInfo(name, where, str((manifests[where] or {}).get("digest", "")))


@dataclass(slots=True)
class _Joined:
    """A base tar with the layer tars found for it so far; `name` is the one a layer knows it by.

    The `first` samples are those that all of the layers are about, None where they are about all.
    """

    place: str
    name: str = ""
    layers: list[LayerShard] = field(default_factory=list)
    first: int | None = None

    def add(self, other: "_Joined") -> None:
        self.layers += [layer for layer in other.layers if layer not in self.layers]
        if other.first is not None:
            self.first = other.first if self.first is None else min(self.first, other.first)


def _identity(place: str) -> str:
    """What is equal for one place: two commands are two, whatever they look like without credentials."""
    if is_pipe(place):
        return place
    return redacted(place) if is_remote(place) else str(local_path(place).resolve())


def _digest_of_place(place: str) -> str:
    """Eight digits that tell places of one name apart, the same when a signature is renewed."""
    return sha256(redacted(_identity(place)).encode()).hexdigest()[:8]


def _check_complete(where: str, manifest: Mapping[str, Any], tars: Sequence[str]) -> None:
    names = [str(base["name"]) for base in manifest["base"]]
    there = {tar_stem(tar) for tar in tars}
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"layer {manifest['layer']!r} in {where} is incomplete: {len(missing)} of {len(names)} shards "
            f"are missing, first {missing[0]}; run the command that writes it again, or name the tars to use"
        )


def _resolve(tar: str, manifest: Mapping[str, Any], base: str | None, given: Sequence[str]) -> _Joined:
    name = tar_stem(tar)
    entry = next((entry for entry in manifest["base"] if entry["name"] == name), None)
    if entry is None:
        raise DataError(
            f"{join(folder(tar), LAYER_FILE)} names no base for {tar}; does this tar belong to the layer?"
        )
    layers = []
    for below in entry.get("layers", ()):
        place = next((place for place in _candidates(tar, below, given, "") if _may_be_there(place)), None)
        if place is None:
            url = redacted(str(below["url"]))
            raise DataError(f"{tar} is on top of layer {below['name']!r}, but there is no {url}")
        layers.append(LayerShard(str(below["name"]), place))
    layers.append(LayerShard(str(manifest["layer"]), tar))
    place = _base_place(tar, entry, given) if base is None else _moved_base(tar, entry, typed(base))
    return _Joined(place, name, layers, entry.get("first"))


def _moved_base(tar: str, entry: Mapping[str, Any], base: str) -> str:
    """The base of a layer tar in the folder where it is now, in subfolders of it as before if need be.

    Of `pipe:` commands it is the one whose tar has the name.
    """
    parts = _parts_of(entry)
    if isinstance(base, Command):
        commands = {tar_stem(tar): tar for match in find(base) for tar in match.tars}
        place = commands.get(tar_stem(parts[-1])) or commands.get(str(entry["name"]))
        if place is None:
            raise DataError(f"the base of {tar} is not among the commands of --base: none gives {parts[-1]}")
        return place
    moved = [join(base, "/".join(parts[-depth:])) for depth in range(min(3, len(parts)), 0, -1)]
    place = next((place for place in moved if _is_there(place)), None)
    if place is None:
        raise DataError(f"the base of {tar} is not in {base}: there is no {moved[-1]}")
    return place


def _parts_of(entry: Mapping[str, Any]) -> list[str]:
    """The names of the folders and of the tar of a base, as a layer.json has it."""
    url = str(entry["url"])
    if url.startswith(PIPE):
        return [f"{command_stem(url) or entry['name']}.tar"]
    place = (
        found_locally(Path(str(entry["path"]))) if "path" in entry else from_record(_DIGEST_AT_END.sub("", url))
    )
    return [*folders(place), file_name(place)]


def _base_place(tar: str, entry: Mapping[str, Any], given: Sequence[str]) -> str:
    url = str(entry["url"])
    there = [place for place in _candidates(tar, entry, given, tar_stem(tar)) if _may_be_there(place)]
    if not there and url.startswith(PIPE):
        raise DataError(
            f"the base of {tar} is the command {redacted(url)!r}, which a layer cannot make run: "
            "give it among the shards, too, or with --base, which also takes the folder where the files are"
        )
    if not there:
        raise DataError(
            f"the base of {tar} is gone: there is no {redacted(url)}; say where it is with --base FOLDER"
        )
    expected = _origin(tar)
    for place in there:
        if expected is None or is_remote(place) or expected.agrees(fingerprint(place)) is not False:
            return place
    raise DataError(
        f"{there[0]} has changed since {tar} was written over it; write the layer again, or say with "
        "--base FOLDER where the base is"
    )


def _candidates(tar: str, location: Mapping[str, Any], given: Sequence[str], name: str) -> list[str]:
    """Where a tar that a layer.json names may be: as seen from the layer, as given, by its path.

    From the layer first: a copy of a run goes with the copy of its data, wherever the original is. Of
    remote places those that were `given` come first, which may hold credentials; none of them is a command
    that was not. `name` is that of a tar which tells a command, "" where only its words do.
    """
    url = str(location["url"])
    if (place := _given_again(url, name, given)) is not None:
        return [place]
    if url.startswith(PIPE):
        return []
    where, place = folder(tar), from_record(url)
    if is_remote(place):
        return [place]
    beside = join(where, str(location.get("relative", url)))
    if is_remote(where):
        return [beside]
    paths = [Path(normpath(beside)), local_path(url), Path(str(location.get("path", url)))]
    return [found_locally(path) for path in paths]


def _given_again(url: str, name: str, given: Sequence[str]) -> str | None:
    """Which of the places typed is the remote one that a layer.json names: the same but for its credentials.

    A command may have changed in a word that is no known credential: then the only one that gives a tar of
    the name is meant, whose pictures are compared when it is read.
    """
    known = redacted(url)
    if same := [place for place in given if known == redacted(place)]:
        return same[0]
    named = [place for place in given if is_pipe(place) and tar_stem(place) == name]
    return named[0] if len(named) == 1 and url.startswith(PIPE) else None


def _may_be_there(place: str) -> bool:
    return is_remote(place) or is_there(local_path(place), Path.is_file)


def _is_there(place: str) -> bool:
    if not is_url(place):
        return is_there(local_path(place), Path.is_file)
    system, path = file_system(place)
    return bool(persistently(lambda: system.exists(path), place))


def _refuse_copies(joined: Sequence[_Joined]) -> None:
    """Raise DataError for layers that annotate one base in two places: each sample would be there twice."""
    times = Counter(tar_stem(base.place) for base in joined)
    first: dict[tuple[str, str], _Joined] = {}
    for base in joined:
        stem = tar_stem(base.place)
        sha256 = _known_sha256(base) if times[stem] > 1 else None
        other = base if sha256 is None else first.setdefault((stem, sha256), base)
        if other is not base and not _layer_folders(base) & _layer_folders(other):
            raise DataError(
                f"{base.place} is a copy of {other.place}, and each has layers of its own, so its samples "
                "would be read twice; say with --base FOLDER which to read, or give layers over one of them"
            )


def _known_sha256(base: _Joined) -> str | None:
    """The digest of a base as a local layer over it recorded it."""
    origins = filter(None, (_origin(layer.url) for layer in base.layers))
    return next((origin.sha256 or None for origin in origins), None)


def _origin(tar: str) -> Fingerprint | None:
    """What a local layer tar says of its base; a damaged stats file is reported when the tar is read."""
    try:
        return None if is_remote(tar) else made_from(local_path(tar)).get(tar_stem(tar))
    except DataError:
        return None


def _layer_folders(base: _Joined) -> set[str]:
    return {folder(layer.url) for layer in base.layers}


def _unique_names(joined: list[_Joined]) -> list[str]:
    """File names without .tar; where several are equal, with as many folders before them as it takes."""
    names = [base.name or tar_stem(base.place) for base in joined]
    for depth in range(1, 8):
        times = Counter(names)
        if len(times) == len(names):
            return names
        names = [
            name if times[name] == 1 else "__".join([*folders(base.place)[-depth:], tar_stem(base.place)])
            for name, base in zip(names, joined, strict=True)
        ]
    times = Counter(names)
    names = [
        name if times[name] == 1 else f"{name}__{_digest_of_place(base.place)}"
        for name, base in zip(names, joined, strict=True)
    ]
    if len(set(names)) < len(names):
        twice = next(base.place for base, name in zip(joined, names, strict=True) if names.count(name) > 1)
        raise DataError(f"{twice} is given twice with other credentials; give it once")
    return names
