"""Shards, an engine of replicas, and the processes that they are."""

import io
import time
from pathlib import Path
from typing import Any

from tiny_vlm import picture
from vila2cli.shards import TarWriter

NUM_SHARDS, NUM_SAMPLES = 6, 6


class Heavy:
    """An engine that takes minutes to be freed."""

    name = "heavy"

    def __del__(self) -> None:
        time.sleep(300)


def open_heavy(*_: Any) -> Heavy:
    return Heavy()


def write_shards(folder: Path, num_shards: int = NUM_SHARDS, num_samples: int = NUM_SAMPLES) -> Path:
    for shard in range(num_shards):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for number in range(shard * num_samples, (shard + 1) * num_samples):
                stream = io.BytesIO()
                picture(number).save(stream, "PNG")
                members = {"png": stream.getvalue(), "txt": f"picture {number}".encode()}
                tar.write_sample(f"{number:09}", members)
    return folder


def tars(folder: Path) -> dict[str, bytes]:
    """Every tar of a folder and those below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.tar.gz"))}


def replicas_of(parent: int) -> list[int]:
    """The processes that a process started as replicas."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z" and b"vila2cli.ask.replica" in words:
            found.append(int(process.name))
    return sorted(found)


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked after does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
