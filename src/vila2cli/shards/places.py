"""Names of places that hold shards: local paths, fsspec URLs and `pipe:` commands, all as text.

What is no `Remote` is a local path, however it is spelled. So nothing that is found in a folder or read from a
file is run, and none of it is asked of a network, unless it went through `typed` or `from_record`.
"""

import errno
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from vila2cli.errors import DataError
from vila2cli.shards.credentials import (
    command_digest,
    command_without_credentials,
    shell_words,
    without_credentials,
)
from vila2cli.shards.web import has_headers

PLAIN, PACKED = ".tar", ".tar.gz"
TAR_SUFFIXES = (PLAIN, PACKED, ".tgz")
PIPE = "pipe:"
_PACKERS = {".zst": "zstd", ".xz": "xz", ".bz2": "bzip2", ".lz4": "lz4"}

_URL = re.compile(r"[a-z][a-z0-9+.-]*(::|://)", re.I)
_WEB = ("http://", "https://")


_RECORDED_PROTOCOLS = re.compile(r"https?|s3a?|gs|gcs|az|abfss?|adl|oci|oss|r2|hf|memory")
"""Stores that a file may send us to: plain web addresses, and buckets of a store whose host the user set up."""


class Remote(str):
    """A URL that is read. In a message (`f"{place}"`) it is without its credentials, as `redacted` has it."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return format(redacted(self), spec)

    def __repr__(self) -> str:
        return repr(redacted(self))

    def like(self, text: str) -> Self:
        """Another place of the same kind."""
        return type(self)(text)


class Command(Remote):
    """A command whose output is the shard. Only `typed` makes one, of a word that the user wrote."""

    __slots__ = ()


def typed(text: str) -> str:
    """A place as the user wrote it in an option or a recipe: `pipe:COMMAND`, a URL, or a local path."""
    if isinstance(text, Remote):
        return text
    if text.startswith(PIPE):
        return Command(text)
    return Remote(text) if _looks_like_url(text) else text


def from_record(text: str) -> str:
    """A place that some file names: a URL of a common store, else a local path; raises DataError.

    A command is none, nor is a chain of protocols, a protocol that logs in to the host it names, a web
    address where fsspec sends headers of the user's with each request, or an address of which a part was left
    out as it may be a credential (`#` and a digest stand for it).
    """
    if text.startswith(PIPE) or not _looks_like_url(text):
        return text
    is_common = _RECORDED_PROTOCOLS.fullmatch(text.partition("://")[0].lower())
    if has_headers(text) or "::" in text or "#" in text or not is_common:
        raise DataError(
            f"{redacted(text)} is named by a layer and not read on its word: give it among the shards, too, or "
            "say with --base where the files are"
        )
    return Remote(text)


def found_locally(path: Path) -> str:
    """A local path as a place; one that could be taken for a URL or a command in full, from the root."""
    text = str(path)
    return str(path.absolute()) if looks_remote(text) else text


def redacted(place: str | Path) -> str:
    """A place as files may hold it, without credentials; what is recorded already stays."""
    text = str(place)
    if text.startswith(PIPE):
        return PIPE + command_without_credentials(text.removeprefix(PIPE))
    return without_credentials(text) if _looks_like_url(text) else text


def looks_remote(text: str) -> bool:
    """Whether a text, wherever it stands, is a URL or a command; a path that was found may look so, too."""
    return text.startswith(PIPE) or _looks_like_url(text)


def _looks_like_url(text: str) -> bool:
    """`file:` URLs are local paths, see `local_path`."""
    return _URL.match(text) is not None and not text.startswith("file://")


def is_pipe(place: str | Path) -> bool:
    """Whether a place is a command whose output is the shard, `pipe:aws s3 cp s3://bucket/000000.tar -`."""
    return isinstance(place, Command)


def is_url(place: str | Path) -> bool:
    """Whether a place is one for fsspec."""
    return isinstance(place, Remote) and not isinstance(place, Command)


def is_remote(place: str | Path) -> bool:
    return isinstance(place, Remote)


def local_path(place: str | Path) -> Path:
    """The path of a place that is not remote."""
    return Path(str(place).removeprefix("file://"))


def is_there(path: Path, kind: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether a path that some file names is there, and of that kind; one that no disk could hold is not."""
    try:
        return kind(path)
    except ValueError:
        return False
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def seen_from(place: str | Path) -> str:
    """The folder that a relative path is seen from, for a message that it is not there; "" for any other."""
    text = str(place)
    return "" if looks_remote(text) or local_path(text).is_absolute() else f" in {Path.cwd()}"


def tar_stem(place: str | Path) -> str:
    """File name without .tar, .tar.gz or .tgz; "" when it ends in none of them.

    Of a command it is the last word that ends so; a command without one gets a name of its own.
    """
    if isinstance(place, Command):
        return command_stem(place) or f"pipe-{command_digest(place)}"
    name = file_name(place)
    suffix = next((s for s in TAR_SUFFIXES if name.endswith(s)), None)
    return name.removesuffix(suffix) if suffix else ""


def command_stem(command: str) -> str:
    """The name of the last tar that a command names, "" when it names none."""
    words = map(_without_packer, shell_words(command.removeprefix(PIPE)))
    places = (typed(word.partition("?")[0]) if "://" in word else word for word in words)
    return next(filter(None, map(tar_stem, reversed([*places]))), "")


def packer_of(name: str) -> str:
    """The program that unpacks a tar of this name where we do not, "" for every other name."""
    return next((program for ending, program in _PACKERS.items() if name.endswith(f"{PLAIN}{ending}")), "")


def _without_packer(word: str) -> str:
    return next((word.removesuffix(end) for end in _PACKERS if word.endswith(f"{PLAIN}{end}")), word)


def file_name(place: str | Path) -> str:
    """The last part of a place that is not a command."""
    return PurePosixPath(path_of(place)).name if isinstance(place, Remote) else local_path(place).name


def folders(place: str) -> tuple[str, ...]:
    """The names of the folders that a place lies in, outermost first; none for a command."""
    if is_pipe(place):
        return ()
    if is_url(place):
        return tuple(part for part in PurePosixPath(path_of(place)).parent.parts if part != "/")
    return local_path(place).absolute().parts[1:-1]


def folder(place: str) -> str:
    """The folder of a place, "" for a command."""
    if is_pipe(place):
        return ""
    if isinstance(place, Remote):
        base, query = _without_query(place)
        return place.like(base.rpartition("/")[0] + query)
    return str(local_path(place).parent)


def join(place: str, name: str) -> str:
    """What `name` is as seen from the folder `place`; the query of a web address stays at its end."""
    if isinstance(place, Remote) and not is_pipe(place):
        base, query = _without_query(place)
        parts = base.rstrip("/").split("/")
        for part in PurePosixPath(name).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        return place.like("/".join(parts) + query)
    return found_locally(local_path(place) / name)


def path_of(url: str) -> str:
    """The path of a URL that names the file: without protocols that wrap others, host, query or fragment."""
    parts = url.split("::")
    named = next((part for part in parts if "://" in part and part.partition("://")[2]), parts[-1])
    if named.startswith(_WEB):
        return urlsplit(named).path
    return named.partition("://")[2]


def _without_query(url: str) -> tuple[str, str]:
    if not url.startswith(_WEB):
        return url, ""
    cut = next((i for i, letter in enumerate(url) if letter in "?#"), len(url))
    return url[:cut], url[cut:]
