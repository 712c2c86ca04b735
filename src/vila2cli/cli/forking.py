"""Stages as forks of a process that has imported what they need, which would take each of them seconds.

For Linux without GPUs alone: elsewhere libraries do not outlive a fork. Nothing may be computed before it, as
the threads of a computation are not there afterwards, and OpenMP would wait for them.
"""

import atexit
import gc
import importlib
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from vila2cli.run.child import end_with

_MODULES = (
    "torch",
    "accelerate",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.idefics3.modeling_idefics3",
    "transformers.models.llama.modeling_llama",
    "vila2cli.engine.hf",
    "vila2cli.stages.evaluate",
    "vila2cli.stages.judge",
    "vila2cli.stages.recaption",
    "vila2cli.train.job",
)
_HEEDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Fork:
    """A stage in a process of its own, as subprocess.Popen has it."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], nice: int) -> None:
        """Start `vila2` with these words and this environment."""
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)  # until the child has handlers of its own
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_a_stage(words, environ, nice, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def warm_up() -> None:
    """Import what stages need."""
    for name in _MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def count_threads() -> int:
    """The threads of this process, those of computations included: more than before means that one was done."""
    return len(list(Path("/proc/self/task").iterdir()))


def _be_a_stage(words: Sequence[str], environ: Mapping[str, str], nice: int, parent: int) -> NoReturn:
    try:
        for number in _HEEDED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
        end_with(parent)
        os.nice(nice)
        os.environ.clear()
        os.environ.update(environ)
        if threads := environ.get("OMP_NUM_THREADS", ""):
            import torch

            torch.set_num_threads(int(threads))
        sys.argv = ["vila2", *words]
        sys.modules.pop("vila2cli.__main__", None)
        runpy.run_module("vila2cli", run_name="__main__", alter_sys=True)
    finally:
        ended = sys.exception()
        if ended is not None and not isinstance(ended, SystemExit):
            sys.excepthook(type(ended), ended, ended.__traceback__)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        code = ended.code if isinstance(ended, SystemExit) else 1
        os._exit(code if isinstance(code, int) else 0)
