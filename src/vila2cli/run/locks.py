"""Who writes a folder: one process, or workers who split it in the same way, each its own part."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vila2cli.errors import DataError
from vila2cli.files import MARK, naming, open_locked
from vila2cli.run.workers import Worker

_LOCK_TRIES, _LOCK_WAIT_S = 25, 0.02


@contextlib.contextmanager
def lock(out_dir: Path, worker: Worker | None = None) -> Iterator[None]:
    """Keep other processes from writing the same output meanwhile: of workers the same part, and of
    those who split the work in another way, or not at all, any part.

    Raises DataError naming the process that holds it. The lock goes with the process, however it ends.
    """
    worker = worker or Worker()
    folder = out_dir.resolve()  # a link to it, or ".", is the same folder
    path = folder.with_name(f"{MARK}{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    with contextlib.ExitStack() as held:
        if worker.count == 1:
            held.enter_context(_held(path, out_dir, me))
        else:
            part = path.with_name(f"{MARK}{folder.name}.{worker.index}of{worker.count}.lock")
            held.enter_context(_held(part, out_dir, f"worker {worker}, {me}"))
            held.enter_context(_shared(path, out_dir, worker, me))
        yield


@contextlib.contextmanager
def _held(path: Path, out_dir: Path, me: str) -> Iterator[None]:
    """Hold a lock file alone."""
    stream = open_locked(path)
    if stream is None:
        raise DataError(f"{out_dir} is in use by {_holder(path)}; wait for it or stop it")
    with stream:
        _sign(stream, me)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _shared(path: Path, out_dir: Path, worker: Worker, me: str) -> Iterator[None]:
    """Hold a lock file together with the workers of the same split, which the first of them notes there."""
    split = f"{worker.count} workers"
    for _ in range(_LOCK_TRIES):  # others come and go
        first = open_locked(path)
        if first is not None:
            with first:
                _sign(first, f"{split}, the first of them {me}")
        stream = open_locked(path, shared=True, create=False)
        if stream is not None:
            if _holder(path).startswith(f"{split},"):
                break
            stream.close()
        time.sleep(_LOCK_WAIT_S)
    else:
        raise DataError(
            f"{out_dir} is in use by {_holder(path)}; worker {worker} has to wait for it, or stop it"
        )
    try:
        with stream:
            yield
    finally:
        last = open_locked(path, create=False)
        if last is not None:
            with last:
                path.unlink(missing_ok=True)


def _sign(stream: BinaryIO, who: str) -> None:
    with naming(Path(stream.name)):
        os.ftruncate(stream.fileno(), 0)
        os.write(stream.fileno(), who.encode())  # where a disk is full, closing would fail on what is unwritten


def _holder(path: Path) -> str:
    """Who a lock file says holds it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"
