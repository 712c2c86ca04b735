"""How much main memory is free: of the machine, and of the control group that a job or container runs in."""

from collections.abc import Iterator
from pathlib import Path

NO_LIMIT = 2**62
_ROOT = Path("/")
_USED = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
"""The file of a group's limit and that of what it uses, in both versions of control groups."""
_CACHE = ("inactive_file", "total_inactive_file")
"""What of that is page cache, which can be reclaimed."""


def available_memory(root: Path = _ROOT) -> int:
    """Bytes of main memory available without swapping; NO_LIMIT where the system does not say."""
    free = _entry(root / "proc" / "meminfo", "MemAvailable:")
    machine = NO_LIMIT if free is None else 1024 * free
    return max(0, min([machine, *_left_to_groups(root)]))


def _left_to_groups(root: Path) -> Iterator[int]:
    """What each control group around this process may still take."""
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys" / "fs" / "cgroup" / controllers
        own = top / place.lstrip("/")
        for group in [own, *own.parents]:
            yield from (_left(group / limit, group / used) for limit, used in _USED.items())
            if group == top:
                break


def _left(limit: Path, used: Path) -> int:
    most, now = _text(limit).strip(), _text(used).strip()
    if not (most.isdecimal() and now.isdecimal()):  # "max", or no such group here
        return NO_LIMIT
    caches = [_entry(limit.with_name("memory.stat"), name) for name in _CACHE]
    return int(most) - int(now) + max(size or 0 for size in caches)


def _entry(path: Path, name: str) -> int | None:
    """The number behind a name in a file of names and numbers."""
    rows = (line.split() for line in _text(path).splitlines())
    return next((int(row[1]) for row in rows if len(row) > 1 and row[0] == name), None)


def _text(path: Path) -> str:
    """The content of a file of the kernel, "" where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
