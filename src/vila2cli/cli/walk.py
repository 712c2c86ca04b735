"""The stages of a run on this machine, side by side where they do not wait for each other.

What other stages wait for goes first and has all cores; what nothing waits for, an eval or a judge, has a share
of them and what time the others leave. GPUs are shared out, each to one stage.
"""

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import typer

from vila2cli.cli.documents import Failed
from vila2cli.cli.forking import Fork, count_threads, warm_up
from vila2cli.cli.terminal import complain, json_output
from vila2cli.errors import Interrupted
from vila2cli.run.child import ERROR_TO, IN_RUN, LINES_OF, end_with, is_program
from vila2cli.run.stages import Stage
from vila2cli.run.stopping import Stop, interruptible

_POLL_S = 0.05
_NICE = 10
"""How far a stage stands back that no other waits for."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What stages side by side share: CPU cores, and GPUs by the names that CUDA_VISIBLE_DEVICES has."""

    cores: int
    gpus: tuple[str, ...] = ()

    def jobs(self, asked: str) -> int:
        """How many stages run at a time; of itself two on CPUs, and one where it has GPUs, which it fills."""
        if asked == "auto":
            return 1 if self.gpus else min(2, self.cores)
        return min(int(asked), len(self.gpus)) if self.gpus else int(asked)


@dataclass(slots=True)
class _Running:
    """A stage that runs, with the GPUs it has, and the file in which it leaves its error."""

    stage: Stage
    process: "subprocess.Popen[bytes] | Fork"
    gpus: tuple[str, ...]
    error: IO[bytes] | None = None

    def take_error(self) -> str:
        """The error that it left, in one line, "" without one."""
        if self.error is None:
            return ""
        with self.error as file:
            file.seek(0)
            return " ".join(file.read().decode(errors="replace").splitlines())


