"""Python programs as forks of one process that has imported what they need, which takes each of them seconds.

`Forks.start(["-m", "vila2cli", "sft", ...])` is what `subprocess.Popen([sys.executable, ...])` is, but for the
imports. For tests of what a process does; where its start is the matter, a new interpreter is started.
"""

import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_MORE = ("vila2cli.cli.app", "vila2cli.stages.sft", "vila2cli.train.resume", "vila2cli.train.distribution")


class Forked:
    """A program that runs, as subprocess.Popen has it; what it prints is kept in files."""

    def __init__(self, forks: "Forks", pid: int, printed: tuple[Path, Path]) -> None:
        self.pid, self._forks, self._printed = pid, forks, printed
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.ask("poll", self.pid)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        end_s = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end_s:
                self.kill()
                raise TimeoutError(self._printed[1].read_text())
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it printed to stdout and to stderr, after it has ended."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self._printed)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that programs are forked from; it ends with this one, and they with it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._num = folder, 0
        here, there = socket.socketpair()
        with here, there:
            number = there.fileno()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(number)], stdin=subprocess.DEVNULL, pass_fds=[number]
            )
            self._connection = Connection(here.detach())
        self.ask("ready")

    def ask(self, *request: Any) -> Any:
        self._connection.send(request)
        return self._connection.recv()

    def start(
        self, words: Sequence[str], environ: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> Forked:
        """Run `python WORDS` with variables added to this environment, in a folder."""
        self._num += 1
        out, err = printed = self._folder / f"{self._num}.out", self._folder / f"{self._num}.err"
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})}
        pid = self.ask("start", list(words), variables, str(folder or Path.cwd()), str(out), str(err))
        return Forked(self, pid, printed)

    def close(self) -> None:
        self._connection.close()
        self._process.wait()


def _serve(connection: Connection) -> tuple[Any, ...]:
    """Fork a program for every request; what comes back, comes back in its process, as what it is to run."""
    connection.recv()
    connection.send(None)
    while True:
        try:
            name, *values = connection.recv()
        except EOFError:
            sys.exit()
        if name == "start":
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                connection.close()
                return (parent, *values)
            connection.send(pid)
        else:
            ended, status = os.waitpid(values[0], os.WNOHANG)
            connection.send(os.waitstatus_to_exitcode(status) if ended else None)


def _run(parent: int, words: list[str], environ: dict[str, str], folder: str, out: str, err: str) -> None:
    from vila2cli.run.child import end_with

    end_with(parent)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    if words[0] == "-m":
        sys.path[0], sys.argv = "", words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(words[0]).parent), words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    from vila2cli.cli.forking import warm_up

    for _name in _MORE:
        importlib.import_module(_name)
    warm_up()
    _run(*_serve(Connection(int(sys.argv[1]))))
