"""What a process that `vila2` itself started owes the one that started it: to end with it, and to let it speak.

Stages side by side begin each line with their name.

A training on several GPUs is one command, so its processes leave their error in a file, in the form of
torch.distributed.elastic, and the one that started them prints it once.
"""

import atexit
import contextlib
import ctypes
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from vila2cli.errors import Interrupted

STARTED_BY = "VILA2_STARTED_BY"
"""In the environment of a training's process the number of the process that started it."""
LINES_OF = "VILA2_LINES_OF"
"""In the environment of a stage that runs beside others its name."""
IN_RUN = "VILA2_IN_RUN"
"""In the environment of a stage that `vila2 run` started, which goes on with the next one itself."""
ERROR_TO = "VILA2_ERROR_TO"
"""In the environment of such a stage the number of the open file in which it leaves its error, too."""
COLLECT_AFTER = (50_000, 20, 20)
"""Objects after which cycles are looked for, and generations: samples come by thousands, and hold none. With
Python's own 700, a fifth of the time goes into it in which torch and transformers are imported."""
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_PR_SET_PDEATHSIG = 1
"""As prctl(2) has it."""
_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SPINS = "1000"
"""How often a thread of GNU OpenMP looks whether the others are done before it sleeps, some microseconds."""
_parent: int | None = None
_error_to: int | None = None
_is_program = False


def end_with(parent: int) -> None:
    """Have Linux send this process SIGTERM when its parent is gone, which may have been killed outright."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(Interrupted.exit_code)


def end_at_once(code: int) -> NoReturn:
    """End once libraries have tidied up, without waiting for threads amid a large picture.

    Nor is memory freed piece by piece, which takes a second where torch is loaded.
    """
    threading.excepthook = lambda args: None  # that a thread's processes are gone is no news
    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code)


def begin_program() -> None:
    """Note that this process is `vila2` and nothing else, and end with the one that started it for a training.

    Those below do not inherit that. Before torch is imported, as OpenMP reads its settings once.
    """
    global _parent, _is_program
    _is_program = True
    _wait_asleep()
    if text := os.environ.pop(STARTED_BY, ""):
        _parent = int(text)
        end_with(_parent)


def _wait_asleep() -> None:
    """Have threads that wait for each other leave their core to others, unless the user settled how they wait.

    By default each spins for milliseconds after every operation. Alone on a machine that gains nothing; beside
    another busy process, which takes a core for a while, two such threads get a third to a half as much done.
    """
    if not any(name in os.environ for name in _WAITS):
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": _SPINS}


class NamedLines(io.TextIOWrapper):
    """A stream of the process, with a name before each line, and no bars, of which several would collide."""

    def __init__(self, stream: io.TextIOWrapper, name: str) -> None:
        super().__init__(stream.detach(), stream.encoding, stream.errors, line_buffering=True)
        self._name, self._at_start = name, True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # by which click tells streams of bytes
            raise TypeError("write() argument must be str")
        named = ""
        for line in text.splitlines(keepends=True):
            named += f"{self._name} | {line}" if self._at_start else line
            self._at_start = line.endswith("\n")
        super().write(named)
        return len(text)


def name_lines() -> None:
    """Name the lines of this process where its stage runs beside others."""
    global _error_to
    _error_to = int(text) if (text := os.environ.pop(ERROR_TO, "")) else None
    name = os.environ.get(LINES_OF)
    if name and isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stdout, sys.stderr = NamedLines(sys.stdout, name), NamedLines(sys.stderr, name)


def is_program() -> bool:
    """Whether this process was started as `vila2`, rather than a Python program that calls it."""
    return _is_program


def is_started() -> bool:
    """Whether `vila2` itself started this process, and speaks for it."""
    return _parent is not None


def repeat_error(message: str) -> None:
    """Leave an error that is printed to the run as well, which says it last where it stopped other stages."""
    if _error_to is not None:
        with contextlib.suppress(OSError):
            os.write(_error_to, message.encode("utf-8", "backslashreplace"))


def leave_error(message: str, *, kind: str = "", trace: str = "") -> bool:
    """Leave an error, or the traceback of a defect, to the parent; False where there is none that prints it."""
    path = os.environ.get(_ERROR_FILE)
    if _parent is None or path is None:
        return False
    more = {"timestamp": str(int(time.time())), "py_callstack": trace}
    left = {"message": {"message": message, "kind": kind, "extraInfo": more}}
    Path(path).write_text(json.dumps(left))
    return True


def left_error(data: dict[str, Any]) -> tuple[str, str, str]:
    """Message, kind and traceback of what `leave_error` wrote; "" each where nothing was."""
    left = data.get("message")
    if not isinstance(left, dict):
        return "", "", ""
    return left["message"], left.get("kind", ""), left["extraInfo"]["py_callstack"]
