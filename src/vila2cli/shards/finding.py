"""Shard specs to the places of tars, on this machine or remote, and the layer.json beside them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from shlex import quote
from typing import Any

from braceexpand import braceexpand

from vila2cli.errors import DataError
from vila2cli.files import parse_json, read_json
from vila2cli.shards.places import (
    PACKED,
    PLAIN,
    TAR_SUFFIXES,
    Command,
    Remote,
    folder,
    found_locally,
    is_pipe,
    is_url,
    join,
    local_path,
    packer_of,
    path_of,
    seen_from,
    tar_stem,
    typed,
)
from vila2cli.shards.records import LAYER_FILE, check_layer_json, refuse_both
from vila2cli.shards.streams import file_system, persistently, read_small
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS

_LOOKED_AT = 10_000
_TABLES = ("csv", "tsv", "jsonl")
_RANGE = re.compile(r"(\{\d+\.\.\d+\})")


@dataclass(frozen=True, slots=True)
class Found:
    """What one spec, or one match of its pattern, names: a tar, or all tars of a `folder`."""

    tars: tuple[str, ...]
    folder: str = ""


def find(spec: str | Path) -> list[Found]:
    """The tars and folders of tars that a spec names; raises DataError when it matches nothing.

    Text is what the user typed: a `pipe:` command in it will be run. A path that was found is given as a
    Path, which stands for itself, whatever its name looks like. A remote tar is taken to be there; of remote
    places only folders and globs are asked for.
    """
    if isinstance(spec, Path):
        return [_found(spec.parent if spec.name == LAYER_FILE else spec, str(spec))]
    place = typed(spec)
    if isinstance(place, Remote):
        _refuse_file_name(place)
        _check_address(place)
        return [match for pattern in _braces(place) for match in _find_remote(place.like(pattern), place)]
    path = _or_packed(local_path(spec).expanduser())
    if path.name == LAYER_FILE:
        path = path.parent
    if path.exists():
        return [_found(path, spec)]
    matches = [_found(match, spec) for pattern in _braces(str(path)) for match in _match(pattern, spec)]
    if not matches:
        raise DataError(f"no shards match {spec!r}{seen_from(spec)}; {_instead(str(path))}")
    return matches


def one_inside(spec: str) -> str:
    """A spec, or for a folder without shards the one inside it that has: a judge's verdicts, an eval's task.

    Raises DataError naming all where several do. What names no local folder is given back as it is.
    """
    if isinstance(typed(spec), Remote):
        return spec
    path = local_path(spec).expanduser()
    if not path.is_dir() or _has_tars(path):
        return spec
    inside = sorted(one for one in path.iterdir() if one.is_dir() and _has_tars(one))
    if len(inside) > 1:
        raise DataError(
            f"{spec} holds several layers or folders of shards; name one: {', '.join(map(str, inside))}"
        )
    return str(inside[0]) if inside else spec


def _refuse_file_name(place: Remote) -> None:
    """Raise DataError for a word that is a file's name as well: the shell may have put it there for a glob."""
    if os.path.lexists(place):
        raise DataError(
            f"{place} is the name of a file here as well as a {'command' if is_pipe(place) else 'URL'}; write "
            "./ before it for the file, or rename that"
        )


def _check_address(place: Remote) -> None:
    try:
        path_of(place)
    except ValueError as error:
        raise DataError(f"{place} is no address: {error}") from None


def read_manifest(where: str) -> dict[str, Any] | None:
    """The layer.json of a folder, None when it holds base shards or, being a command, is none."""
    if not where:
        return None
    path = join(where, LAYER_FILE)
    if is_url(path):
        data = read_small(path)
        value = None if data is None else parse_json(data, path)
    else:
        value = read_json(Path(path)) if Path(path).is_file() else None
    return None if value is None else check_layer_json(value, path)


def _braces(pattern: str) -> list[str]:
    if isinstance(pattern, Command):  # other braces and backslashes are the command's own
        parts = [list(braceexpand(part)) if _RANGE.match(part) else [part] for part in _RANGE.split(pattern)]
        return ["".join(chosen) for chosen in product(*parts)]
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise DataError(
            f"the braces in {pattern!r} do not match; write a range like data/{{000000..000010}}.tar"
        ) from None


def _found(path: Path, spec: str) -> Found:
    if path.is_dir():
        tars = sorted(found_locally(tar) for tar in path.iterdir() if _is_tar(tar))
        stems = {tar_stem(tar) for tar in tars}
        is_layer = (path / LAYER_FILE).is_file()
        if is_layer:
            refuse_both(path, tars)
        for stats in () if is_layer else sorted(path.glob("*.stats.json")):
            if (stem := stats.name.removesuffix(".stats.json")) not in stems:
                raise DataError(
                    f"{path} holds {stats.name} and no {stem}.tar; copy that, or remove its stats file"
                )
        if not tars and not is_layer:
            what = "the folder" if str(path) == spec else f"{path} is a folder, and"
            raise DataError(
                f"no shards match {spec!r}{seen_from(spec)}: {what} holds no .tar files{_advice(path)}"
            )
        return Found(tuple(tars), found_locally(path))
    if not tar_stem(path):
        raise DataError(f"{path} is no shard: its name should end in {', '.join(TAR_SUFFIXES)}{_advice(path)}")
    return Found((found_locally(path),))


