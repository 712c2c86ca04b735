"""Does the cost of recaptioning grow with the number of images alone, and do workers share it evenly?

Of the embedded world's pictures `--sizes` many are recaptioned, each size by a process of its own:
  linear  CPU-seconds of each further image, from one size to the next, within 20% of each other; what a
          process takes to start is in none of them. Peak memory is told beside them.
  even    by 1, 2 and 4 workers, one after the other: the largest part of the images and of the CPU-seconds
          beside an equal part. The seconds are those above the smallest size's start.

    python benchmarks/scale.py --model runs/world/round0/sft
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import running
from durability import make_model
from running import machine, write_results

from vila2cli.shards import folder_stats

LARGEST_CHANGE = 0.2
LARGEST_SHARE = 1.1
SAMPLES_PER_SHARD = 250


def run(words: list[str]) -> dict[str, float]:
    """Run a command; its wall-clock and CPU seconds, and its peak memory in MB."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "vila2cli", *words])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"vila2 {' '.join(words)} ended with {process.returncode}")
    return {
        "seconds": round(time.monotonic() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def draw(folder: Path, size: int, per_shard: int) -> None:
    sets = [f"world.num_pretrain={size}", f"world.samples_per_shard={min(per_shard, size)}"]
    sets += [f"world.num_{name}=1" for name in ("sft", "specialist", "dev", "eval", "text", "interleaved")]
    run(["world", "--out", str(folder), *running.set_options(sets)])


def recaption(options: argparse.Namespace, data: Path, out: Path, worker: str) -> dict[str, float]:
    sets = ["recaption.engine=hf", "recaption.max_reject_rate=1.0", "recaption.retry_temperatures=[]"]
    words = ["recaption", "--model", str(options.model), "--shards", f"{data}/pretrain/*.tar"]
    words += ["--out", str(out), "--worker", worker]
    return run([*words, *running.set_options(sets)])


def marginal(rows: list[dict[str, float]]) -> list[float]:
    """CPU-seconds of each further 1,000 images, from one size to the next."""
    return [
        1000 * (big["cpu_seconds"] - small["cpu_seconds"]) / (big["images"] - small["images"])
        for small, big in pairwise(rows)
    ]


def split_evenly(
    options: argparse.Namespace, data: Path, work: Path, size: int, start_s: float
) -> list[dict[str, Any]]:
    rows = []
    for count in options.workers:
        out, parts = work / f"split{count}", []
        for index in range(count):
            before = folder_stats(out).num_out if out.is_dir() else 0
            figures = recaption(options, data, out, f"{index}/{count}")
            parts.append({**figures, "images": folder_stats(out).num_out - before})
        seconds = [part["cpu_seconds"] - start_s for part in parts]
        rows.append(
            {
                "workers": count,
                "images": [part["images"] for part in parts],
                "cpu_seconds": [part["cpu_seconds"] for part in parts],
                "largest_share_of_images": max(part["images"] for part in parts) * count / size,
                "largest_share_of_seconds": max(seconds) * count / sum(seconds),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = running.parser_of(__doc__, "scale")
    parser.add_argument("--model", type=Path, required=not running.is_quick())
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--split-size", type=int, default=4000, help="images that the workers share")
    parser.add_argument("--samples-per-shard", type=int, default=SAMPLES_PER_SHARD)
    options = running.parse(parser, sizes=[2, 4], workers=[2], split_size=4, samples_per_shard=1)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        if options.model is None:
            make_model(options.work)
            options.model = options.work
        for size in sorted({*options.sizes, options.split_size}):
            draw(work / f"data{size}", size, options.samples_per_shard)
        for size in sorted(options.sizes):
            figures = recaption(options, work / f"data{size}", work / f"layer{size}", "0/1")
            rows.append({"images": size, **figures})
            print(rows[-1], flush=True)
        steps = marginal(rows)
        start_s = max(0.0, rows[0]["cpu_seconds"] - steps[0] * rows[0]["images"] / 1000)
        split = split_evenly(options, work / f"data{options.split_size}", work, options.split_size, start_s)
    # A handful of images more may take no more time than can be measured.
    change = max(steps) / min(steps) - 1 if min(steps) > 0 else None
    result = {
        "machine": machine(),
        "sizes": rows,
        "cpu_seconds_per_further_1k_images": steps,
        "largest_change": change,
        "start_cpu_seconds": start_s,
        "workers": split,
    }
    write_results(options.out, result)
    print(f"CPU-seconds per further 1,000 images: {steps}; start: {start_s:.1f} s")
    uneven = [row for row in split if row["largest_share_of_images"] > LARGEST_SHARE]
    if not options.quick:
        sys.exit(
            "not as promised, see the figures" if change is None or change > LARGEST_CHANGE or uneven else 0
        )


if __name__ == "__main__":
    main()
