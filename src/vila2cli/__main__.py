"""The console script, and `python -m vila2cli`: heeds signals from before the first import to the end."""

import os
import signal
import sys
import traceback
from contextlib import suppress
from types import TracebackType

# Of these none takes long: Ctrl-C is heeded when they are there.
from vila2cli.errors import Interrupted
from vila2cli.run.child import begin_program, end_at_once, leave_error, name_lines
from vila2cli.run.stopping import raising_on_signals


def run() -> None:
    """Run `vila2` and end the process with its exit code; a signal while it loads is one line and 75, too."""
    _open_streams()
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
            with suppress(OSError):
                print(f"vila2: {said}", file=sys.stderr)
        code = Interrupted.exit_code
    # Where Ctrl-C came within an exec(), as of a namedtuple that is being imported, CPython remembers that it
    # was not caught there, and in the end kills itself with SIGINT; the next exec() makes it forget.
    exec("")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the exit code stands; only libraries tidy up from here
    if code == Interrupted.exit_code:
        end_at_once(code)
    sys.exit(code)


def _open_streams() -> None:
    """Open nothing where stdin, stdout or stderr are closed: a shard would get the number, and the lines."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _show_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback; what it quotes may be a caption, or what a server said with the key in it."""
    from vila2cli.shards.credentials import masked, secrets_in
    from vila2cli.text.printable import printable

    text = masked("".join(traceback.format_exception(kind, error, trace)), secrets_in(os.environ))
    text = printable(text, keep_newlines=True)
    if not leave_error(str(error), kind=kind.__name__, trace=text):
        print(text, end="", file=sys.stderr)


if __name__ == "__main__":
    run()