def _instead(pattern: str) -> str:
    """What to do about a glob that matches no shards: by the first file or folder that it does match."""
    anchor = Path(Path(pattern).anchor)
    found = (path for part in _braces(pattern) for path in anchor.glob(str(Path(part).relative_to(anchor))))
    seen = (path for path in islice(found, 100) if not path.name.startswith("."))
    return next(filter(None, map(_advice, seen)), "").lstrip("; ") or "expected .tar files"


def _advice(path: Path) -> str:
    """What to do about a file, or a folder of files, that are no shards, "" where nobody could tell."""
    files = sorted(islice(path.rglob("*"), _LOOKED_AT)) if path.is_dir() else [path]
    first: dict[str, Path] = {}
    for file in files:
        if not any(part.startswith(".") for part in file.parts[len(path.parts) :]):
            first.setdefault("tar" if tar_stem(file) else file.suffix[1:].lower(), file)
    if packed := next((file for file in first.values() if packer_of(file.name)), None):
        command = f"'pipe:{packer_of(packed.name)} -dc {quote(str(packed))}'"
        return f"; only gzip is unpacked here: unpack it, or name the command that does so, {command}"
    if path.is_dir() and "tar" in first:
        return f"; {first['tar']} is one: name {first['tar'].parent}, or a glob such as {path}/*/*.tar"
    if picture := next((file for ending, file in first.items() if ending in IMAGE_EXTENSIONS), None):
        folder = path if path.is_dir() else path.parent
        return (
            f"; {picture.name} is a picture: make shards of such files first, with "
            f"`vila2 shards convert folder {quote(str(folder))} --out FOLDER`"
        )
    if table := next((first[ending] for ending in ("parquet", *_TABLES) if ending in first), None):
        form = "parquet" if table.suffix.lower() == ".parquet" else "csv"
        command = f"vila2 shards convert {form} {quote(str(table))} --out FOLDER"
        return f"; make shards of a table first, with `{command}`"
    return ""


def _is_tar(path: Path) -> bool:
    """Whether a path is a shard; raises DataError for what is called like one and can hold no samples.

    A link whose target is gone would otherwise be a shard less, which nobody would notice.
    """
    if not tar_stem(path) or path.is_file():
        return bool(tar_stem(path))
    what = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no regular file"
    raise DataError(f"{path} is {what}, not a shard; remove it, rename it, or name the shards one by one")


def _or_packed(path: Path) -> Path:
    """A path as it is, or where only NAME.tar.gz is there for NAME.tar, that."""
    packed = path.with_name(path.name.removesuffix(PLAIN) + PACKED) if path.name.endswith(PLAIN) else path
    return packed if not path.exists() and packed.exists() else path


def _with_packed(pattern: str) -> list[str]:
    """A glob, and for one of .tar that of the .tar.gz which layers are."""
    return [pattern, pattern.removesuffix(PLAIN) + PACKED] if pattern.endswith(PLAIN) else [pattern]


def _match(pattern: str, spec: str) -> Iterator[Path]:
    if not any(character in pattern for character in "*?["):
        path = _or_packed(Path(pattern))
        if not path.exists():
            wanted = f"no shards match {spec!r}: " if pattern != spec else ""
            raise DataError(f"{wanted}there is no {pattern}{seen_from(spec)}")
        yield path
        return
    anchor = Path(Path(pattern).anchor)
    patterns = _with_packed(str(Path(pattern).relative_to(anchor)))
    for path in sorted(path for pattern in patterns for path in anchor.glob(pattern)):
        if tar_stem(path) or (path.is_dir() and _has_tars(path)):
            yield path


def _has_tars(path: Path) -> bool:
    return (path / LAYER_FILE).is_file() or any(tar_stem(tar) and tar.is_file() for tar in path.iterdir())


def _find_remote(place: Remote, spec: str) -> list[Found]:
    if isinstance(place, Command):
        return [Found((place,))]
    if path_of(place).endswith(f"/{LAYER_FILE}"):
        place = place.like(folder(place))
    if any(character in path_of(place) for character in "*["):
        system, path = file_system(place)
        globs = _with_packed(path)
        paths = persistently(lambda: [tar for pattern in globs for tar in system.glob(pattern)], place)
        tars = (system.unstrip_protocol(path) for path in sorted(paths) if tar_stem(path))
        matches = [Found((place.like(tar),)) for tar in tars]
        if not matches and tar_stem(place) and persistently(lambda: system.exists(path), place):
            matches = [Found((place,))]  # a name with brackets
    elif tar_stem(place):
        matches = [Found((place,))]
    else:
        matches = [Found(tuple(_tars_in(place)), place)]
    if not any(match.tars for match in matches):
        raise DataError(f"no shards match {spec!r}; expected names that end in {', '.join(TAR_SUFFIXES)}")
    return matches


def _tars_in(place: str) -> list[str]:
    system, path = file_system(place)
    names = persistently(lambda: system.ls(path.rstrip("/") + "/", detail=False), place)
    return sorted({join(place, tar) for name in names if tar_stem(name) and (tar := name.rpartition("/")[2])})
