"""The console script as a process: what a signal does while it loads, and once it is through."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vila2cli.errors import Interrupted

WHILE_LOADING = """
import importlib.abc, os, sys
class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            exec("import signal; os.kill(os.getpid(), {number})")
sys.meta_path.insert(0, Stop())
"""
WHEN_THROUGH = "import atexit, os\natexit.register(lambda: os.kill(os.getpid(), {number}))\n"
RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["vila2", "--version"]
"""


def vila2(before: str, name: str) -> subprocess.CompletedProcess[str]:
    code = (
        RUN
        + before.format(number=f"signal.{name}", module="vila2cli.cli.app")
        + "from vila2cli.__main__ import run\nrun()\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_while_the_program_loads_is_one_line_and_75(name: str) -> None:
    done = vila2(WHILE_LOADING, name)
    assert done.returncode == Interrupted.exit_code
    assert done.stderr == f"vila2: stopped by {name}; run the same command again to go on\n"
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_what_a_library_makes_of_a_signal_is_no_defect(name: str) -> None:
    """As transformers does, where it is interrupted while it imports."""
    kill = 'exec("import signal; os.kill(os.getpid(), {number})")'
    assert kill in WHILE_LOADING
    turning = (
        f"try: {kill}\n            except Exception as error: raise ModuleNotFoundError('no part') from error"
    )
    done = vila2(WHILE_LOADING.replace(kill, turning), name)
    assert done.returncode == Interrupted.exit_code
    assert done.stderr == f"vila2: stopped by {name}; run the same command again to go on\n"


@pytest.mark.parametrize(
    ("module", "words"), [("vila2cli.cli.app", ["--version"]), ("vila2cli.stages.check", ["check", "world"])]
)
def test_ctrl_c_within_an_exec_ends_a_module_with_75(tmp_path: Path, module: str, words: list[str]) -> None:
    """As of a namedtuple that is being imported: CPython then means to kill itself with SIGINT in the end."""
    heeding = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # also under nohup
    loading = WHILE_LOADING.format(number="signal.SIGINT", module=module)
    (tmp_path / "sitecustomize.py").write_text(heeding + loading)
    command = [sys.executable, "-m", "vila2cli", *words]
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == Interrupted.exit_code
    assert done.stderr == "vila2: stopped by SIGINT; run the same command again to go on\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_after_the_command_has_ended_changes_nothing(name: str) -> None:
    done = vila2(WHEN_THROUGH, name)
    assert done.returncode == 0
    assert done.stdout.startswith("vila2 ")
    assert done.stderr == ""


def test_what_is_loaded_before_ctrl_c_is_heeded_takes_no_time() -> None:
    """A traceback of KeyboardInterrupt is what comes of Ctrl-C until then."""
    code = "import sys, vila2cli.__main__; print({'pydantic', 'typer', 'numpy', 'PIL'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
