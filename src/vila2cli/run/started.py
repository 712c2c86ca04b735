"""What a process that `vila2` itself started owes the one that started it: to end with it, and to let it speak.

A training on several GPUs is one command, so its processes leave their error in a file, in the form of
torch.distributed.elastic, and the one that started them prints it once.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from vila2cli.errors import Interrupted

STARTED_BY = "VILA2_STARTED_BY"
"""In the environment of a training's process the number of the process that started it."""
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_PR_SET_PDEATHSIG = 1
"""As prctl(2) has it."""
_parent: int | None = None


def end_with(parent: int) -> None:
    """Have Linux send this process SIGTERM when its parent is gone, which may have been killed outright."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(Interrupted.exit_code)


def heed_parent() -> None:
    """End with the process that started this one for a training, if one has; those below do not inherit it."""
    global _parent
    if text := os.environ.pop(STARTED_BY, ""):
        _parent = int(text)
        end_with(_parent)


def is_started() -> bool:
    """Whether `vila2` itself started this process, and speaks for it."""
    return _parent is not None


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
