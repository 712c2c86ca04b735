"""Names of places that hold shards: local paths, fsspec URLs and `pipe:` commands, all as text."""

import errno
import re
import shlex
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PIPE = "pipe:"

_URL = re.compile(r"[a-z][a-z0-9+.-]*(::|://)", re.I)
_WEB = ("http://", "https://")


def is_pipe(place: str) -> bool:
    """Whether a place is a command whose output is the shard, `pipe:aws s3 cp s3://bucket/000000.tar -`."""
    return place.startswith(PIPE)


def is_url(place: str) -> bool:
    """Whether a place is one for fsspec; `file:` URLs are local paths, see `local_path`."""
    return _URL.match(place) is not None and not place.startswith("file://")


def is_remote(place: str) -> bool:
    return is_pipe(place) or is_url(place)


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


def tar_stem(place: str | Path) -> str:
    """File name without .tar, .tar.gz or .tgz; "" when it ends in none of them.

    Of a command it is the last word that ends so; a command without one gets a name of its own.
    """
    text = str(place)
    if is_pipe(text):
        stems = [stem for word in _words(text.removeprefix(PIPE)) if (stem := tar_stem(word))]
        return stems[-1] if stems else f"pipe-{sha256(text.encode()).hexdigest()[:8]}"
    name = file_name(text)
    suffix = next((s for s in TAR_SUFFIXES if name.endswith(s)), None)
    return name.removesuffix(suffix) if suffix else ""


def file_name(place: str) -> str:
    """The last part of a place that is not a command."""
    return PurePosixPath(path_of(place)).name if is_url(place) else local_path(place).name


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
    if is_url(place):
        base, query = _without_query(place)
        return base.rpartition("/")[0] + query
    return str(local_path(place).parent)


def join(place: str, name: str) -> str:
    """What `name` is as seen from the folder `place`; the query of a web address stays at its end."""
    if is_url(place):
        base, query = _without_query(place)
        parts = base.rstrip("/").split("/")
        for part in PurePosixPath(name).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        return "/".join(parts) + query
    return str(local_path(place) / name)


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


def _words(command: str) -> Iterator[str]:
    try:
        words = shlex.split(command)
    except ValueError:  # quotes that do not match: the shell will say so
        words = command.split()
    for word in words:
        yield word.partition("?")[0] if "://" in word else word