@dataclass(slots=True)
class Walk:
    """Runs stages in processes of their own; `why_due` says of one why it has to run, "" where it has not.

    `done` is called with each that has been run.
    """

    stages: Sequence[Stage]
    flags: Sequence[str]
    jobs: int
    machine: Machine
    why_due: Callable[[Stage, Sequence[str]], str]
    done: Callable[[Stage], None]
    ran: dict[str, str] = field(default_factory=dict)
    _settled: set[str] = field(default_factory=set)
    _running: list[_Running] = field(default_factory=list)
    _failed: tuple[str, int] | None = None
    _reason: str = ""
    _cut: list[str] = field(default_factory=list)
    _stopped: Interrupted | None = None
    _warm_threads: int = 0

    def run(self) -> Mapping[str, str]:
        """Why each stage ran that did, by name.

        The first failure, or a signal, stops what runs as SIGTERM does. Raises Exit with the code of the stage
        that failed first, Interrupted where a signal ended stages before they could heed it.
        """
        with interruptible() as stop:
            num_threads = self._forks() and count_threads()
            self._start_ready()
            if self._running and num_threads and count_threads() == num_threads:
                with stop.at_once():
                    warm_up()  # while the first stage runs
                self._warm_threads = count_threads()
            while self._running:
                try:
                    with stop.at_once():
                        ended = self._await()
                except Interrupted as error:
                    self._stop_all(error, stop)
                    continue
                for one in ended:
                    self._end(one)
                if self._failed is None and self._stopped is None:
                    self._start_ready()
        if self._failed is not None:
            name, code = self._failed
            if self._stopped is not None and code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
                raise self._stopped
            if self._cut:  # and has spoken last; without others the stage has
                reason = f": {self._reason}" if self._reason else f" with exit code {code}"
                were = "were stopped and go on" if len(self._cut) > 1 else "was stopped and goes on"
                complain(f"{name} failed{reason}; {', '.join(self._cut)} {were} next time")
            json_output.add(Failed(name, code))
            raise typer.Exit(code)
        if self._stopped is not None:
            raise self._stopped
        return self.ran

    def _ready(self) -> Iterator[tuple[Stage, str]]:
        """The stages that can start, the ones first that others wait for; what is not due is settled."""
        busy = {one.stage.name for one in self._running}
        names = {stage.name for stage in self.stages}
        found = []
        for stage in self.stages:
            if stage.name in self._settled | busy or not set(stage.after) & names <= self._settled:
                continue
            if reason := self.why_due(stage, list(self.ran)):
                found.append((stage, reason))
            else:
                self._settled.add(stage.name)
        if self.jobs > 1:
            found.sort(key=lambda one: not self._is_awaited(one[0]))
        yield from found

    def _is_awaited(self, stage: Stage) -> bool:
        return any(stage.name in other.after for other in self.stages)

    def _start_ready(self) -> None:
        ready = list(self._ready())
        taken = {gpu for one in self._running for gpu in one.gpus}
        free = [gpu for gpu in self.machine.gpus if gpu not in taken]
        while ready and len(self._running) < self.jobs and (free or not self.machine.gpus):
            stage, self.ran[stage.name] = ready.pop(0)
            num = len(free) if not ready else max(1, len(self.machine.gpus) // self.jobs)
            gpus, free = tuple(free[:num]), free[num:]
            others = [one.stage for one in self._running] + [other for other, _ in ready]
            is_alone = not any(self._is_awaited(other) for other in others)
            self._running.append(self._start(stage, gpus, is_alone=is_alone))

    def _start(self, stage: Stage, gpus: tuple[str, ...], *, is_alone: bool) -> _Running:
        command = [sys.executable, "-P", "-m", "vila2cli", *stage.words, *self.flags]
        if self.jobs == 1:
            begin = functools.partial(end_with, os.getpid())
            environ = {**os.environ, IN_RUN: stage.name}
            return _Running(stage, subprocess.Popen(command, env=environ, preexec_fn=begin), gpus)
        is_awaited = self._is_awaited(stage)
        environ = dict(os.environ)
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        elif not stage.is_training and not (is_awaited and is_alone):
            # The number of threads decides the last bits of trained weights, so that it is the same for all.
            environ.setdefault("OMP_NUM_THREADS", str(max(1, self.machine.cores // self.jobs)))
        error = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the stage has ended)
        environ |= {IN_RUN: stage.name, LINES_OF: stage.name, ERROR_TO: str(error.fileno())}
        nice = 0 if is_awaited or gpus else _NICE
        if self._warm_threads and self._warm_threads == count_threads():
            return _Running(stage, Fork([*stage.words, *self.flags], environ, nice), gpus, error)
        begin = functools.partial(_begin, os.getpid(), nice)
        files = (error.fileno(),)
        process = subprocess.Popen(command, env=environ, preexec_fn=begin, pass_fds=files)
        return _Running(stage, process, gpus, error)

    def _forks(self) -> bool:
        """Whether stages to come can be forks: of a program of its own, which prints as they do."""
        is_whole = is_program() and not json_output.is_on
        return is_whole and self.jobs > 1 and sys.platform == "linux" and not self.machine.gpus

    def _await(self) -> list[_Running]:
        while not (ended := [one for one in self._running if one.process.poll() is not None]):
            time.sleep(_POLL_S)
        return ended

    def _end(self, one: _Running) -> None:
        self._running.remove(one)
        code, reason = one.process.poll() or 0, one.take_error()
        if code == 0:
            for marker in one.stage.markers:
                os.utime(marker)  # so that what is older than what it waits for is not looked at for ever
            self.done(one.stage)
            self._settled.add(one.stage.name)
        elif self._failed is None:
            self._failed, self._reason = (one.stage.name, code if code > 0 else 128 - code), reason
            for other in self._running:
                other.process.terminate()
        else:
            self._cut.append(one.stage.name)

    def _stop_all(self, error: Interrupted, stop: Stop) -> None:
        for one in self._running:
            one.process.terminate()
        self._stopped, stop.reason = error, None


def _begin(parent: int, nice: int) -> None:
    end_with(parent)
    os.nice(nice)
