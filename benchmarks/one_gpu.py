"""One GPU in under ten minutes: recaptioning tar to tar, and packed training with its MFU, of an 8B model.

The model has random weights (SigLIP-so400m and Llama-3-8B sizes, bfloat16), which are made on the GPU. In turn
  recaption   `vila2 recaption` with vLLM from tars to a layer, beside vLLM's `generate` alone (recaption.py)
  training    packed steps of projector and LLM, the first of them not counted (train.py --large)
and each has a share of --minutes, after which it is ended: what was measured by then is written all the same.
Prepare the environment first (vLLM, flash-attn); nothing is downloaded here.

    python benchmarks/one_gpu.py

No figures of it are committed yet: without a GPU only its --quick form has been run, which shows that it runs.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import running
from running import FLAG, REPO, is_quick, write_results

HERE = Path(__file__).parent
SHARE = {"recaption": 0.6, "training": 0.95}
"""By which part of the time each has to be done."""


def commands(work: Path, out: Path) -> dict[str, list[str]]:
    """The scripts to run, by what they measure; each writes OUT/NAME.json and makes its model in `work`."""
    engine = running.engines("hf", "vllm")[-1]
    rows = [f"raw-{engine}", f"vila2-{engine}"]
    recaption = ["recaption.py", "--rows", *rows, "--repeats", "1"]
    training = ["train.py", "--large"]
    if is_quick():
        recaption += ["--size", "tiny", FLAG]
        training += ["--size", "tiny", "--steps", "1", "--batch-size", "4", FLAG]
    else:
        recaption += ["--size", "8b", "--new-tokens", "128", "--batch-size", "512"]
        recaption += ["--num-images", "2048", "--num-shards", "8", "--terabytes-per-s", "4.3"]
        training += ["--size", "8b", "--steps", "6", "--gradient-checkpointing"]
    found = {"recaption": recaption, "training": training}
    return {
        name: [sys.executable, str(HERE / words[0]), *words[1:], *_folders(name, work, out)]
        for name, words in found.items()
    }


def _folders(name: str, work: Path, out: Path) -> list[str]:
    return ["--work", str(work / name), "--out", str(out / f"{name}.json")]


def run(command: list[str], log: Path, end_s: float) -> dict[str, Any]:
    """Run one until its time is over; how it ended, and its seconds."""
    start_s = time.monotonic()
    with log.open("wb") as stream:
        try:
            code = subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, timeout=max(1.0, end_s - start_s), check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    return {"exit_code": code, "seconds": round(time.monotonic() - start_s, 1)}


def main() -> int:
    parser = running.parser_of(__doc__, "one_gpu")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything together")
    parser.add_argument("--work", type=Path, default=REPO / "runs" / "benchmark-one-gpu")
    options = running.parse(parser, minutes=60.0)  # beside others, on whatever they leave
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": running.machine()}
    start_s, broken = time.monotonic(), []
    for name, command in commands(options.work, options.work).items():
        log, found = options.work / f"{name}.log", options.work / f"{name}.json"
        ended = run(command, log, start_s + 60 * options.minutes * SHARE[name])
        measured = json.loads(found.read_text()) if found.is_file() else None
        results[name] = {**ended, "found": measured}
        write_results(options.out, results, options.work)  # whatever comes after may take too long
        print(f"{name}: {ended}", flush=True)
        if measured is None:
            broken.append(name)
            print(log.read_text(errors="replace")[-5000:], flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
