"""Every benchmark by its quick form; ends with 1 at the first that is broken.

    python benchmarks/smoke.py                 all of them, in about three minutes on two cores
    python benchmarks/smoke.py recaption lora  these

A benchmark is a script beside this one that takes --quick. Two run at a time, as their figures say nothing;
what they print is shown of a broken one only. Rows that need vLLM are left out where it is not installed.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

FOLDER = Path(__file__).parent
PARTS = ("running", "smoke", "auc", "repeats", "recaption_model", "recaption_rows")
"""Scripts that are parts of others."""
FIRST = ("recaption", "specialists", "findings_vila")
"""The longest, which go first so that none is left over at the end."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def run(name: str, timeout_s: float) -> tuple[str, str]:
    """Run one; what to say of it, and all that it printed if it is broken."""
    start = time.monotonic()
    words = [sys.executable, str(FOLDER / f"{name}.py"), "--quick"]
    done = subprocess.run(
        ["timeout", str(timeout_s), *words],
        env=ENVIRONMENT | os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"{name}: broken, exit code {done.returncode}: {' '.join(words)}", done.stdout
    notes = [f"; {line}" for line in done.stdout.splitlines() if "is not installed" in line]
    return f"{name}: {time.monotonic() - start:.0f} s{''.join(notes)}", ""


def main() -> int:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in PARTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="run so many at a time")
    parser.add_argument("--timeout-s", type=int, default=900, help="the most seconds for one")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    names = options.names or sorted(known, key=lambda name: name not in FIRST)
    with ThreadPoolExecutor(options.jobs) as pool:
        for future in as_completed([pool.submit(run, name, options.timeout_s) for name in names]):
            line, output = future.result()
            print(f"{output[-20_000:]}\n{line}" if output else line, flush=True)
            if "broken, exit code" in line:
                pool.shutdown(wait=False, cancel_futures=True)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
