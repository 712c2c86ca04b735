"""The console script, and `python -m vila2cli`: heeds signals from before the first import to the end."""

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from types import TracebackType
from typing import NoReturn

from vila2cli.errors import Interrupted
from vila2cli.run.child import begin_program, leave_error, name_lines
from vila2cli.run.stopping import raising_on_signals
from vila2cli.shards.credentials import masked, secrets_in
from vila2cli.text.printable import printable


def run() -> None:
    """Run `vila2` and end the process with its exit code; a signal while it loads is one line and 75, too."""
    sys.excepthook = _show_defect
    begin_program()
    name_lines()
    try:
        with raising_on_signals():
            from vila2cli.cli.app import main

            code = main()
    except (Interrupted, KeyboardInterrupt) as stop:
        said = str(stop) or "stopped by SIGINT; run the same command again to go on"
        if not leave_error(said, kind=Interrupted.__name__):
            print(f"vila2: {said}", file=sys.stderr)
        code = Interrupted.exit_code
    # Where Ctrl-C came within an exec(), as of a namedtuple that is being imported, CPython remembers that it
    # was not caught there, and in the end kills itself with SIGINT; the next exec() makes it forget.
    exec("")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the exit code stands; only libraries tidy up from here
    if code == Interrupted.exit_code:
        _end_at_once(code)
    sys.exit(code)


def _end_at_once(code: int) -> NoReturn:
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


def _show_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback; what it quotes may be a caption, or what a server said with the key in it."""
    text = masked("".join(traceback.format_exception(kind, error, trace)), secrets_in(os.environ))
    text = printable(text, keep_newlines=True)
    if not leave_error(str(error), kind=kind.__name__, trace=text):
        print(text, end="", file=sys.stderr)


if __name__ == "__main__":
    run()
