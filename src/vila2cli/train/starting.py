"""Starting the processes of a training on this machine, one for each GPU, with torch's own elastic launcher.

Under torchrun, accelerate, srun or mpirun the processes are there already, and nothing is started.
"""

import dataclasses
import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from vila2cli import errors
from vila2cli.devices import gpu_names
from vila2cli.errors import Interrupted, RankError, RecipeError, Vila2Error
from vila2cli.ranks import is_launched, num_cores
from vila2cli.run.child import STARTED_BY, left_error
from vila2cli.settings import TrainerSettings

_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
_CONSEQUENCES = (Interrupted.__name__, RankError.__name__)
"""What processes raise that miss one that ended, or are stopped for it."""
_SAVING_S = 24 * 3600
"""How long processes that were told to stop may take over their step and its checkpoint."""


def num_processes(trainer: TrainerSettings, environ: Mapping[str, str] = os.environ) -> int:
    """How many processes a training is to be started with here: 1 where a launcher has started this one.

    Raises RecipeError for more than there are GPUs.
    """
    if trainer.processes == 1 or is_launched(environ):
        return 1
    num_gpus = len(gpu_names(environ))
    if environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        num_gpus = 0
    if trainer.processes == "auto":
        return max(1, num_gpus)
    if 0 < num_gpus < trainer.processes:
        raise RecipeError(
            f"trainer.processes is {trainer.processes}, but {num_gpus} GPUs are visible; lower it, or set auto"
        )
    return trainer.processes


def start(count: int, words: Sequence[str], out: Path, *, is_json: bool = False) -> Any:
    """Run `vila2` with these words in `count` processes that train `out` together, and wait for them.

    Returns the document that the first one printed with `is_json`. Raises what the process that failed first
    has raised, and Interrupted when a signal stopped all of them before `out` was there; a defect is printed,
    and raises SystemExit.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    is_new = not os.path.lexists(out)
    os.environ[STARTED_BY] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // count)))  # the cores are shared
    with tempfile.TemporaryDirectory(prefix="vila2-training-") as folder, _quietly():
        logs = DefaultLogsSpecs(folder, redirects={0: Std.OUT} if is_json else Std.NONE)
        command = ("-P", "-m", "vila2cli", *words)
        try:
            elastic_launch(_config(count, logs), sys.executable)(*command)
        except SignalException as stop:
            files = sorted(Path(folder).glob("*/attempt_*/*/error.json"))
            _raise_first({int(path.parent.name): left_error(json.loads(path.read_text())) for path in files})
            name = signal.Signals(stop.sigval).name
            if not is_new or not os.path.lexists(out):  # else it came behind the last step
                raise Interrupted(f"stopped by {name}; run the same command again to go on") from None
        except ChildFailedError as error:
            _raise_cause(error.failures, count)
        return _document(Path(folder)) if is_json else None


def _config(count: int, logs: Any) -> Any:
    """One node, a free port, no restarts: a training goes on by itself when it is started again."""
    from torch.distributed.launcher.api import LaunchConfig

    known = {field.name for field in dataclasses.fields(LaunchConfig)}  # torch 2.9 has fewer
    patient: dict[str, Any] = {"signals_to_handle": ",".join(_SIGNALS), "shutdown_timeout": _SAVING_S}
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        logs_specs=logs,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        **{name: value for name, value in patient.items() if name in known},
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the launcher logs of a failure, which is said once in words; handlers are put back."""
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in _SIGNALS}
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)


def _raise_cause(failures: Mapping[int, Any], count: int) -> NoReturn:
    """Raise what ended the training: of its own accord, else by a signal, else for another's sake."""
    left = {rank: left_error(failure.error_file_data) for rank, failure in failures.items()}
    _raise_first({rank: one for rank, one in left.items() if one[1] not in _CONSEQUENCES})
    ended = {rank: failure for rank, failure in failures.items() if not any(left[rank])}
    if ended:
        rank = min(ended, key=lambda rank: ended[rank].timestamp)
        code = ended[rank].exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        why = ", as Linux does where memory runs out" if code == -signal.SIGKILL else ""
        raise RankError(
            f"process {rank} of {count} {how}{why}; run the same command again to go on from the last "
            "checkpoint"
        )
    _raise_first(left)
    raise AssertionError("a failure has a cause")


def _raise_first(left: Mapping[int, tuple[str, str, str]]) -> None:
    """Raise the first error that was left, if any was; a defect's traceback is printed."""
    found = [one for _, one in sorted(left.items()) if any(one)]
    for message, kind, trace in sorted(found, key=lambda one: one[1] in _CONSEQUENCES):
        if trace:
            sys.stderr.write(trace)
            raise SystemExit(1)
        raise getattr(errors, kind, Vila2Error)(message)


def _document(folder: Path) -> Any:
    text = "".join(path.read_text() for path in sorted(folder.glob("*/attempt_*/0/stdout.log")))
    return json.loads(text) if text.strip() else None
