"""Output that nobody reads: a pipe that was closed, streams that never were open, a full disk."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from archives import jpeg, write_tar
from vila2cli.run.progress import Progress

VILA2 = [sys.executable, "-m", "vila2cli"]
MANY = 300_000
"""Characters, more than a pipe holds."""
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""Without a buffer Python does not notice that a pipe was closed amid a line."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    members = [("a.jpg", jpeg()), ("a.txt", b"red " * (MANY // 4))]
    return write_tar(tmp_path / "data" / "0.tar", members).parent


@pytest.mark.parametrize("more", [["--full"], ["--full", "--json"]])
def test_what_reads_the_output_may_stop(data: Path, more: list[str]) -> None:
    line = [*VILA2, "shards", "show", str(data), *more]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=BUFFERED) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        shown.stdout.read(10)
        shown.stdout.close()
        assert shown.stderr.read() == b""
    assert shown.returncode == 141


@pytest.mark.parametrize("more", ["", "--json"])
def test_a_full_disk_below_the_output_is_one_line(data: Path, more: str) -> None:
    line = [*VILA2, "shards", "show", str(data), *more.split()]
    with Path("/dev/full").open("wb") as full:
        shown = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, check=False)
    assert shown.returncode == 4
    assert shown.stderr.decode() == "vila2: standard output: No space left on device\n"


def test_streams_that_are_closed_are_no_shards(data: Path, tmp_path: Path) -> None:
    """The first files that are opened would have their numbers, and get what is printed."""
    words = f"filter --shards {data} --out {tmp_path / 'out'} --where width>=1 --json"
    line = [sys.executable, "-m", "vila2cli", *words.split()]
    subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *line], check=True)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["out"] == 1


def test_work_goes_on_that_nobody_can_look_at() -> None:
    done = []
    with suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails, too
        with Progress("filter", total=2, stream=full) as progress:
            progress.note("a note")
            progress.advance(2)
        done.append(progress.num_done)
    assert done == [2]
