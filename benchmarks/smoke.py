"""Every benchmark by its quick form, but for those that tests run; ends with 1 at the first that is broken.

    python benchmarks/smoke.py                 all of them, in about three minutes on two cores
    python benchmarks/smoke.py recaption lora  these

A benchmark is a script beside this one that takes --quick. Two run at a time, as their figures say nothing;
what they print is shown of a broken one only. They are forks of one process, which imports torch once. Rows
that need vLLM are left out where it is not installed.
"""

import argparse
import atexit
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

FOLDER = Path(__file__).parent
PARTS = ("running", "smoke", "photos", "auc", "repeats", "recaption_model", "recaption_rows")
"""Scripts that are parts of others."""
TESTED = ("scale", "durability")
"""Those that tests run already, and that are run here by name alone."""
FIRST = ("recaption", "specialists", "findings_vila")
"""The longest, which go first so that none is left over at the end."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


class Running:
    """One of them, in a fork of this process, which has imported what takes them seconds."""

    def __init__(self, name: str, log: Path, timeout_s: float) -> None:
        self.name, self._log = name, log
        self._start_s, self._timeout_s = time.monotonic(), timeout_s
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _be(name, self._log)

    def ended(self) -> tuple[str, str] | None:
        """What to say of it, and all that it printed if it is broken; None while it runs."""
        seconds = time.monotonic() - self._start_s
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            if seconds > self._timeout_s:
                os.killpg(self._pid, signal.SIGKILL)
            return None
        printed = self._log.read_text()
        if code := os.waitstatus_to_exitcode(status):
            words = f"{sys.executable} {FOLDER / self.name}.py --quick"
            return f"{self.name}: broken, exit code {code}: {words}", printed
        notes = [f"; {line}" for line in printed.splitlines() if "is not installed" in line]
        return f"{self.name}: {seconds:.0f} s{''.join(notes)}", ""

    def end(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _be(name: str, log: Path) -> NoReturn:
    """Run it as `python NAME.py --quick` does, and end as it does."""
    os.setpgid(0, 0)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(printed, number)
    sys.argv = [str(FOLDER / f"{name}.py"), "--quick"]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  (as the interpreter would)
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def main() -> int:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in PARTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; all that no test runs")
    parser.add_argument("--jobs", type=int, default=2, help="run so many at a time")
    parser.add_argument("--timeout-s", type=int, default=900, help="the most seconds for one")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    names = list(options.names) or sorted({*known} - {*TESTED}, key=lambda name: (name not in FIRST, name))
    os.environ.update(ENVIRONMENT | os.environ)
    from vila2cli.cli.forking import warm_up

    warm_up()
    folder = Path(tempfile.mkdtemp(prefix="vila2-smoke-"))  # which a fork that ends must not take with it
    try:
        return run_all(names, folder, options.jobs, options.timeout_s)
    finally:
        shutil.rmtree(folder)


def run_all(waiting: list[str], folder: Path, jobs: int, timeout_s: float) -> int:
    """Run them, and say of each how it went; 1 at the first that is broken."""
    running: list[Running] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            running.append(Running(name, folder / name, timeout_s))
        time.sleep(0.1)
        for one in list(running):
            if (told := one.ended()) is None:
                continue
            running.remove(one)
            line, printed = told
            print(f"{printed[-20_000:]}\n{line}" if printed else line, flush=True)
            if "broken, exit code" in line:
                for other in running:
                    other.end()
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
